#!/usr/bin/env bash
# Test mmrest on a GPU: attention backends, speed beside other networks, and the main job under
# --amp. Needs the datasets of DATA, in COCO's and ADE20K's layout. Parts can be named:
#   PYTHON=python3 DATA=../shared/data OUT=work_dirs/gpu tests/gpu.sh [backends] [speed] [runs]
# shellcheck disable=SC2086  # options are split into words
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python} data=${DATA:-../shared/data} out=${OUT:-work_dirs/gpu}
amp=${AMP---amp} # AMP= tries the runs on a CPU

backends() {
    "$python" -m mmrest.check_env --gpu
}

speed() {
    local inputs
    for inputs in '--batch 64 --sizes 224x224' '--batch 2 --sizes 800x1344'; do
        for step in '' --train; do
            "$python" tools/benchmark.py networks rest_small rmt_s swin_t resnet_50 \
                --device cuda --dtype bfloat16 --memory $inputs $step --work-dir "$out/speed"
        done
    done
}

# Train, evaluate, resume with a longer schedule, and train in a process group.
#   run CONFIG DATA_ROOT UNIT FIRST SECOND [KEY=VALUE ...]
run() {
    local config=configs/$1.py root=$data/$2 unit=$3 first=$4 second=$5 dir=$out/$1
    shift 5
    local few=(train_dataloader.dataset.indices=4 val_dataloader.dataset.indices=2
        test_dataloader.dataset.indices=2 "$@")
    rm -rf "$dir"
    "$python" tools/train.py "$config" $amp --data-root "$root" --work-dir "$dir" \
        --cfg-options "${few[@]}" "train_cfg.max_$unit=$first"
    local checkpoint
    checkpoint=$(cat "$dir/last_checkpoint")
    "$python" tools/test.py "$config" "$checkpoint" --data-root "$root" --work-dir "$dir/test" \
        --cfg-options "${few[@]}"
    "$python" tools/train.py "$config" $amp --data-root "$root" --work-dir "$dir" --resume \
        --cfg-options "${few[@]}" "train_cfg.max_$unit=$second"
    "$python" -m torch.distributed.run --nproc_per_node 1 tools/train.py "$config" $amp \
        --launcher pytorch --data-root "$root" --work-dir "$dir/group" \
        --cfg-options "${few[@]}" "train_cfg.max_$unit=$first"
}

runs() {
    run maskrcnn_rmt_s_3x coco epochs 1 2
    run semfpn_rest_small_80k ade/ADEChallengeData2016 iters 4 6 \
        train_cfg.val_interval=2 default_hooks.checkpoint.interval=2
}

for part in "${@:-backends speed runs}"; do
    for name in $part; do
        echo "== $name"
        SECONDS=0
        "$name"
        echo "== $name passed in $SECONDS s"
    done
done

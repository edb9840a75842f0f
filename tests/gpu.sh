#!/usr/bin/env bash
# Test mmrest on a GPU: attention backends, speed beside other networks and of detectors, and the
# main job under --amp. Needs the datasets of DATA, in COCO's and ADE20K's layout. Parts can be named:
#   PYTHON=python3 DATA=../shared/data OUT=work_dirs/gpu tests/gpu.sh [backends] [speed] [detectors] [runs]
# shellcheck disable=SC2086  # options are split into words
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
python=${PYTHON:-.venv/bin/python} data=${DATA:-../shared/data} out=${OUT:-work_dirs/gpu}
amp=${AMP---amp} # AMP= tries the runs on a CPU
scale=${SCALE:-1344, 800} epochs=${EPOCHS:-4} # of the detectors

backends() {
    "$python" -m mmrest.check_env --gpu
}

speed() {
    local inputs
    for inputs in '--batch 64 --sizes 224x224' '--batch 2 --sizes 800x1344'; do
        for step in '' --train; do
            "$python" tools/benchmark.py networks rest_small rmt_s swin_t resnet_50 \
                --device cuda --dtype bfloat16 --memory $inputs $step --work-dir "$out/speed/${inputs##* }$step"
        done
    done
}

# Train, evaluate, resume with a longer schedule, and train in a process group with recomputation.
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
        --cfg-options "${few[@]}" "train_cfg.max_$unit=$first" model.backbone.with_cp=True
}

# Train Mask R-CNN on pairs of images of one size; the last line has images/s and peak memory.
#   detector NAME BACKBONE CHANNELS
detector() {
    local dir=$out/detectors config=$out/detectors/$1.py
    echo "$1"
    mkdir -p "$dir"
    cat >"$config" <<EOF
_base_ = '$PWD/configs/maskrcnn_rmt_s_1x.py'
model = dict(backbone=dict(_delete_=True, $2), neck=dict(in_channels=$3))
train_dataloader = dict(
    batch_size=2,
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            dict(type='Resize', scale=($scale), keep_ratio=False),
            dict(type='PackDetInputs'),
        ]
    ),
)
train_cfg = dict(max_epochs=$epochs, val_begin=$epochs + 1)
default_hooks = dict(checkpoint=dict(interval=$epochs + 1, save_last=False))
EOF
    "$python" tools/train.py "$config" $amp --data-root "$data/coco" --work-dir "$dir/$1" \
        --skip-preflight | grep 'Epoch(train)' | tail -n 1
}

detectors() {
    detector rmt_s "type='RMT', arch='s'" '[64, 128, 256, 512]'
    detector rest_small "type='ResT', arch='small'" '[64, 128, 256, 512]'
    detector swin_t "type='SwinTransformer', depths=(2, 2, 6, 2)" '[96, 192, 384, 768]'
    detector resnet_50 "type='ResNet', depth=50" '[256, 512, 1024, 2048]'
}

runs() {
    run maskrcnn_rmt_s_3x coco epochs 1 2
    run semfpn_rest_small_80k ade/ADEChallengeData2016 iters 4 6 \
        train_cfg.val_interval=2 default_hooks.checkpoint.interval=2
}

if [[ $# == 1 && $1 != *' '* ]]; then
    "$1"
    exit
fi
status=0
for part in ${@:-backends speed detectors runs}; do # if one fails, the others still run
    echo "== $part"
    SECONDS=0
    result=passed
    tests/gpu.sh "$part" || result=failed status=1
    echo "== $part $result after $SECONDS s"
done
exit $status

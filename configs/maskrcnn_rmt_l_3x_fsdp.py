# maskrcnn_rmt_l_3x.py for GPUs that cannot hold the full optimizer state, see docs/train.md.
_base_ = ['./maskrcnn_rmt_l_3x.py', './_base_/runtimes/fsdp.py']

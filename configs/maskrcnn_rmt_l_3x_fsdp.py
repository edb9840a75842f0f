# maskrcnn_rmt_l_3x.py for GPUs whose memory the whole optimizer would not fit in, see
# docs/train.md.
_base_ = ['./maskrcnn_rmt_l_3x.py', './_base_/runtimes/fsdp.py']

# Runtime of semantic segmentors; the default hooks are in the schedule.
_base_ = 'mmseg::_base_/default_runtime.py'

custom_hooks = [dict(type='InvalidLossHook')]

# What a run of a semantic segmentor does besides training; its default hooks are in the schedule.
_base_ = 'mmseg::_base_/default_runtime.py'

custom_hooks = [dict(type='InvalidLossHook')]

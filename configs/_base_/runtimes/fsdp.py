# Shards parameters, gradients and optimizer state over the ranks with torch's FSDP: each block of
# the backbone is a unit, the rest of the model another one. List it in a config's _base_.
# Checkpoints are unsharded: rank 0 writes them, and runs with and without FSDP resume from them.
runner_type = 'FlexibleRunner'
strategy = dict(
    type='UnshardedFSDPStrategy',
    model_wrapper=dict(auto_wrap_policy=dict(type='wrap_blocks')),
    state_dict_cfg='full',
)

"""InvalidLossHook stops a diverging run before it saves a checkpoint."""

import pytest

from mmrest.errors import UsageError
from tests.engine.test_display import shown


@pytest.mark.parametrize('by_epoch', [True, False])
@pytest.mark.parametrize('bad, interval', [('nan', 50), ('inf', 1)])
def test_a_run_that_diverges(tmp_path, monkeypatch, by_epoch, bad, interval):
    """The third loss is invalid; the fourth, before a checkpoint, is valid again."""
    runner = shown(tmp_path, [1.0] * 3, epochs=3, by_epoch=by_epoch)
    runner.register_custom_hooks([dict(type='InvalidLossHook', interval=interval)])
    forward = type(runner.model).forward
    calls = []

    def diverging(self, *args, mode='loss', **kwargs):
        outputs = forward(self, *args, mode=mode, **kwargs)
        if mode == 'loss':
            calls.append(0)
            return dict(loss=outputs['loss'] + float(bad)) if len(calls) == 3 else outputs
        return outputs

    monkeypatch.setattr(type(runner.model), 'forward', diverging)
    with pytest.raises(UsageError, match=rf'the loss is {bad} after iteration 3; resume from'):
        runner.train()
    saved = {path.name for path in tmp_path.glob('*.pth')}
    assert saved == ({'epoch_1.pth'} if by_epoch else {'iter_2.pth'})

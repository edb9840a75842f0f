"""InvalidLossHook ends a run that diverges, before its checkpoint is written."""

import pytest

from mmrest.engine.errors import UsageError
from tests.engine.test_display import make_runner


@pytest.mark.parametrize('bad', ['nan', 'inf'])
@pytest.mark.parametrize('interval', [1, 50])
def test_a_run_that_diverges(tmp_path, monkeypatch, bad, interval):
    runner = make_runner(tmp_path, [1.0] * 3, epochs=3)
    runner.register_custom_hooks([dict(type='InvalidLossHook', interval=interval)])
    forward = type(runner.model).forward
    calls = []

    def diverging(self, inputs, data_samples=None, mode='loss'):
        outputs = forward(self, inputs, data_samples, mode)
        if mode == 'loss':
            calls.append(0)
            return dict(loss=outputs['loss'] + float(bad)) if len(calls) >= 4 else outputs
        return outputs

    monkeypatch.setattr(type(runner.model), 'forward', diverging)
    with pytest.raises(UsageError, match=rf'the loss is {bad} after iteration 4; go on from'):
        runner.train()
    assert (tmp_path / 'epoch_1.pth').is_file() and not (tmp_path / 'epoch_2.pth').is_file()

"""Products as convolutions, and where torch would take oneDNN for them."""

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import profile

from mmrest.ops.onednn import SMALL, product, suits_onednn

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason='this torch has no oneDNN'
)


@pytest.mark.parametrize('shape', [(7, 5), (2, 3, 4, 5), (1, 5)], ids=str)
def test_product(shape):
    x, weight, bias = torch.randn(shape), torch.randn(3, 5), torch.randn(3)
    torch.testing.assert_close(product(x, weight), F.linear(x, weight))
    torch.testing.assert_close(
        product(x, weight.t().contiguous().t(), bias), F.linear(x, weight, bias)
    )


@pytest.mark.parametrize('tokens', [SMALL // 64, SMALL // 64 + 1])
def test_size_from_which_torch_takes_it(tokens, two_threads):
    x = torch.randn(tokens, 64)
    with profile() as profiled:
        product(x, torch.randn(64, 64))
    calls = {event.key for event in profiled.key_averages()}
    assert ('aten::mkldnn_convolution' in calls) == suits_onednn(x.numel()) == (tokens > 320)


def test_a_single_thread_and_a_switch(two_threads, monkeypatch):
    assert suits_onednn(SMALL + 1)
    with monkeypatch.context() as patch:
        patch.setattr(torch.backends.mkldnn, 'enabled', False)
        assert not suits_onednn(SMALL + 1)
    torch.set_num_threads(1)
    assert not suits_onednn(SMALL + 1)

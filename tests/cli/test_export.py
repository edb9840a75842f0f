"""tools/export_onnx.py: files that onnxruntime runs at any size."""

import numpy as np
import pytest
import torch

from mmrest.analysis.networks import build_network, network_config
from tests.cli.test_demo import SMALL as DEMOS
from tests.models.networks import randomised
from tests.runs import ROOT, run
from tests.torch_versions import needs_onnx

TOOL = ROOT / 'tools' / 'export_onnx.py'

# RMT, which magnifies no rounding errors.
SMALL = DEMOS['demo_upernet_rmt_t.py']


@needs_onnx
def test_backbone(tmp_path, session):
    """Backbone of a config: compared by the command, and run at another size."""
    (tmp_path / 'tiny.py').write_text(SMALL)
    done = run(
        TOOL, 'tiny.py', '--backbone-only', '--shape', '17', '96', '--out', 'new/x.onnx',
        '--cfg-options', 'model.backbone.out_indices="[0]"', cwd=tmp_path,
    )  # fmt: skip
    assert 'at 2 x 3 x 17 x 96 onnxruntime differs' in done.stdout
    assert 'at 1 x 3 x 13 x 121 onnxruntime differs' in done.stdout
    assert [path.name for path in (tmp_path / 'new').iterdir()] == ['x.onnx']
    given = {'images': np.zeros((3, 3, 37, 70), np.float32)}
    (found,) = session(tmp_path / 'new' / 'x.onnx').run(['stage1'], given)
    assert found.shape == (3, 8, 10, 18)


@pytest.mark.slow
def test_segmentor(tmp_path, session):
    """Export with the weights of a checkpoint, and compare several sizes and batches."""
    (tmp_path / 'tiny.py').write_text(SMALL)
    network = randomised(build_network(network_config(str(tmp_path / 'tiny.py'))))
    torch.save(network.state_dict(), tmp_path / 'x.pth')
    run(TOOL, 'tiny.py', 'x.pth', '--out', 'x.onnx', '--shape', '64', '96', cwd=tmp_path)
    exported, images = session(tmp_path / 'x.onnx'), torch.randn(3, 3, 37, 70)
    (found,) = exported.run(['logits'], {'images': images.numpy()})
    with torch.no_grad():
        maps = network.decode_head(network.extract_feat(images))
        expected = torch.nn.functional.interpolate(maps, (37, 70), mode='bilinear')
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * float(expected.std()))
    assert exported.get_modelmeta().custom_metadata_map['channel_order'] == 'RGB'


@pytest.mark.slow
def test_static_backbone(tmp_path, session):
    """Backbone of a config, at a fixed size."""
    (tmp_path / 'tiny.py').write_text(SMALL)
    done = run(
        TOOL, 'tiny.py', '--backbone-only', '--static', '--shape', '64', '--no-verify',
        '--out', 'x.onnx', cwd=tmp_path,
    )  # fmt: skip
    assert 'one image of 64 x 64 -> stage1, stage2, stage3, stage4' in done.stdout
    assert 'differs' not in done.stdout
    exported = session(tmp_path / 'x.onnx')
    assert exported.get_inputs()[0].shape == [1, 3, 64, 64]
    shapes = [output.shape for output in exported.get_outputs()]
    assert shapes == [[1, c, n, n] for c, n in zip((8, 16, 24, 32), (16, 8, 4, 2))]

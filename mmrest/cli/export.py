"""Export a backbone, segmentor or detector to ONNX and compare it in onnxruntime."""

import argparse
import logging

from ..analysis import networks
from ..engine.compat import load_from_guarded
from ..engine.weight_hooks import dataset_meta
from ..errors import UsageError
from ..export.comparison import export_checked
from ..export.onnx import PACKAGES, check_packages, exportable, facts, is_detector, output_names
from .command import Parser, add_cfg_options, add_network, at_least, not_negative, written_file

# Height and width, in pixels, at which a detector is compared; larger takes minutes more.
DETECTOR_SIZE = (320, 480)


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add_network(parser, '224; detectors: 320 480; segmentors: size of data_preprocessor, or 512')
    add('checkpoint', nargs='?', help='weights (default: random ones)')
    add('--out', type=written_file('.onnx'), required=True, metavar='FILE', help='output file')
    add('--static', action='store_true', help='fixed input shape: one image of this size')
    add('--backbone-only', action='store_true', help='drop neck and heads')
    add(
        '--preprocess', action='store_true',
        help='include normalisation; the input is then BGR images with values of 0 to 255',
    )  # fmt: skip
    add('--opset', type=at_least(18), default=18, help='ONNX opset version (default: 18)')
    add('--no-verify', dest='verify', action='store_false', help='do not compare with PyTorch')
    add(
        '--tolerance', type=not_negative, default=1e-3, metavar='X',
        help='largest accepted difference, in standard deviations (default: 0.001)',
    )  # fmt: skip
    add_cfg_options(parser, 'model.backbone.arch=b')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    check_packages(PACKAGES if args.verify else PACKAGES[:2])
    from onnx.defs import onnx_opset_version

    if args.opset > onnx_opset_version():
        raise UsageError(
            f'--opset: {args.opset} is not supported by the installed onnx (18 to '
            f'{onnx_opset_version()})'
        )
    cfg = networks.network_config(args.network, args.cfg_options)
    part_cfg = networks.backbone_config(cfg) if args.backbone_only else cfg
    exportable(networks.on_meta(part_cfg), args.network)  # before weights are read
    network = exportable(networks.build_network(part_cfg, args.checkpoint), args.network)
    size = args.shape or (DETECTOR_SIZE if is_detector(network) else networks.usual_size(part_cfg))
    height, width = size
    shapes = [(1 if args.static else 2, height, width)]
    if not args.static:  # another size, which is odd
        shapes.append((1, height * 3 // 4 | 1, width * 5 // 4 | 1))
    logging.getLogger('torch.onnx').setLevel(logging.ERROR)  # it warns of unused ops
    trained = None
    if not networks.is_backbone(part_cfg):
        trained = dataset_meta(load_from_guarded(args.checkpoint)) if args.checkpoint else {}
    metadata = facts(cfg, args.network, args.preprocess, trained)
    print('exporting; this may take several minutes', flush=True)
    differences = export_checked(
        network, args.out, shapes if args.verify else [], args.tolerance,
        normalisation=networks.preprocessing(cfg), preprocess=args.preprocess, size=size,
        static=args.static, opset=args.opset, metadata=metadata,
    )  # fmt: skip
    for shape, difference in differences.items():
        at = ' x '.join(map(str, (shape[0], 3, *shape[1:])))
        print(
            f'at {at} onnxruntime differs from PyTorch by at most {difference.onnx:.1e} standard '
            f'deviations, float32 from float64 by {difference.rounding:.1e}'
        )
        agreed = difference.agreement
        if agreed is not None:
            print(
                f'  {agreed.detections} detections above a score of 0.05, {agreed.unmatched} '
                f'unmatched; scores differ by at most {agreed.score:.1e}, boxes by '
                f'{agreed.box:.1e} pixels; lowest IoU of masks, if any: {agreed.mask:.4f}'
            )
    takes = f'one image of {height} x {width}' if args.static else 'images of any number and size'
    outputs = ', '.join(output_names(network))
    megabytes = args.out.stat().st_size / 1e6
    print(f'{args.out} ({megabytes:.1f} MB): {takes} -> {outputs}; opset {args.opset}')

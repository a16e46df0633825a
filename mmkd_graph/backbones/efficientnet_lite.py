"""EfficientNet-Lite: EfficientNet for devices that run ReLU6 and no squeeze-and-excitation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.backbones.efficientnet import EfficientNet, model_scaling
from torch import Tensor

from mmkd_graph.registry import MODELS


def without_attention(stages: Sequence) -> list[list[list[int]]]:
    """Stages in mmdet's notation, ``layer_settings``, with no squeeze-and-excitation in their blocks."""
    return [
        [[size, width, 0, stride, ratio, kind] for size, width, _, stride, ratio, kind in stage] for stage in stages
    ]


@MODELS.register_module()
class EfficientNetLite(EfficientNet):
    """EfficientNet-Lite 0 or 2, as mmdet's ``EfficientNet`` with other settings.

    https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite: B0 and B2 without
    squeeze-and-excitation, with ReLU6 in the place of Swish; the stem and the head are not scaled, the first stage and
    the last are not repeated. Padding is TensorFlow's ``SAME`` and the batch norms have an ε of 1e-3.

    ``tools/convert_efficientnet_lite.py`` makes ImageNet weights for it. They want RGB images, (x - 127) / 128.

    Args:
        arch: ``'lite0'`` or ``'lite2'``.
        out_indices: stages that are returned, 0 (the stem) to 6 (the 1280 channels before the classifier); what comes
            after the last of them is not built. Stages 3, 4 and 5 have strides of 8, 16 and 32 pixels and 40, 112 and
            320 channels (lite2: 48, 120 and 352).
        depths: how many blocks the stages 1 to 5 keep, from their first on, so that weights of the whole network fit;
            from (1, 1, 1, 4, 1) to (1, 2, 2, 6, 5) (lite2: (1, 1, 1, 5, 1) to (1, 3, 3, 8, 6)). ``None``: all. Without
            its last block stage 5 has 192 channels (lite2: 208).
        act_cfg: activation.
        **kwargs: of mmdet's ``EfficientNet``, such as ``norm_cfg``, ``norm_eval`` and ``frozen_stages``
            (how many stages, the stem among them, do not learn).

    Raises:
        ValueError: for an unknown ``arch``, or ``depths`` that the stages do not have; names the key.

    Example:
        >>> import torch
        >>> backbone = EfficientNetLite(depths=(1, 2, 2, 4, 2))
        >>> [tuple(x.shape) for x in backbone(torch.zeros(1, 3, 64, 96))]
        [(1, 40, 8, 12), (1, 112, 4, 6), (1, 192, 2, 3)]
    """

    SCALINGS = {'lite0': (1.0, 1.0), 'lite2': (1.1, 1.2)}
    """Of width and depth."""

    def __init__(
        self,
        arch: str = 'lite0',
        out_indices: Sequence[int] = (3, 4, 5),
        depths: Sequence[int] | None = None,
        act_cfg: dict = dict(type='ReLU6'),  # noqa: B006
        **kwargs: Any,
    ) -> None:
        if arch not in self.SCALINGS:
            raise ValueError(f'backbone.arch={arch!r} is unknown; accepted: {", ".join(map(repr, self.SCALINGS))}')
        unscaled = without_attention(EfficientNet.layer_settings['b'])
        first, *scaled, last = model_scaling(unscaled, self.SCALINGS[arch])[1:-1]
        whole = [first[:1], *scaled, self._ending_once(last)]
        most = tuple(len(stage) for stage in whole)
        # The next stage takes the width that a stage ends with.
        least = (*(1 + [block[1] for block in stage].index(stage[-1][1]) for stage in whole[:-1]), 1)
        depths = most if depths is None else tuple(depths)
        if len(depths) != len(most) or not all(a <= b <= c for a, b, c in zip(least, depths, most, strict=True)):
            raise ValueError(f'backbone.depths={depths}; accepted: numbers of blocks from {least} to {most}')
        stages = [unscaled[0], *(stage[:depth] for stage, depth in zip(whole, depths, strict=True)), unscaled[-1]]
        # mmdet's class scales what it reads here. Stem and head would be scaled too: so it gets the result.
        self.arch_settings, self.layer_settings = {arch: (1.0, 1.0)}, {arch[:1]: stages}
        super().__init__(arch=arch, out_indices=out_indices, act_cfg=act_cfg, **kwargs)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of the stages ``out_indices``, each (N, C, H / stride, W / stride).

        Args:
            x: images, (N, 3, H, W). On a CPU they are laid out with their channels last, and all that follows with
                them: depthwise convolutions take a quarter off a training step so.
        """
        return super().forward(x.contiguous(memory_format=torch.channels_last) if x.device.type == 'cpu' else x)

    def train(self, mode: bool = True) -> EfficientNetLite:
        """As any module's: mmdet's returns nothing."""
        super().train(mode)
        return self

    @staticmethod
    def _ending_once(stage: list[list[int]]) -> list[list[int]]:
        """A stage with one block of the width that it ends with."""
        width = stage[-1][1]
        return [block for block in stage if block[1] != width] + stage[-1:]

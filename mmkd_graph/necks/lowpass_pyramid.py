"""Low-pass pyramids: the low frequencies of every level in one compact space."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.model import BaseModule, ModuleList
from torch import Tensor, nn

from mmkd_graph.graph import multi_scale_low_pass, unit_length
from mmkd_graph.graph.arguments import argument_error, check_integer
from mmkd_graph.graph.precision import no_autocast
from mmkd_graph.registry import MODELS


@MODELS.register_module()
class LowPassPyramid(BaseModule):
    """Average every level at several scales, project it to a few channels and bring every sample to unit norm.

    One projection per level, shared by its scales: a 1×1 convolution without bias, since all samples would share it.
    It starts orthogonal, so that at first the compact space keeps the geometry of the features as well as so few
    channels can. Everything runs in float32 under autocast.

    Args:
        in_channels: channels of every level.
        embed_channels: channels of the compact space.
        scales: sides of the windows in cells; 1 leaves a level as it is. A level smaller than a window becomes one
            cell: see :func:`~mmkd_graph.graph.low_pass`.

    Raises:
        ValueError: for a number outside what is accepted; names the key.

    Source: LFCC, arXiv 2405.18524.

    Example:
        >>> import torch
        >>> pyramid = LowPassPyramid([8, 16], embed_channels=4, scales=(1, 4))
        >>> [[tuple(x.shape) for x in level] for level in pyramid((torch.rand(2, 8, 8, 8), torch.rand(2, 16, 4, 4)))]
        [[(2, 4, 8, 8), (2, 4, 2, 2)], [(2, 4, 4, 4), (2, 4, 1, 1)]]
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        embed_channels: int = 128,
        scales: Sequence[int] = (1, 2, 4, 8),
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_integer('embed_channels', embed_channels, 1)
        check_scales(scales)
        self.scales = tuple(scales)
        self.projections = ModuleList(nn.Conv2d(c, embed_channels, 1, bias=False) for c in in_channels)
        for convolution in self.projections:
            nn.init.orthogonal_(convolution.weight)

    def forward(self, pyramid: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], ...]:
        """Embed levels of shape (N, C_l, H_l, W_l).

        Returns:
            For every level one map of shape (N, embed_channels, ceil(H_l / s), ceil(W_l / s)) per scale s, float32.
            Every sample's map has norm 1 over channels and cells together, so that inner products weigh a place by
            how strong the features are there; a sample that is 0 everywhere stays 0 and passes no gradient.
        """
        return tuple(tuple(map(unit_length, maps)) for maps in self.project(pyramid))

    def project(self, pyramid: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], ...]:
        """The maps of :meth:`forward` before they are brought to norm 1."""
        with no_autocast(pyramid[0]):
            return tuple(
                tuple(projection(x) for x in multi_scale_low_pass(level, self.scales))
                for level, projection in zip(pyramid, self.projections, strict=True)
            )


def check_scales(scales: Sequence[int]) -> None:
    """Raise ``ValueError`` unless ``scales`` are distinct integers >= 1."""
    if not isinstance(scales, Sequence) or isinstance(scales, str) or not scales:
        raise argument_error('scales', repr(scales), 'a list of at least one integer >= 1')
    for scale in scales:
        check_integer('scales', scale, 1)
    if len({*scales}) < len(scales):
        raise argument_error('scales', repr(scales), 'every scale once')

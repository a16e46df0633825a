"""Low-pass pyramids: the low frequencies of every level in one compact space."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.model import BaseModule, ModuleList
from torch import Tensor, nn

from mmkd_graph.graph import multi_scale_low_pass, unit_vertices
from mmkd_graph.graph.precision import no_autocast
from mmkd_graph.registry import MODELS

FILTERS = ('learned', 'average')
PROJECTIONS = ('learned', 'fixed')


@MODELS.register_module()
class LowPassPyramid(BaseModule):
    """Filter every level at several scales, project it to a few channels and bring every sample to unit norm.

    One projection per level, shared by its scales: a 1×1 convolution without bias, since a bias is an offset that all
    samples share and that tells none of them apart. It starts orthogonal, so that at first the compact space keeps the
    geometry of the features as well as so few channels can. A learned filter starts as the average over its window,
    and weight decay pulls it back there. Everything runs in float32 under autocast.

    Args:
        in_channels: channels of every level.
        embed_channels: channels of the compact space.
        scales: sides of the filters' windows in cells; 1 leaves a level as it is. A level smaller than a window
            becomes one cell: see :func:`~mmkd_graph.graph.low_pass`.
        filters: ``'learned'``, a depthwise kernel that is a softmax and so stays a low-pass whatever is learned; or
            ``'average'``, nothing to learn.
        projection: ``'learned'``, or ``'fixed'`` as it was initialised.

    Raises:
        ValueError: for a choice or number outside what is accepted; names the key.

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
        filters: str = 'learned',
        projection: str = 'learned',
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        for key, value, accepted in (('filters', filters, FILTERS), ('projection', projection, PROJECTIONS)):
            if value not in accepted:
                raise ValueError(f'{key}={value!r}; accepted: {", ".join(map(repr, accepted))}')
        if isinstance(embed_channels, bool) or not isinstance(embed_channels, int) or embed_channels < 1:
            raise ValueError(f'embed_channels={embed_channels!r}; accepted: an integer >= 1')
        check_scales(scales)
        self.scales = tuple(scales)
        learned = [s for s in scales if s > 1] if filters == 'learned' else []  # a window of one cell has one kernel
        self.logits = ModuleList(nn.ParameterDict({str(s): torch.zeros(c, s, s) for s in learned}) for c in in_channels)
        self.projections = ModuleList(nn.Conv2d(c, embed_channels, 1, bias=False) for c in in_channels)
        for convolution in self.projections:
            nn.init.orthogonal_(convolution.weight)
        if projection == 'fixed':
            self.projections.requires_grad_(False)

    def forward(self, pyramid: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], ...]:
        """Embed levels of shape (N, C_l, H_l, W_l).

        Returns:
            For every level one map of shape (N, embed_channels, ceil(H_l / s), ceil(W_l / s)) per scale s, float32.
            Every sample's map has norm 1 over channels and cells together, so that inner products weigh a place by
            how strong the features are there; a sample that is 0 everywhere stays 0 and passes no gradient.
        """
        return tuple(tuple(map(unit_samples, maps)) for maps in self.project(pyramid))

    def project(self, pyramid: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], ...]:
        """The maps of :meth:`forward` before they are brought to norm 1."""
        return tuple(self._project(*level) for level in zip(pyramid, self.logits, self.projections, strict=True))

    def _project(self, level: Tensor, logits: nn.ParameterDict, projection: nn.Conv2d) -> tuple[Tensor, ...]:
        with no_autocast(level):
            maps = multi_scale_low_pass(level, self.scales, {int(s): x for s, x in logits.items()})
            return tuple(projection(x) for x in maps)


def check_scales(scales: Sequence[int]) -> None:
    """Raise ``ValueError`` unless ``scales`` are distinct integers >= 1."""
    sound = isinstance(scales, Sequence) and not isinstance(scales, str) and scales
    if not sound or any(isinstance(s, bool) or not isinstance(s, int) or s < 1 for s in scales):
        raise ValueError(f'scales={scales!r}; accepted: integers >= 1, at least one')
    if len(set(scales)) < len(scales):
        raise ValueError(f'scales={scales!r}; accepted: every scale once')


def unit_samples(maps: Tensor) -> Tensor:
    """Bring every sample of (N, ...) to norm 1; a sample of zeros stays and passes no gradient."""
    # A sample is a graph of one vertex here: only one that is exactly 0 counts as dead.
    return unit_vertices(maps.flatten(1).unsqueeze(1)).view_as(maps)

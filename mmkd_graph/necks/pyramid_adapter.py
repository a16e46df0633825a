"""Channel adapters: the student's pyramid in the teacher's width."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.model import BaseModule, ModuleList
from torch import Tensor, nn

from mmkd_graph.registry import MODELS


@MODELS.register_module()
class PyramidAdapter(BaseModule):
    """A learned 1×1 convolution per level, only where one is needed.

    A convolution between equal widths starts as the identity, so that adding it changes nothing at first.

    Args:
        in_channels: student channels of every level.
        out_channels: teacher channels of every level.
        mode: ``'auto'`` adapts the levels whose widths differ, ``'always'`` adapts every level, ``'never'`` none.

    Raises:
        ValueError: for an unknown mode, or for ``'never'`` where widths differ.

    Example:
        >>> import torch
        >>> adapter = PyramidAdapter([8, 16], [16, 16])
        >>> [tuple(x.shape) for x in adapter((torch.rand(1, 8, 4, 4), torch.rand(1, 16, 2, 2)))]
        [(1, 16, 4, 4), (1, 16, 2, 2)]
        >>> len(list(adapter.parameters()))  # weight and bias of one convolution
        2
    """

    MODES = ('auto', 'always', 'never')

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: Sequence[int],
        mode: str = 'auto',
        init_cfg: dict | None = dict(type='Xavier', layer='Conv2d', distribution='uniform'),  # noqa: B006
    ) -> None:
        super().__init__(init_cfg)
        if mode not in self.MODES:
            raise ValueError(f'adapter={mode!r} is unknown; accepted: {", ".join(map(repr, self.MODES))}')
        widths = list(zip(in_channels, out_channels, strict=True))
        if mode == 'never' and any(i != o for i, o in widths):
            raise ValueError(
                "adapter='never', but the student's channels "
                f"{tuple(in_channels)} differ from the teacher's {tuple(out_channels)}; "
                "accepted: adapter='auto' (a learned 1×1 convolution where they differ), equal widths, or losses that "
                'all take any width'
            )
        self.levels = ModuleList(
            nn.Conv2d(i, o, 1) if mode == 'always' or (mode == 'auto' and i != o) else nn.Identity() for i, o in widths
        )

    def init_weights(self) -> None:
        super().init_weights()
        for conv in self.levels:
            if isinstance(conv, nn.Conv2d) and conv.in_channels == conv.out_channels:
                nn.init.dirac_(conv.weight)
                nn.init.zeros_(conv.bias)

    def forward(self, pyramid: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Adapt levels of shape (N, C_in, H, W) to (N, C_out, H, W)."""
        return tuple(level(x) for level, x in zip(self.levels, pyramid, strict=True))

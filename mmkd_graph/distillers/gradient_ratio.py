"""Weights of losses: a number, or one that is measured instead of guessed."""

from __future__ import annotations

import math
from statistics import median
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule

from mmkd_graph.graph.arguments import check_integer, check_number
from mmkd_graph.registry import MODELS


class LossWeight(BaseModule):
    """The weight of a loss: a number that is known.

    Args:
        value: the weight, >= 0.

    Attributes:
        factor: what the weight is multiplied by for the time being, such as by a schedule; not in checkpoints.
        measuring: whether the next training pass is to be measured.
    """

    measuring = False

    def __init__(self, value: float) -> None:
        super().__init__()
        self._value = value
        self.factor = 1.0

    @property
    def value(self) -> float | None:
        """The weight as it is known by now; ``None`` before a first measurement."""
        return self._value

    def extra_repr(self) -> str:
        return f'weight {self.value:g}'


@MODELS.register_module()
class GradientRatio(LossWeight):
    """``loss_weight=dict(type='mmkd_graph.GradientRatio', ratio=r)``: the loss's gradient is r times the task's.

    In the first ``iterations`` training passes that the loss takes part in, the gradient norms of the task losses and
    of the loss (all its terms together, at weight 1) are measured at the tapped student features, before any adapter,
    all paired levels together, all ranks together. Each pass gives a scale ``‖g_task‖ / ‖g_loss‖``. The weight is r
    times their median: fixed, logged, and stored in the checkpoint.

    While measuring, a pass is weighted by the smaller of its own scale and the median so far, so that its gradient is
    never more than r times the task's, however odd the pass. A pass in which one of the norms is zero or not finite
    gives no scale and takes the median so far, or 0 as long as there is none.

    The scale is stored without r: a resumed run whose config has another r takes it at once.

    Args:
        ratio: r, the wanted ratio of the gradient norms, > 0.
        iterations: how many training passes are measured. With gradient accumulation each forward pass is one.

    Raises:
        ValueError: for a number outside what is accepted; in training, when not one pass could be measured.

    Example:
        >>> weight = GradientRatio(ratio=0.5, iterations=50)
        >>> [weight.observe(task=2.0, loss=loss) for loss in (1.0, 0.25, 4.0)]
        [1.0, 2.5, 0.25]
        >>> weight.measuring, weight.value  # so far half the median of the scales 2, 8 and 0.5
        (True, 1.0)
    """

    def __init__(self, ratio: float, iterations: int = 50) -> None:
        super().__init__(math.nan)
        check_number('ratio', ratio, positive=True)
        check_integer('iterations', iterations, 1)
        self.ratio, self.iterations = ratio, iterations
        self.key = 'loss_weight'
        # NaN stands for "not known": an average of it (EMA of buffers) does not pass for a measurement.
        self.register_buffer('scale', torch.tensor(math.nan, dtype=torch.float64))
        self.register_buffer('scales', torch.full((iterations,), math.nan, dtype=torch.float64))
        self.register_buffer('passes', torch.tensor(0))
        # What training reads: buffers on a GPU would have to be waited for in every pass.
        self._scale: float | None = None
        self._scales: list[float] = []
        self._passes = 0

    def bind(self, name: str) -> None:
        """Tell the loss's key under ``losses``, for messages."""
        self.key = f'model.losses.{name}.loss_weight'

    @property
    def measuring(self) -> bool:
        """Whether the next training pass is to be measured."""
        return self._scale is None

    @property
    def value(self) -> float | None:
        """The weight as it is known by now; None before the first measurement."""
        if self._scale is not None:
            return self.ratio * self._scale
        return self.ratio * median(self._scales) if self._scales else None

    def extra_repr(self) -> str:
        return f'gradient ratio {self.ratio:g}'

    def observe(self, task: float, loss: float) -> float:
        """Take in the gradient norms of one pass, the same on every rank: the task losses' and the loss's at weight 1.

        Returns:
            The weight for this pass.

        Raises:
            ValueError: after the last pass, if none could be measured.
        """
        measured = 0 < task < math.inf and 0 < loss < math.inf
        if measured:
            self._scales.append(task / loss)
            self.scales[self._passes] = task / loss
        weight = self.value or 0.0
        if measured:
            weight = min(weight, self.ratio * task / loss)
        self._passes += 1
        self.passes.fill_(self._passes)
        if self._passes < self.iterations:
            return weight
        if not self._scales:
            raise ValueError(
                f'{self.key}: not one of {self.iterations} passes could be measured; in the last one the gradient at '
                f'the tapped features had norm {task:g} of the task losses and {loss:g} of this loss; accepted: a '
                'number, or GradientRatio where both are positive (a loss that needs boxes may need more iterations)'
            )
        self._scale = median(self._scales)
        self.scale.fill_(self._scale)
        ratios = [1 / scale for scale in self._scales]
        print_log(
            f'{self.key} = {self.value:.6g} from here on: in {len(ratios)} of {self.iterations} passes its gradient at '
            f'the tapped features was {1 / self._scale:.4g} (median; {min(ratios):.4g} to {max(ratios):.4g}) times '
            f'that of the task losses, wanted is {self.ratio:g}',
            logger='current',
        )
        return weight

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        scales = state_dict.get(f'{prefix}scales')
        if scales is not None and len(scales) != self.iterations:
            # The config's `iterations` was changed: go on with what was measured.
            fitted = torch.full_like(self.scales, math.nan)
            count = min(len(scales), self.iterations)
            fitted[:count] = scales[:count]
            state_dict[f'{prefix}scales'] = fitted
        super()._load_from_state_dict(state_dict, prefix, *args)
        scale = self.scale.item()
        self._scale = None if math.isnan(scale) else scale
        self._scales = [x for x in self.scales.tolist() if not math.isnan(x)]
        self._passes = min(int(self.passes), self.iterations - 1)
        if self._scale is not None:
            print_log(f'{self.key} = {self.value:.6g}, measured before this checkpoint was saved', logger='current')

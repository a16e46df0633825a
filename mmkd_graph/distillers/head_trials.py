"""What is assumed of a dense head, tried on small random features when the model is built.

A head is known by the class of mmdet's that it is derived from, and a derived class may do anything: give
probabilities, scale its boxes, use its towers otherwise. Nothing of that would be an error in training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from mmdet.models.dense_heads import PAAHead, TOODHead
from mmdet.structures.bbox import get_box_tensor
from mmengine.config import ConfigDict
from torch import Tensor, nn

from mmkd_graph.losses.base import Pyramid

from .dense_heads import CROSSED, SCORED, TOWERS, bins, crossed, decoded, described, listed, read, strides
from .taps import evaluated, on_first_device, recorded

SIZE = (64, 96)
"""Height and width in pixels of the image that the features could be of; unequal, to tell rows from columns."""
PIXELS = 0.01
"""How far two boxes may be apart that are to be the same."""


class HeadTrial:
    """A head, and the levels that it is tried on.

    Args:
        head: of the ``side``.
        side: student or teacher, for messages.
        found: strides of the levels that the head takes, measured.
        channels: of these levels.

    Raises:
        ValueError: if the head has other strides.
    """

    def __init__(self, head: nn.Module, side: str, found: Sequence[int], channels: Sequence[int]) -> None:
        self.head, self.side = head, side
        if tuple(found[: len(strides(head))]) != strides(head):
            raise ValueError(
                f"strides: {strides(head)} of the {side}'s {described(head)}, {tuple(found)} measured of the levels "
                'that it takes; accepted: the same'
            )
        shapes = [(c, *(max(size // s, 1) for size in SIZE)) for s, c in zip(found, channels, strict=True)]
        random = torch.Generator().manual_seed(0)
        self._levels = [torch.randn(1, *shape, generator=random) for shape in shapes]

    def run(self, function: Callable[[tuple[Tensor, ...]], Any], doing: str = '') -> Any:
        """``function`` of the levels with the head in eval mode, without gradient; ``doing`` says what, for messages.

        Raises:
            ValueError: if it fails; names the head.
        """
        try:
            with evaluated(self.head):
                return on_first_device(self.head, lambda device: function(tuple(x.to(device) for x in self._levels)))
        except Exception as error:  # a derived class may fail in any way
            raise ValueError(
                f"the {self.side}'s {described(self.head)} fails{doing}: {type(error).__name__}: {error}; "
                f"accepted: heads that are called as mmdet's {base(self.head).__name__} is, and made of the same parts"
            ) from error

    def try_scores(self) -> None:
        """Raise ``ValueError`` if the head fails, gives no logits (TOOD: no probabilities), or others in training."""
        head, side = self.head, self.side
        scores = read(head, self.run(head), side)[0]
        flat = torch.cat([x.flatten() for x in scores])
        if (flat.amin() >= 0 and 0 < flat.amax() <= 1) != isinstance(head, TOODHead):
            given, accepted = ('logits', 'probabilities') if isinstance(head, TOODHead) else ('probabilities', 'logits')
            raise ValueError(
                f"the {side}'s {described(head)} gives {given} as class scores; accepted: {accepted}, as "
                f"mmdet's {base(head).__name__} gives"
            )
        # the teacher never trains
        if side == 'student' and not _same(scores, read(head, self.run(self._training, ' in training'), side)[0]):
            raise ValueError(
                f"the student's {described(head)} gives other class scores in training than in eval mode; accepted: "
                f"the same, as mmdet's {base(head).__name__} gives"
            )

    def _training(self, levels: tuple[Tensor, ...]) -> Any:
        """What the head gives in training mode, with its normalisation as in eval mode."""
        self.head.training = True
        return self.head(levels)

    def try_boxes(self) -> None:
        """Raise ``ValueError`` if boxes are not what the head's coder makes of what it gives."""
        if bins(self.head) or isinstance(self.head, PAAHead):  # no box is decoded; PAA averages boxes in the end
            return
        read(self.head, self.run(self.head), self.side, with_boxes=True)
        if self.run(self._apart, ' in predict_by_feat') > PIXELS:
            raise ValueError(
                f"the {self.side}'s {described(self.head)} predicts other boxes than its bbox_coder makes of what it "
                f"gives; accepted: boxes as mmdet's {base(self.head).__name__} predicts them"
            )

    def _apart(self, levels: tuple[Tensor, ...]) -> float:
        """How far the boxes that the head predicts are from the next one that this package decodes, in pixels."""
        outputs = self.head(levels)
        corners = decoded(self.head, outputs[1])
        ours = torch.cat([x[0].unflatten(0, (-1, 4)).flatten(2).mT.flatten(0, 1) for x in corners])
        all_kept = dict(nms_pre=100, score_thr=-1.0, min_bbox_size=-1, max_per_img=100)
        config = ConfigDict({**(self.head.test_cfg or {}), **all_kept, 'nms': dict(type='nms', iou_threshold=1.0)})
        meta = dict(img_shape=SIZE, ori_shape=SIZE, pad_shape=SIZE, batch_input_shape=SIZE, scale_factor=(1.0, 1.0))
        result = self.head.predict_by_feat(*outputs, batch_img_metas=[meta], cfg=config, rescale=False)[0]
        # coders clip to the image or not
        ends = ours.new_tensor([SIZE[1], SIZE[0]] * 2)
        theirs, ours = (x.clamp(min=0).minimum(ends) for x in (get_box_tensor(result.bboxes), ours))
        distances = torch.cdist(theirs, ours, p=torch.inf)
        return distances.amin(dim=1).max().item()

    def try_towers(self, stage: int) -> list[int]:
        """How many channels both towers have after ``stage`` convolutions.

        Raises:
            ValueError: if the head has no such towers, or does not run each of them once per level.
        """
        if base(self.head) not in CROSSED:
            raise ValueError(
                f"the {self.side}'s {described(self.head)} does not begin with cls_convs and reg_convs that all levels "
                f'share; accepted: {listed(CROSSED)}'
            )
        for tower in TOWERS:
            found = getattr(self.head, tower, None)
            if not isinstance(found, (nn.ModuleList, nn.Sequential)):
                raise ValueError(
                    f"the {self.side}'s {described(self.head)} has no list {tower}; accepted: lists of convolutions, "
                    f"cls_convs and reg_convs, as mmdet's {base(self.head).__name__} has"
                )
            if len(found) < stage:
                fewer = f'1 to {len(found)}' if len(found) else 'heads with convolutions (stacked_convs) there'
                raise ValueError(
                    f"stage={stage}: {tower} of the {self.side}'s bbox_head has {len(found)} convolutions; accepted: "
                    f'{fewer}'
                )
        features, _ = self.run(lambda levels: self._towers(levels, stage))
        for tower, given in zip(TOWERS, features, strict=True):
            if len(given) != len(strides(self.head)):
                raise ValueError(
                    f"the {self.side}'s {described(self.head)} runs {tower} {len(given)} times for "
                    f'{len(strides(self.head))} levels; accepted: once for each'
                )
        return [given[0].shape[1] for given in features]

    def try_crossing(self, stage: int) -> None:
        """Raise ``ValueError`` if the head predicts otherwise where its towers begin with their own features."""

        def both(levels: tuple[Tensor, ...]) -> tuple[Any, Any]:
            features, outputs = self._towers(levels, stage)
            return outputs, crossed(self.head, features, stage)

        outputs = self.run(both, f' with towers that begin behind stage={stage}')
        whole, half = (read(self.head, x, self.side, with_boxes=True) for x in outputs)
        if not (_same(whole[0], half[0]) and _same(whole[1], half[1])):
            raise ValueError(
                f"the {self.side}'s {described(self.head)} does not predict from the ends of cls_convs and "
                f"reg_convs alone; accepted: towers as mmdet's {base(self.head).__name__} has them"
            )

    def _towers(self, levels: tuple[Tensor, ...], stage: int) -> tuple[list[list[Tensor]], Any]:
        """Features after ``stage`` convolutions of both towers, and the outputs."""
        with ExitStack() as stack:
            features = [stack.enter_context(recorded(getattr(self.head, tower)[stage - 1])) for tower in TOWERS]
            return features, self.head(levels)


def base(head: nn.Module) -> type:
    """The nearest relative that is known: RTMDet and TOOD are derived from ATSS."""
    return next(kind for kind in type(head).__mro__ if kind in SCORED)


def _same(first: Pyramid, second: Pyramid) -> bool:
    pairs = zip(first, second, strict=True)
    return all(torch.allclose(x, y, rtol=1e-3, atol=1e-4, equal_nan=True) for x, y in pairs)

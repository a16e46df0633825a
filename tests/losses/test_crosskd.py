from __future__ import annotations

import math

import pytest
import torch
from heads import bound, context, corners, given, rows
from mmdet.structures.bbox import bbox_overlaps

from mmkd_graph.losses import CrossKDLoss, HeadOutputs, LDLoss, ScoreKDLoss
from mmkd_graph.losses.crosskd import giou


def overlap(a, b):
    """GIoU of two boxes, arXiv 1902.09630."""
    areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    width, height = (max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    union = sum(areas) - width * height
    hull = math.prod(max(a[i + 2], b[i + 2]) - min(a[i], b[i]) for i in (0, 1))
    return width * height / union - (hull - union) / hull


def test_decoded_boxes_against_a_float64_reading_with_loops():
    loss = bound(CrossKDLoss(box_weight=2.0))
    student, teacher = given(loss, True, 1, anchors=2), given(loss, False, 2, anchors=2)
    cost = total = 0.0
    for row, ours, theirs in zip(rows(teacher.scores, 3), rows(student.boxes, 4), rows(teacher.boxes, 4), strict=True):
        weight = 1 / (1 + math.exp(-max(row)))
        cost += weight * (1 - overlap(ours, theirs))
        total += weight
    assert loss(student, teacher, context())['box'].item() == pytest.approx(2 * cost / total, rel=1e-5)


def test_distributions_are_compared_as_ld_does_at_all_places():
    loss = bound(CrossKDLoss(), bins=5)
    student, teacher = given(loss, True, 1), given(loss, False, 2)
    found = loss(student, teacher, context())['box']
    # LD where every place is positive, with the teacher's scores as weights
    everywhere = tuple(torch.ones_like(x[:, :1], dtype=torch.bool) for x in teacher.scores)
    ld = bound(LDLoss(ld_weight=1.0), bins=5)(
        HeadOutputs(teacher.scores, student.boxes, everywhere), teacher, context()
    )
    total = sum(1 / (1 + math.exp(-max(row))) for row in rows(teacher.scores, 3))
    assert found.item() == pytest.approx(2 * ld['ld'].item() / total, rel=1e-5)


@pytest.mark.parametrize('sigmoid', [True, False])
def test_scores_are_compared_as_score_kd_does(sigmoid):
    loss = bound(CrossKDLoss(), sigmoid=sigmoid)
    student, teacher = given(loss, True, 1), given(loss, False, 2)
    alone = bound(ScoreKDLoss(), sigmoid=sigmoid)
    assert torch.equal(loss(student, teacher, context())['score'], alone(student, teacher, context())['score'])


def test_giou_is_mmdets():
    first, second = (torch.cat([x.permute(0, 2, 3, 1).reshape(-1, 4) for x in corners(i)]) for i in (1, 2))
    torch.testing.assert_close(giou(first, second), bbox_overlaps(first, second, mode='giou', is_aligned=True))


def test_boxes_without_area_have_finite_values_and_gradients():
    point = torch.tensor([[4.0, 4.0, 4.0, 4.0]])
    for other in (point, point + 2, torch.tensor([[0.0, 0.0, 8.0, 8.0]])):
        first = point.clone().requires_grad_()
        value = giou(first, other)
        value.sum().backward()
        assert value.isfinite().all() and first.grad.isfinite().all()
    assert giou(point, point) == 1


@pytest.mark.parametrize('left_out', ['score', 'box'])
def test_a_term_of_weight_0_is_left_out(left_out):
    loss = bound(CrossKDLoss(**{f'{left_out}_weight': 0}))
    terms = loss(given(loss, True, 1), given(loss, False, 2), context())
    assert set(terms) == {'score', 'box'} - {left_out}
    assert loss.reads_teacher_classes == (left_out == 'box')


@pytest.mark.parametrize(
    ('options', 'word'),
    [(dict(tau=0), 'tau'), (dict(stage=0), 'stage'), (dict(stage=1.5), 'stage'), (dict(box_weight=-1), 'box_weight')],
)
def test_bad_options_name_the_key(options, word):
    with pytest.raises(ValueError, match=word):
        CrossKDLoss(**options)

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_graph.losses import DistillContext, PKDLoss

CONTEXT = DistillContext(data_samples=(), strides=(8, 16), batch_shape=(40, 48))


def pyramid(seed):
    generator = torch.Generator().manual_seed(seed)
    return tuple(1 + torch.randn(2, 3, h, w, generator=generator) for h, w in ((5, 6), (3, 3)))


def value_of(student, teacher):
    return PKDLoss(pearson_weight=1.0)(student, teacher, CONTEXT)['pearson']


def test_value_against_a_float64_reading_with_loops():
    """Normalised per channel over images and positions, unbiased; then half the mean squared difference."""
    student, teacher = pyramid(1), pyramid(2)
    wanted = 0.0
    for s_level, t_level in zip(student, teacher, strict=True):
        c = s_level.shape[1]
        for k in range(c):
            columns = []
            for level in (s_level, t_level):
                values = [level[i, k, y, x].item() for i, y, x in np.ndindex(level[:, k].shape)]
                mean = sum(values) / len(values)
                deviation = (sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5
                columns.append([(v - mean) / (deviation + 1e-6) for v in values])
            wanted += sum((a - b) ** 2 for a, b in zip(*columns, strict=True)) / len(columns[0]) / 2 / c
    assert value_of(student, teacher).item() == pytest.approx(wanted, rel=1e-5)
    weighted = PKDLoss()(student, teacher, CONTEXT)['pearson']
    assert weighted.item() == pytest.approx(10 * wanted, rel=1e-5)


def test_it_is_one_minus_the_correlation_of_numpy():
    student, teacher = pyramid(1)[:1], pyramid(2)[:1]
    rows = [x[0].double().numpy().transpose(1, 0, 2, 3).reshape(3, -1) for x in (student, teacher)]
    r = [np.corrcoef(a, b)[0, 1] for a, b in zip(*rows, strict=True)]
    m = rows[0].shape[1]
    assert value_of(student, teacher).item() == pytest.approx((m - 1) / m * (1 - np.mean(r)), rel=1e-5)


@settings(max_examples=15, deadline=None)
@given(scale=st.floats(0.01, 100), shift=st.floats(-10, 10), channel=st.integers(0, 2))
def test_rescaling_and_shifting_a_channel_changes_nothing(scale, shift, channel):
    student, teacher = pyramid(1), pyramid(2)
    changed = tuple(x.clone() for x in student)
    for x in changed:
        x[:, channel] = x[:, channel] * scale + shift * scale
    torch.testing.assert_close(value_of(changed, teacher), value_of(student, teacher), rtol=1e-3, atol=1e-4)


def test_a_dead_channel_costs_a_half_and_pulls_nowhere():
    (student,), (teacher,) = pyramid(1)[:1], pyramid(2)[:1]
    student[:, 1] = 4.0
    student.requires_grad_()
    value = value_of((student,), (teacher,))
    (gradient,) = torch.autograd.grad(value, student)
    live = value_of((student[:, ::2],), (teacher[:, ::2],))
    m = student[:, 0].numel()
    torch.testing.assert_close(value, (2 * live + (m - 1) / (2 * m)) / 3)
    assert gradient[:, 1].abs().max() == 0 and gradient[:, 0].abs().max() > 0


def test_bad_options_name_the_key():
    with pytest.raises(ValueError, match='pearson_weight'):
        PKDLoss(pearson_weight=float('nan'))

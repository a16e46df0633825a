from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_graph.losses import CWDLoss, DistillContext

CONTEXT = DistillContext(data_samples=(), strides=(8, 16), batch_shape=(40, 48))


def pyramid(seed):
    generator = torch.Generator().manual_seed(seed)
    return tuple(3 * torch.randn(2, 3, h, w, generator=generator) for h, w in ((5, 6), (3, 3)))


@pytest.mark.parametrize('tau', [1.0, 4.0])
def test_value_against_a_float64_reading_with_loops(tau):
    student, teacher = pyramid(1), pyramid(2)
    wanted = 0.0
    for s_level, t_level in zip(student, teacher, strict=True):
        n, c = s_level.shape[:2]
        for i in range(n):
            for k in range(c):
                s, t = (x[i, k].double().flatten().tolist() for x in (s_level, t_level))
                sum_s, sum_t = (sum(math.exp(value / tau) for value in x) for x in (s, t))
                for a, b in zip(s, t, strict=True):
                    p, q = math.exp(b / tau) / sum_t, math.exp(a / tau) / sum_s
                    wanted += tau**2 * p * math.log(p / q) / (n * c)
    value = CWDLoss(tau=tau)(student, teacher, CONTEXT)['divergence']
    assert value.item() == pytest.approx(5 * wanted, rel=1e-5)


@settings(max_examples=15, deadline=None)
@given(shift=st.floats(-50, 50), channel=st.integers(0, 2))
def test_shifting_a_channel_changes_nothing(shift, channel):
    student, teacher = pyramid(1), pyramid(2)
    shifted = tuple(x.clone() for x in student)
    for x in shifted:
        x[:, channel] += shift
    loss = CWDLoss()
    one, other = (loss(x, teacher, CONTEXT)['divergence'] for x in (student, shifted))
    torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(('options', 'word'), [(dict(tau=0), 'tau'), (dict(divergence_weight=-1), 'divergence_weight')])
def test_bad_options_name_the_key(options, word):
    with pytest.raises(ValueError, match=word):
        CWDLoss(**options)

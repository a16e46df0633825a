from __future__ import annotations

import numpy as np
import pytest
import torch

from mmkd_graph.losses import DistillContext, FitNetLoss

CONTEXT = DistillContext(data_samples=(), strides=(8, 16), batch_shape=(40, 48))


def pyramid(seed):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, 3, h, w, generator=generator) for h, w in ((5, 6), (3, 3)))


def test_value_against_a_float64_reading_with_loops():
    student, teacher = pyramid(1), pyramid(2)
    wanted = 0.0
    for s_level, t_level in zip(student, teacher, strict=True):
        s, t = s_level.double().numpy(), t_level.double().numpy()
        squares = [(s[at] - t[at]) ** 2 for at in np.ndindex(s.shape)]
        wanted += sum(squares) / len(squares)
    value = FitNetLoss(mse_weight=3.0)(student, teacher, CONTEXT)['mse']
    assert value.item() == pytest.approx(3 * wanted, rel=1e-6)


def test_bad_options_name_the_key():
    with pytest.raises(ValueError, match='mse_weight'):
        FitNetLoss(mse_weight=-1)

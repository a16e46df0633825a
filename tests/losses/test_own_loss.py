"""The worked example of docs/own_loss.md: attention transfer."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from methods import AttentionTransferLoss, example, terms_of
from mmdet.registry import MODELS as MMDET_MODELS

from mmkd_graph.losses import DistillContext

CONTEXT = DistillContext(data_samples=(), strides=(8, 16), batch_shape=(40, 48))


def pyramid(seed, channels=3):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, channels, h, w, generator=generator) for h, w in ((5, 6), (3, 3)))


def test_the_example_is_short():
    assert len(example().splitlines()) <= 40 and terms_of(AttentionTransferLoss) == {'transfer'}


@pytest.mark.parametrize('channels', [3, 5])
def test_value_against_a_float64_reading_with_loops(channels):
    """A student of other channels is compared too."""
    student, teacher = pyramid(1, channels), pyramid(2)
    wanted = 0.0
    for s_level, t_level in zip(student, teacher, strict=True):
        squares = []
        for s, t in zip(s_level.double().numpy(), t_level.double().numpy(), strict=True):
            maps = []
            for features in (s, t):
                active = [sum(c**2 for c in features[:, y, x]) for y, x in np.ndindex(features.shape[1:])]
                length = sum(a**2 for a in active) ** 0.5
                maps.append([a / length for a in active])
            squares += [(a - b) ** 2 for a, b in zip(*maps, strict=True)]
        wanted += sum(squares) / len(squares)
    value = AttentionTransferLoss(transfer_weight=3.0)(student, teacher, CONTEXT)['transfer']
    assert value.item() == pytest.approx(3 * wanted, rel=1e-5)


def test_a_config_finds_it_by_its_plain_name(student, teacher, batch):
    model = MMDET_MODELS.build(
        dict(
            type='mmkd_graph.GraphDistiller',
            student=student,
            teacher=teacher,
            adapter='never',
            losses=dict(at=dict(type='AttentionTransferLoss')),
        )
    )
    losses = model(**model.data_preprocessor(copy.deepcopy(batch), True), mode='loss')
    assert losses['loss_kd.at.transfer'] > 0


def test_a_bad_option_is_named_with_its_whole_key(student, teacher):
    losses = dict(at=dict(type='AttentionTransferLoss', transfer_weight=-1))
    with pytest.raises(ValueError, match=r'^model\.losses\.at\.transfer_weight: got -1, accepted is a finite number'):
        MMDET_MODELS.build(dict(type='mmkd_graph.GraphDistiller', student=student, teacher=teacher, losses=losses))

"""Schedules of the learning rate that do not come to their end."""

import pytest
from mmengine.config import Config

from mmkd_graph.checking.schedulers import check_schedulers

WARMUP = dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500)
STEPS = dict(type='MultiStepLR', begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1)


def said(entries, epoch_length=1000, **training):
    cfg = Config(dict(train_cfg=training or dict(max_epochs=12), param_scheduler=entries))
    return [f'{finding.key}: {finding.found}; {finding.advice}' for finding in check_schedulers(cfg, epoch_length)]


@pytest.mark.parametrize(
    ('entries', 'training'),
    [
        ([WARMUP, STEPS], dict(max_epochs=12)),
        (dict(WARMUP, end=40), dict(max_iters=40)),
        ([dict(type='CosineAnnealingLR', T_max=6, begin=6, end=12, by_epoch=True)], dict(max_epochs=12)),
        ([dict(type='MultiStepLR', begin=0, end=12, milestones=[3])], dict(max_epochs=4)),
        ([dict(type='ExponentialLR', gamma=0.9)], dict(max_epochs=4)),
        ([], dict(max_epochs=4)),
        (dict(optimizer=[WARMUP]), dict(max_epochs=4)),
    ],
)
def test_nothing_is_said_of_what_fits(entries, training):
    assert said(entries, **training) == []


def test_a_warm_up_that_is_longer_than_the_training():
    assert said([WARMUP, STEPS], epoch_length=10) == [
        'param_scheduler[0] (LinearLR): end=500, but the training ends after 120 iterations, in the middle of it; '
        'set it to 120 at most'
    ]
    assert said([WARMUP], epoch_length=None) == []


def test_what_begins_or_falls_after_the_end():
    late = dict(type='CosineAnnealingLR', T_max=6, begin=6, end=12, by_epoch=True)
    found = said([STEPS, late, dict(late, begin=3)], max_epochs=6)
    assert [line.partition(', but')[0] for line in found] == [
        'param_scheduler[0] (MultiStepLR): milestones=[8, 11]',
        'param_scheduler[1] (CosineAnnealingLR): begin=6',
        'param_scheduler[2] (CosineAnnealingLR): T_max=6',
    ]
    assert found[0].endswith('of [8, 11] nothing comes; set them below 6')
    assert found[2].endswith('set it to 3 at most')


def test_epochs_in_a_training_of_iterations():
    (line,) = said([STEPS], max_iters=100)
    assert 'train_cfg counts iterations: the learning rate stays where it starts' in line

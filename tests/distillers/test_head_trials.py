"""Heads that are derived from mmdet's and do something else: each an error when the model is built."""

from __future__ import annotations

import copy

import pytest
import torch
from mmdet.models.dense_heads import GFLHead, RetinaHead, TOODHead
from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.config import ConfigDict
from torch import nn

from mmkd_graph.distillers.head_trials import HeadTrial
from mmkd_graph.testing import save_weights, tiny_retinanet

STRIDES = (8, 16, 32, 64, 128)


class BoxesFirst(RetinaHead):
    def forward(self, x):
        return super().forward(x)[::-1]


class Named(RetinaHead):
    def forward(self, x):
        return dict(zip(('scores', 'boxes'), super().forward(x), strict=True))


class Objectness(RetinaHead):
    """One more score of each anchor."""

    def _init_layers(self):
        super()._init_layers()
        self.retina_cls = nn.Conv2d(self.feat_channels, self.num_base_priors * (self.num_classes + 1), 1)


class Rotated(RetinaHead):
    """Boxes of five numbers."""

    def _init_layers(self):
        super()._init_layers()
        self.retina_reg = nn.Conv2d(self.feat_channels, self.num_base_priors * 5, 1)


class Language(RetinaHead):
    def forward(self, x, words):
        return super().forward(x)


class Probabilities(GFLHead):
    """Scores are multiplied by a quality, as in GFocalV2."""

    def forward_single(self, x, scale):
        scores, boxes = super().forward_single(x, scale)
        return scores.sigmoid() * 0.9, boxes


class Logits(TOODHead):
    def forward(self, x):
        scores, boxes = super().forward(x)
        return [level.logit() for level in scores], boxes


class Auxiliary(RetinaHead):
    """Further scores come first in training."""

    def forward(self, x):
        scores, boxes = super().forward(x)
        return ([2 * level for level in scores], scores, boxes) if self.training else (scores, boxes)


class Scaled(RetinaHead):
    """What is decoded is not what the head gives."""

    def predict_by_feat(self, scores, boxes, *args, **kwargs):
        return super().predict_by_feat(scores, [level / 4 for level in boxes], *args, **kwargs)


class OtherTowers(RetinaHead):
    def _init_layers(self):
        super()._init_layers()
        self.tower = self.cls_convs
        del self.cls_convs, self.reg_convs

    def forward_single(self, x):
        return self.retina_cls(self.tower[0](x)), self.retina_reg(self.tower[0](x))


class OneTower(RetinaHead):
    def forward_single(self, x):
        for convolution in self.cls_convs:
            x = convolution(x)
        return self.retina_cls(x), self.retina_reg(x)


class Residual(RetinaHead):
    """Predicts from its level too, which is not behind any convolution."""

    def forward_single(self, x):
        scores, boxes = super().forward_single(x)
        return scores + self.retina_cls(x), boxes


class Sequential(RetinaHead):
    def _init_layers(self):
        super()._init_layers()
        self.cls_convs = nn.Sequential(*self.cls_convs)

    def forward_single(self, x):
        y = x
        for convolution in self.reg_convs:
            y = convolution(y)
        return self.retina_cls(self.cls_convs(x)), self.retina_reg(y)


class Stem(RetinaHead):
    """One convolution more before both towers."""

    def _init_layers(self):
        super()._init_layers()
        self.stem = nn.Conv2d(self.in_channels, self.in_channels, 1)

    def forward_single(self, x):
        return super().forward_single(self.stem(x))


class Blocks(RetinaHead):
    """Towers of blocks without ``out_channels``."""

    def _init_layers(self):
        super()._init_layers()
        self.cls_convs = nn.ModuleList(nn.Sequential(x) for x in self.cls_convs)


def options(kind):
    """Of a small head of this kind."""
    shared = dict(num_classes=3, in_channels=16, feat_channels=16, stacked_convs=2)
    own = copy.deepcopy(tiny_retinanet()['bbox_head'])
    if not issubclass(kind, RetinaHead):
        own = dict(
            anchor_generator=dict(own['anchor_generator'], octave_base_scale=8),
            norm_cfg=dict(type='GN', num_groups=4),
            loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, activated=True),
            loss_bbox=dict(type='GIoULoss'),
        )
    return {**own, **shared}


def trial(kind, found=STRIDES, test_cfg=None):
    torch.manual_seed(3)
    given = options(kind)
    given.pop('type', None)
    head = kind(**ConfigDict(given), test_cfg=test_cfg)
    head.init_weights()
    tried = HeadTrial(head, 'student', found, [16] * len(found))
    tried.try_scores()
    return tried


def refusal(action, *args, **kwargs):
    with pytest.raises(ValueError) as error:
        action(*args, **kwargs)
    assert 'accepted: ' in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ('kind', 'words'),
    [
        (BoxesFirst, ['(BoxesFirst) gives [(1, 4, 8, 12)', 'class scores', '(N, 3, H, W)', 'place 0']),
        (Named, ['gives dict', 'class scores']),
        (Objectness, ['(1, 4, 8, 12)', '(N, 3, H, W)']),
        (Language, ["missing 1 required positional argument: 'words'", 'RetinaHead']),
        (Probabilities, ['gives probabilities', 'accepted: logits', 'GFLHead']),
        (Auxiliary, ['other class scores in training', 'the same', 'RetinaHead']),
        (Logits, ['gives logits', 'accepted: probabilities', 'TOODHead']),
    ],
)
def test_scores_that_are_none(kind, words):
    message = refusal(trial, kind)
    assert all(word in message for word in ["the student's bbox_head", *words]), message


@pytest.mark.parametrize(
    ('found', 'taken'), [((4, 8, 16, 32, 64), False), (STRIDES[:4], False), ((*STRIDES, 256), True), (STRIDES, True)]
)
def test_strides_of_the_levels_are_those_of_the_head(found, taken):
    """mmdet trains a head with ``start_level=0`` and the strides of ``start_level=1``; GFL leaves a sixth level out."""
    if taken:
        assert trial(GFLHead if len(found) == 6 else RetinaHead, found)
    else:
        message = refusal(trial, RetinaHead, found)
        assert f'strides: {STRIDES} of the student' in message and f'{found} measured' in message


@pytest.mark.parametrize(
    ('kind', 'words'),
    [(Rotated, ['(1, 5, 8, 12)', 'boxes', '(N, 4, H, W)', 'place 1']), (Scaled, ['other boxes than its bbox_coder'])],
)
def test_boxes_that_are_others(kind, words):
    message = refusal(trial(kind).try_boxes)
    assert all(word in message for word in words), message


def test_boxes_of_a_head_that_fails_to_predict():
    class Fails(RetinaHead):
        def predict_by_feat(self, *args, **kwargs):
            return 1 / 0

    assert 'fails in predict_by_feat: ZeroDivisionError' in refusal(trial(Fails).try_boxes)


def test_boxes_may_be_clipped_or_not():
    for clip in (True, False):
        found = trial(RetinaHead)
        found.head.bbox_coder.clip_border = clip
        nn.init.normal_(found.head.retina_reg.weight)  # far beyond the image
        found.try_boxes()


@pytest.mark.parametrize('threshold', [None, 0.99])
def test_boxes_are_found_whatever_the_head_tests_with(threshold):
    trial(RetinaHead, test_cfg=ConfigDict(score_thr=threshold, nms_pre=1, max_per_img=1)).try_boxes()
    with pytest.raises(ValueError, match='other boxes'):
        trial(Scaled, test_cfg=ConfigDict(score_thr=threshold, nms_pre=1, max_per_img=1)).try_boxes()


@pytest.mark.parametrize(
    ('kind', 'stage', 'words'),
    [
        (OtherTowers, 1, ['has no list cls_convs', 'RetinaHead']),
        (OneTower, 1, ['runs reg_convs 0 times for 5 levels', 'once for each']),
        (RetinaHead, 3, ['stage=3: cls_convs', 'has 2 convolutions', 'accepted: 1 to 2']),
    ],
)
def test_towers_that_are_none(kind, stage, words):
    message = refusal(trial(kind).try_towers, stage)
    assert all(word in message for word in words), message


def test_no_tower_at_all():
    """As ATSS behind a DyHead has it."""
    found = trial(RetinaHead)
    found.head.cls_convs = nn.ModuleList()
    assert 'has 0 convolutions; accepted: heads with convolutions' in refusal(found.try_towers, 1)


@pytest.mark.parametrize(
    ('kind', 'words'),
    [(Residual, ['does not predict from the ends of cls_convs']), (Sequential, ['towers that begin behind stage=1'])],
)
def test_towers_that_cannot_be_entered(kind, words):
    found = trial(kind)
    assert found.try_towers(1) == [16, 16]
    message = refusal(found.try_crossing, 1)
    assert all(word in message for word in words), message


@pytest.mark.parametrize('kind', [RetinaHead, GFLHead, Stem, Blocks])
@pytest.mark.parametrize('stage', [1, 2])
def test_towers_that_can(kind, stage):
    found = trial(kind)
    assert found.try_towers(stage) == [16, 16]
    found.try_crossing(stage)
    found.try_boxes()


def test_a_trial_leaves_no_trace():
    found = trial(RetinaHead)
    found.head.train()
    found.head.cls_convs.eval()
    modes = [m.training for m in found.head.modules()]
    state = torch.get_rng_state()
    found.try_towers(1), found.try_crossing(1), found.try_boxes()
    assert [m.training for m in found.head.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(m._forward_hooks for m in found.head.modules())


# ---------------------------------------------------------------- in a model


@pytest.fixture
def registered():
    for kind in (Probabilities, Residual, DirectForward, NoTargets):
        MMDET_MODELS.register_module(module=kind, force=True)
    yield
    for kind in (Probabilities, Residual, DirectForward, NoTargets):
        MMDET_MODELS._module_dict.pop(kind.__name__)


class DirectForward(RetinaHead):
    def loss(self, x, samples):
        scores, _ = self.forward(x)
        return dict(loss_cls=sum(level.sum() for level in scores))


class NoTargets(GFLHead):
    def get_targets(self, *args, **kwargs):
        return dict(targets=super().get_targets(*args, **kwargs))

    def loss_by_feat(self, scores, boxes, instances, metas, ignored=None):
        anchors, flags = self.get_anchors([x.shape[-2:] for x in scores], metas, device=scores[0].device)
        self.get_targets(anchors, flags, instances, metas)
        return dict(loss_cls=sum(level.sum() for level in scores))


def distiller(tmp_path, loss, student=RetinaHead, teacher=RetinaHead, neck=None):
    configs = []
    for kind in (student, teacher):
        config = tiny_retinanet()
        config['bbox_head'] = dict(options(kind), type=kind.__name__)
        configs.append(config)
    configs[1]['neck'].update(neck or {})
    torch.manual_seed(3)
    return MMDET_MODELS.build(
        dict(
            type='mmkd_graph.GraphDistiller',
            student=configs[0],
            teacher=dict(config=configs[1], checkpoint=save_weights(configs[1], tmp_path / 'teacher.pth')),
            losses=dict(kd=loss),
        )
    )


SCORE, CROSSKD = dict(type='mmkd_graph.ScoreKDLoss'), dict(type='mmkd_graph.CrossKDLoss', stage=1)


def test_the_build_of_a_model_says_which_loss_and_which_side(tmp_path, registered):
    message = refusal(distiller, tmp_path, SCORE, student=Probabilities, teacher=GFLHead)
    assert message.startswith("model.losses.kd: the student's bbox_head (Probabilities) gives probabilities")
    message = refusal(distiller, tmp_path, CROSSKD, teacher=Residual)
    assert message.startswith("model.losses.kd: the teacher's bbox_head (Residual) does not predict from")
    message = refusal(distiller, tmp_path, SCORE, neck=dict(start_level=0))
    assert message.startswith(f'model.losses.kd: strides: {STRIDES} of the teacher')


def test_a_student_with_towers_of_any_use_is_taken_if_its_teacher_has_mmdets(tmp_path, registered, batch):
    model = distiller(tmp_path, CROSSKD, student=Residual)
    losses = model(**model.data_preprocessor(batch, True), mode='loss')
    assert losses['loss_kd.kd.box'] > 0


@pytest.mark.parametrize(
    ('kind', 'loss', 'words'),
    [
        (DirectForward, SCORE, ['without a call of self(…)', 'self.forward(…) runs no hooks']),
        (NoTargets, dict(type='mmkd_graph.LDLoss'), ['get_targets', 'gives dict', 'place 1']),
    ],
)
def test_a_loss_of_the_students_own_that_hides_what_is_compared(kind, loss, words, tmp_path, registered, batch):
    base = GFLHead if issubclass(kind, GFLHead) else RetinaHead
    model = distiller(tmp_path, loss, student=kind, teacher=base)
    message = refusal(model, **model.data_preprocessor(batch, True), mode='loss')
    assert message.startswith('model.losses.kd: ') and all(word in message for word in words), message


def test_copies_of_a_model_share_the_teachers_head(tmp_path):
    model = distiller(tmp_path, CROSSKD)
    copied = copy.deepcopy(model)
    assert copied.distill.heads.teacher is model.distill.heads.teacher
    assert not any(isinstance(x, HeadTrial) for x in vars(copied.distill.heads).values())

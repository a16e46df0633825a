"""Losses of heads in the distiller, with small heads of every family of mmdet's that they take."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
from mmdet.models.dense_heads import PAAHead
from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.config import ConfigDict
from mmengine.logging import MessageHub
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper

from mmkd_graph.checking import FAIL, WARNING
from mmkd_graph.checking.classes import check_classes
from mmkd_graph.checking.losses import check_losses
from mmkd_graph.distillers import gradient_norms
from mmkd_graph.distillers.dense_heads import CROSSED, SCORED, TOWERS
from mmkd_graph.losses import HeadLoss
from mmkd_graph.registry import MODELS
from mmkd_graph.testing import raw_batch, save_weights, tiny_retinanet

ATSS_TRAINING = dict(assigner=dict(type='ATSSAssigner', topk=9), allowed_border=-1, pos_weight=-1, debug=False)
ANCHORS = dict(type='AnchorGenerator', ratios=[1.0], octave_base_scale=8, scales_per_octave=1)
GIOU = dict(type='GIoULoss', loss_weight=2.0)
RTMDET = dict(
    with_objectness=False,
    loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0),
    loss_bbox=GIOU,
    bbox_coder=dict(type='DistancePointBBoxCoder'),
    train_cfg=dict(
        assigner=dict(type='DynamicSoftLabelAssigner', topk=13), allowed_border=-1, pos_weight=-1, debug=False
    ),
)
NORM = dict(type='GN', num_groups=4)


def coco(name):
    """What a family's head has besides the usual, and how it is trained; short forms of mmdet's configs."""
    return {
        'RetinaHead': dict(loss_cls=dict(type='FocalLoss', use_sigmoid=True), loss_bbox=dict(type='L1Loss')),
        'RetinaHead, softmax': dict(
            type='RetinaHead', loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False), loss_bbox=dict(type='L1Loss')
        ),
        'FCOSHead': dict(norm_cfg=NORM, norm_on_bbox=True, centerness_on_reg=True, train_cfg=None),
        'ATSSHead': dict(
            norm_cfg=NORM,
            bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2]),
            loss_cls=dict(type='FocalLoss', use_sigmoid=True),
            loss_bbox=GIOU,
            reg_decoded_bbox=True,
        ),
        'GFLHead': dict(
            norm_cfg=NORM,
            reg_max=7,
            loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0),
            loss_bbox=GIOU,
        ),
        'PAAHead': dict(
            norm_cfg=NORM,
            reg_decoded_bbox=True,
            bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2]),
            loss_cls=dict(type='FocalLoss', use_sigmoid=True),
            loss_bbox=GIOU,
            loss_centerness=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=0.5),
            train_cfg=dict(
                assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.1, neg_iou_thr=0.1, min_pos_iou=0),
                allowed_border=-1,
                pos_weight=-1,
                debug=False,
            ),
        ),
        'TOODHead': dict(
            norm_cfg=NORM,
            anchor_type='anchor_free',
            initial_loss_cls=dict(type='FocalLoss', use_sigmoid=True, activated=True),
            loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, activated=True, beta=2.0),
            loss_bbox=GIOU,
            train_cfg=dict(
                initial_epoch=4,
                initial_assigner=dict(type='ATSSAssigner', topk=9),
                assigner=dict(type='TaskAlignedAssigner', topk=13),
                alpha=1,
                beta=6,
                allowed_border=-1,
                pos_weight=-1,
                debug=False,
            ),
        ),
        'VFNetHead': dict(norm_cfg=NORM, loss_bbox=GIOU),
        'RTMDetHead': dict(RTMDET, norm_cfg=NORM),
        'RTMDetSepBNHead': dict(RTMDET, norm_cfg=dict(type='BN'), share_conv=True),
        'YOLOXHead': dict(train_cfg=dict(assigner=dict(type='SimOTAAssigner', center_radius=2.5))),
    }[name]


FAMILIES = (
    *('RetinaHead', 'RetinaHead, softmax', 'FCOSHead', 'ATSSHead', 'GFLHead', 'PAAHead', 'TOODHead', 'VFNetHead'),
    *('RTMDetHead', 'RTMDetSepBNHead', 'YOLOXHead'),
)
TOWERED = ('RetinaHead', 'RetinaHead, softmax', 'FCOSHead', 'ATSSHead', 'GFLHead', 'PAAHead', 'VFNetHead')
STACKED = 2


@pytest.fixture(autouse=True)
def what_heads_need_beside_a_batch(monkeypatch):
    """TOOD asks for the epoch; PAA fits mixtures with scikit-learn, which need not be there: its first guess counts."""
    MessageHub.get_current_instance().update_info_dict(dict(iter=0, max_iters=1, epoch=0, max_epochs=1))
    monkeypatch.setattr(
        PAAHead,
        'paa_reassign',
        lambda _, losses, labels, weights, boxes, chosen, *__: (labels, weights, boxes, len(chosen)),
    )


def detector(name, base_channels=8, fpn_channels=16, **options):
    """A single-stage detector of some 20 thousand weights, with a head of this family."""
    model = tiny_retinanet(base_channels, fpn_channels)
    head = dict(type=name, num_classes=3, in_channels=fpn_channels, feat_channels=16, stacked_convs=STACKED)
    strides = [8, 16, 32, 64, 128]
    options = {**coco(name), **options}
    training = options.pop('train_cfg', ATSS_TRAINING)
    if name in ('RTMDetHead', 'RTMDetSepBNHead', 'YOLOXHead'):
        strides = strides[:3]
        model['neck'].update(num_outs=3)
    if name.startswith('RetinaHead'):
        head['anchor_generator'] = model['bbox_head']['anchor_generator']
        training = model['train_cfg']
    elif name.startswith('RTMDet'):
        head['anchor_generator'] = dict(type='MlvlPointGenerator', offset=0, strides=strides)
    elif name in ('FCOSHead', 'YOLOXHead'):
        head['strides'] = strides
    elif name == 'VFNetHead':
        head.update(strides=strides)
    else:
        head['anchor_generator'] = dict(ANCHORS, strides=strides)
    return dict(model, type='SingleStageDetector', bbox_head={**head, **options}, train_cfg=training)


LOSSES = dict(
    score=dict(type='mmkd_graph.ScoreKDLoss'),
    dist=dict(type='mmkd_graph.DISTLoss'),
    ld=dict(type='mmkd_graph.LDLoss'),
    crosskd=dict(type='mmkd_graph.CrossKDLoss', stage=1),
)
PAIRS = [
    (family, loss)
    for family in FAMILIES
    for loss in LOSSES
    if (loss != 'ld' or family == 'GFLHead') and (loss != 'crosskd' or family in TOWERED)
]


def distiller(student, tmp_path, *losses, teacher=None, seed=7, **options):
    """The student and a teacher of the same kind but wider up to its neck, where no other one is given."""
    teacher = student if teacher is None else teacher
    weights = save_weights(teacher, tmp_path / 'teacher.pth', seed)
    named = {name: LOSSES[name] for name in losses if isinstance(name, str)}
    for given in losses:
        named.update(given if isinstance(given, dict) else {})
    config = dict(
        type='mmkd_graph.GraphDistiller',
        student=student,
        teacher=dict(config=teacher, checkpoint=weights),
        losses=named,
        **options,
    )
    torch.manual_seed(3)
    model = MMDET_MODELS.build(copy.deepcopy(config))
    model.init_weights()
    return model.train()


def wider(family, **options):
    return detector(family, base_channels=16, fpn_channels=24, **options)


def losses_of(model, batch):
    return model(**model.data_preprocessor(copy.deepcopy(batch), True), mode='loss')


@pytest.mark.parametrize(('family', 'loss'), PAIRS)
def test_a_step_reaches_head_and_backbone_and_leaves_the_teacher(family, loss, tmp_path, batch):
    model = distiller(detector(family), tmp_path, loss, teacher=wider(family))
    before = {name: x.clone() for name, x in model.teacher.model.state_dict().items()}
    losses = losses_of(model, batch)
    terms = {key: x for key, x in losses.items() if key.startswith('loss_kd')}
    assert terms and all(x.isfinite() and x > 0 for x in terms.values()), terms
    sum(terms.values()).backward()
    reached = {name.split('.')[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {'backbone', 'neck', 'bbox_head'}
    assert all(p.grad is None for p in model.teacher.model.parameters())
    for name in ('cls_convs', 'reg_convs') if loss == 'crosskd' else ():  # behind the stage the task alone trains
        tower = getattr(model.bbox_head, name)
        assert tower[0].conv.weight.grad.any() and all(p.grad is None for p in tower[1].parameters())
    model.zero_grad()
    wrapper = build_optim_wrapper(model, dict(optimizer=dict(type='SGD', lr=0.001), clip_grad=dict(max_norm=1.0)))
    logged = model.train_step(copy.deepcopy(batch), wrapper)
    assert all(x.isfinite() for x in logged.values())
    after = model.teacher.model.state_dict()
    assert all(torch.equal(x, after[name]) for name, x in before.items())


@pytest.mark.parametrize(('family', 'loss'), [pair for pair in PAIRS if pair[1] != 'dist'])
def test_a_student_that_is_its_teacher_pays_nothing(family, loss, tmp_path, batch):
    student = detector(family)
    model = distiller(student, tmp_path, loss)
    model.student.load_state_dict(torch.load(tmp_path / 'teacher.pth', weights_only=True)['state_dict'])
    model.student.backbone.eval(), model.student.neck.eval()
    for module in model.bbox_head.modules():  # batch normalisation of the heads
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    terms = {key: x for key, x in losses_of(model, batch).items() if key.startswith('loss_kd')}
    for value in terms.values():
        torch.testing.assert_close(value, torch.zeros_like(value), atol=1e-5, rtol=0)


def test_every_accepted_head_is_tested():
    assert {kind.__name__ for kind in SCORED} | {'RetinaHead, softmax', 'RTMDetSepBNHead'} == {*FAMILIES}
    assert {kind.__name__ for kind in CROSSED} | {'RetinaHead, softmax'} == {*TOWERED}


# ---------------------------------------------------------------- with the rest of the distiller


def test_hooks_and_towers_are_as_they_were_after_a_pass(tmp_path, batch):
    model = distiller(detector('GFLHead'), tmp_path, 'ld', 'crosskd')
    teacher = model.teacher.model.bbox_head
    before = [*teacher.modules()]
    losses_of(model, batch)
    assert [*map(id, teacher.modules())] == [*map(id, before)]
    for module in (*model.modules(), *model.teacher.model.modules()):
        assert not module._forward_hooks and not module._forward_pre_hooks
    assert 'get_targets' not in vars(model.bbox_head)


def test_hooks_go_when_the_pass_fails(tmp_path, batch, monkeypatch):
    model = distiller(detector('GFLHead'), tmp_path, 'ld', 'crosskd')
    monkeypatch.setattr(type(model.bbox_head), 'loss_by_feat', lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        losses_of(model, batch)
    assert not any(module._forward_hooks for module in model.modules())
    assert 'get_targets' not in vars(model.bbox_head)


def test_the_student_assigns_once_and_the_teacher_not_at_all(tmp_path, batch, monkeypatch):
    model = distiller(detector('GFLHead'), tmp_path, 'ld', 'score', 'crosskd')
    calls = []
    kind = type(model.bbox_head)
    original = kind.get_targets
    monkeypatch.setattr(kind, 'get_targets', lambda self, *a, **k: calls.append(self) or original(self, *a, **k))
    losses_of(model, batch)
    assert calls == [model.bbox_head]


def test_the_teachers_head_runs_once_and_only_for_losses_of_heads(tmp_path, batch):
    crg = dict(crg=dict(type='mmkd_graph.CRGLoss'))
    model = distiller(detector('GFLHead'), tmp_path, 'score', 'ld', 'dist', crg)
    runs = []
    model.teacher.model.bbox_head.register_forward_hook(lambda *_: runs.append(1))
    losses_of(model, batch)
    assert len(runs) == 1
    for name in ('score', 'ld', 'dist'):
        model.set_loss_factor(name, 0)
    losses = losses_of(model, batch)
    assert len(runs) == 1 and any(key.startswith('loss_kd.crg') for key in losses)
    assert not any(key.startswith(('loss_kd.score', 'loss_kd.ld')) for key in losses)


def test_losses_of_heads_alone_adapt_nothing(tmp_path, batch):
    for adapter in ('auto', 'always', 'never'):
        model = distiller(detector('ATSSHead'), tmp_path, 'score', teacher=wider('ATSSHead'), adapter=adapter)
        assert not [*model.distill.parameters()]
        assert 'loss_kd.score.score' in losses_of(model, batch)
    with pytest.raises(ValueError, match='adapter'):
        distiller(detector('ATSSHead'), tmp_path, 'score', adapter='sometimes')


@pytest.mark.parametrize('off', ['weight', 'factor'])
def test_adapters_wait_for_no_gradient_beside_losses_of_heads(off, tmp_path, batch):
    pkd = dict(type='mmkd_graph.PKDLoss', loss_weight=0 if off == 'weight' else 1)
    model = distiller(detector('ATSSHead'), tmp_path, 'score', dict(pkd=pkd), teacher=wider('ATSSHead'))
    if off == 'factor':
        model.set_loss_factor('pkd', 0)
    model.parse_losses(losses_of(model, batch))[0].backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    adapters = [*model.distill.adapter.parameters()]
    assert adapters and all(p.requires_grad == (off == 'factor') for p in adapters)


@pytest.mark.parametrize('loss', LOSSES)
def test_a_weight_is_measured_at_the_pyramid(loss, tmp_path, batch):
    measured = dict(LOSSES[loss], loss_weight=dict(type='mmkd_graph.GradientRatio', ratio=0.5, iterations=2))
    model = distiller(detector('GFLHead'), tmp_path, dict(kd=measured), teacher=wider('GFLHead'))
    wrapper = build_optim_wrapper(model, dict(optimizer=dict(type='SGD', lr=0.001)))
    for _ in range(2):
        logged = model.train_step(copy.deepcopy(batch), wrapper)
        assert logged['kd.kd.gradient_ratio'] > 0
    assert not model.distill.weights['kd'].measuring and model.distill.weights['kd'].value > 0


def test_a_loss_of_weight_0_is_logged_and_trains_as_the_student_alone(tmp_path, batch):
    student = detector('GFLHead')
    names = {name: dict(config, loss_weight=0) for name, config in LOSSES.items()}
    states = []
    for build in (lambda: MMDET_MODELS.build(copy.deepcopy(student)), lambda: distiller(student, tmp_path, names)):
        torch.manual_seed(3)
        model = build()
        if not hasattr(model, 'distill'):
            model.init_weights()
        model.train()
        wrapper = build_optim_wrapper(model, dict(optimizer=dict(type='SGD', lr=0.01), clip_grad=dict(max_norm=1.0)))
        for _ in range(2):
            logged = model.train_step(copy.deepcopy(batch), wrapper)
        states.append({k: v for k, v in model.state_dict().items() if 'distill.' not in k})
    assert all(torch.equal(x, states[1][name]) for name, x in states[0].items())
    assert {'kd.score.score', 'kd.dist.inter', 'kd.ld.ld', 'kd.crosskd.box'} <= {*logged}


def test_copies_share_the_teacher_and_say_the_same(tmp_path, batch):
    model = distiller(detector('GFLHead'), tmp_path, *LOSSES)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    assert other.teacher.model is model.teacher.model
    assert other.distill.heads.student is other.bbox_head is not model.bbox_head
    values = [losses_of(x, batch)['loss_kd.score.score'] for x in (model, other)]
    assert values[0] != values[1]


@pytest.mark.parametrize('loss', LOSSES)
def test_bfloat16(loss, tmp_path, batch):
    model = distiller(detector('GFLHead'), tmp_path, loss, teacher=wider('GFLHead'))
    wide = losses_of(model, batch)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        half = losses_of(model, batch)
    for key in (key for key in wide if key.startswith('loss_kd')):
        assert half[key].dtype == torch.float32
        torch.testing.assert_close(half[key], wide[key], rtol=0.2, atol=0.02)
    sum(x for key, x in half.items() if key.startswith('loss_kd')).backward()


def test_gradient_norms_measures_losses_of_heads_as_the_others(tmp_path, batch):
    model = distiller(detector('GFLHead'), tmp_path, *LOSSES, dict(crg=dict(type='mmkd_graph.CRGLoss')))
    norms = gradient_norms(model, **model.data_preprocessor(copy.deepcopy(batch), True))
    assert {*norms.losses} == {*LOSSES, 'crg'} and all(norm > 0 for norm in norms.losses.values())


def test_the_check_reports_losses_of_heads_as_the_others(tmp_path, batch):
    model = distiller(detector('GFLHead'), tmp_path, *LOSSES, teacher=wider('GFLHead'))
    findings = {finding.key: finding for finding in check_losses(model, [batch])}
    for name in LOSSES:
        assert findings[f'model.losses.{name}'].details['gradient'] > 0
        assert findings[f'model.losses.{name}'].level != FAIL


@pytest.mark.parametrize(
    ('losses', 'level'),
    [
        (['score', 'crosskd'], WARNING),
        (['score', dict(pkd=dict(type='mmkd_graph.PKDLoss'))], FAIL),
        ([dict(kd=dict(LOSSES['score'], loss_weight=dict(type='mmkd_graph.GradientRatio', ratio=1)))], FAIL),
    ],
)
def test_heads_alone_may_be_trained(losses, level, tmp_path, batch):
    """Where backbone and neck are frozen, losses of heads train the head, and no gradient can be measured."""
    model = distiller(detector('GFLHead'), tmp_path, *losses, teacher=wider('GFLHead'))
    model.backbone.requires_grad_(False), model.neck.requires_grad_(False)
    findings = {finding.key: finding.level for finding in check_losses(model, [batch])}
    assert findings == {'model.taps.student': level}


@pytest.mark.parametrize(('loss', 'level'), [('score', FAIL), ('dist', FAIL), ('crosskd', FAIL), ('ld', WARNING)])
def test_the_check_fails_where_scores_of_other_classes_are_compared(loss, level, tmp_path):
    model = distiller(detector('GFLHead'), tmp_path, loss)
    model.teacher.loaded.meta['CLASSES'] = ('tree', 'house', 'road')
    findings = check_classes(model, dict(classes=('cat', 'dog', 'cow')))
    assert [x.level for x in findings if x.key == 'model.teacher'] == [level]


def test_ddp_waits_for_no_parameter(tmp_path, batch):
    """DDP runs with find_unused_parameters=False, whichever losses take part."""
    pkd = dict(pkd=dict(type='mmkd_graph.PKDLoss'))
    model = distiller(detector('GFLHead'), tmp_path, *LOSSES, pkd, teacher=wider('GFLHead'))
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    try:
        wrapped = MMDistributedDataParallel(model)
        wrapper = build_optim_wrapper(wrapped, dict(optimizer=dict(type='SGD', lr=0.001)))
        for off in ([], ['pkd'], [*LOSSES], ['pkd', *LOSSES], []):
            for name in ('pkd', *LOSSES):
                model.set_loss_factor(name, float(name not in off))
            wrapped.train_step(copy.deepcopy(batch), wrapper)
    finally:
        dist.destroy_process_group()


def test_other_padding_of_the_teacher_is_cropped(tmp_path, batch):
    student, teacher = detector('GFLHead'), wider('GFLHead')
    teacher['data_preprocessor']['pad_size_divisor'] = 128
    model = distiller(student, tmp_path, *LOSSES, teacher=teacher)
    assert all(x.isfinite() for key, x in losses_of(model, batch).items() if key.startswith('loss_kd'))


def test_the_exported_student_is_the_plain_one(tmp_path):
    model = distiller(detector('GFLHead'), tmp_path, *LOSSES)
    plain = MMDET_MODELS.build(copy.deepcopy(detector('GFLHead')))
    assert {*model.state_dict()} == {*plain.state_dict()}


def test_cross_head_predictions_are_those_of_the_rest_of_the_tower(tmp_path, batch):
    """Against a reading of the paper: the teacher's last convolution and predictors, applied by hand."""
    seen = []

    @MODELS.register_module(force=True)
    class Seeing(HeadLoss):
        stage = 1
        reads_boxes = True

        def forward(self, student, teacher, context):
            seen.append((student, teacher))
            return dict(x=sum(x.sum() for x in student.scores))

    model = distiller(detector('GFLHead'), tmp_path, dict(kd=dict(type=Seeing)), teacher=wider('GFLHead'))
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    model.eval()
    with torch.no_grad():
        model.loss(**dict(batch_inputs=data['inputs'], batch_data_samples=data['data_samples']))
        levels = model.extract_feat(data['inputs'])
        head, own = model.teacher.model.bbox_head, model.bbox_head
        (student, teacher), wanted = seen[0], []
        for level, scale in zip(levels, head.scales, strict=True):
            cls, reg = (getattr(head, tower)[1](getattr(own, tower)[0](level)) for tower in TOWERS)
            wanted.append((head.gfl_cls(cls), scale(head.gfl_reg(reg))))
    for i, (scores, boxes) in enumerate(wanted):
        torch.testing.assert_close(student.scores[i], scores)
        torch.testing.assert_close(student.boxes[i], boxes)
        assert student.scores[i].shape == teacher.scores[i].shape


@pytest.mark.parametrize('family', ['RetinaHead', 'FCOSHead', 'ATSSHead', 'VFNetHead'])
def test_boxes_are_those_that_the_teacher_predicts(family, tmp_path, batch):
    """In pixels, as mmdet's own post-processing decodes them, but for its clipping."""
    model = distiller(detector(family), tmp_path, dict(kd=LOSSES['crosskd']), teacher=wider(family))
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    _, pair = model.pyramids.run(model.student.loss, data['inputs'], data['data_samples'], model.distill.heads)
    head, loss = model.teacher.model.bbox_head, model.distill.losses['kd']
    boxes = pair.heads.compared(loss)[1].boxes
    with torch.no_grad():
        outputs = head(model.teacher(model.pyramids.teacher_inputs(**data)))
    metas = [sample.metainfo for sample in data['data_samples']]
    config = ConfigDict(nms_pre=10**6, score_thr=-1.0, min_bbox_size=-1)
    results = head.predict_by_feat(*outputs, batch_img_metas=metas, cfg=config, with_nms=False)
    for i, result in enumerate(results):
        ours = torch.cat([level[i].flatten(1).T for level in boxes])
        height, width = metas[i]['img_shape']
        ours = torch.stack([ours[:, k].clamp(0, (width, height)[k % 2]) for k in range(4)], dim=1)
        theirs = result.bboxes.unique(dim=0)
        distance = torch.cdist(theirs, ours, p=float('inf'))
        assert len(theirs) > 10 and distance.amin(1).max() < 1e-3 and distance.amin(0).max() < 1e-3


# ---------------------------------------------------------------- what is refused


def two_stage():
    from mmengine.hub import get_config

    return get_config('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py').model


@pytest.mark.parametrize(
    ('student', 'teacher', 'losses', 'words'),
    [
        ('GFLHead', dict(num_classes=4), ['score'], ['num_classes: 3', '4 of the teacher', 'ScoreKDLoss']),
        ('GFLHead', dict(num_classes=4), ['dist'], ['num_classes', 'DISTLoss']),
        ('GFLHead', dict(reg_max=9), ['ld'], ['8 values per edge', '10 values', 'the same reg_max']),
        ('ATSSHead', {}, ['ld'], ['ATSSHead', 'has none', 'accepted: GFLHead']),
        ('GFLHead', dict(feat_channels=32), ['crosskd'], ['cls_convs', '16 channels', '32', 'feat_channels']),
        ('TOODHead', {}, ['crosskd'], ['TOODHead', 'cls_convs and reg_convs', 'accepted: RetinaHead']),
        ('YOLOXHead', {}, ['crosskd'], ['YOLOXHead', 'accepted: RetinaHead']),
        ('RTMDetHead', {}, ['crosskd'], ['RTMDetHead', 'accepted: RetinaHead']),
        (
            'GFLHead',
            {},
            [dict(kd=dict(type='mmkd_graph.CrossKDLoss'))],
            ['model.losses.kd.stage=3', 'has 2 convolutions', 'accepted: 1 to 2'],
        ),
        (
            'RetinaHead',
            dict(anchor_generator=dict(ANCHORS, ratios=[0.5, 1.0], strides=[8, 16, 32, 64, 128])),
            ['score'],
            ['anchors per cell: 1 of', "['91x45', '64x64'] of", 'accepted: the same'],
        ),
        (
            'RetinaHead',
            dict(loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False)),
            ['score'],
            ['sigmoid', 'softmax', 'accepted: the same'],
        ),
    ],
)
def test_heads_that_do_not_fit_are_refused(student, teacher, losses, words, tmp_path):
    with pytest.raises(ValueError) as error:
        distiller(detector(student), tmp_path, *losses, teacher=wider(student, **teacher))
    for word in ('model.losses.', *words):
        assert word in str(error.value), str(error.value)


def test_ld_takes_a_teacher_of_other_classes(tmp_path, batch):
    model = distiller(detector('GFLHead'), tmp_path, 'ld', teacher=wider('GFLHead', num_classes=5))
    assert losses_of(model, batch)['loss_kd.ld.ld'] > 0
    assert not model.distill.losses['ld'].reads_teacher_classes


def test_boxes_of_crosskd_alone_take_a_teacher_of_other_classes(tmp_path, batch):
    boxes = dict(kd=dict(LOSSES['crosskd'], score_weight=0))
    model = distiller(detector('GFLHead'), tmp_path, boxes, teacher=wider('GFLHead', num_classes=5))
    assert losses_of(model, batch)['loss_kd.kd.box'] > 0


def test_other_levels_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r'model\.losses\.score: strides: .*accepted: the same'):
        distiller(detector('ATSSHead'), tmp_path, 'score', teacher=detector('RTMDetHead'))


@pytest.mark.parametrize(('side', 'what'), [('student', 'two stages'), ('teacher', 'two stages')])
def test_two_stages_are_refused(side, what, tmp_path):
    dense, other = detector('ATSSHead'), two_stage()
    other['backbone'] = dict(dense['backbone'])
    other['neck'] = dict(dense['neck'], out_channels=256)
    student, teacher = (other, dense) if side == 'student' else (dense, other)
    with pytest.raises(ValueError, match=rf'model\.losses\.score: the {side} \(FasterRCNN\) has {what}.*accepted'):
        distiller(student, tmp_path, 'score', teacher=teacher)


def test_queries_are_refused(tmp_path, monkeypatch):
    from mmdet.models.dense_heads import DETRHead

    class Queries(DETRHead):
        def __init__(self, **_):
            torch.nn.Module.__init__(self)

        def init_weights(self):
            pass

    MMDET_MODELS.register_module(name='Queries', module=Queries, force=True)
    student = dict(detector('ATSSHead'), bbox_head=dict(type='Queries'))
    with pytest.raises(ValueError, match=r'model\.losses\.score: the student .* predicts for queries.*accepted'):
        distiller(student, tmp_path, 'score', teacher=detector('ATSSHead'))


def test_unknown_heads_are_refused(tmp_path):
    student = detector('ATSSHead')
    student['bbox_head'] = dict(type='FoveaHead', num_classes=3, in_channels=16, strides=[8, 16, 32, 64, 128])
    student['train_cfg'] = None
    with pytest.raises(ValueError, match=r'model\.losses\.score: .*a FoveaHead as bbox_head; accepted: .*RTMDetHead'):
        distiller(student, tmp_path, 'score', teacher=detector('ATSSHead'))


def test_another_tap_of_the_teacher_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"model\.losses\.score: .*taps\.teacher is 'backbone'; accepted: 'neck'"):
        distiller(detector('ATSSHead'), tmp_path, 'score', taps='backbone')


def test_another_tap_of_the_student_is_taken(tmp_path, batch):
    model = distiller(detector('ATSSHead'), tmp_path, 'score', taps=dict(student='backbone'))
    assert losses_of(model, batch)['loss_kd.score.score'] > 0


def test_the_batch_of_the_tests_has_padding():
    assert len({x.shape for x in raw_batch()['inputs']}) > 1

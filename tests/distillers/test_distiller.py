from __future__ import annotations

import copy
import os

import pytest
import torch
from conftest import save_weights, tiny_retinanet
from mmdet.models import FPN
from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.config import ConfigDict
from mmengine.model import ExponentialMovingAverage, is_model_wrapper
from mmengine.optim import build_optim_wrapper
from mmengine.runner.checkpoint import get_state_dict, load_state_dict

from mmkd_graph.distillers import GraphDistiller
from mmkd_graph.distillers.gradient_ratio import LossWeight
from mmkd_graph.losses import DistillContext

CRG = dict(type='mmkd_graph.CRGLoss')
DRAWING = dict(
    mhgd=dict(type='mmkd_graph.MHGDLoss', max_cells=4),
    lfcc=dict(type='mmkd_graph.LFCCLoss', max_cells=4),
    refilled=dict(type='mmkd_graph.REFILLEDLoss', num_classes=3, max_cells=4),
)


def distiller(student, teacher, **kwargs):
    kwargs.setdefault('losses', dict(crg=CRG))
    return MMDET_MODELS.build(
        dict(type='mmkd_graph.GraphDistiller', student=student, teacher=teacher, **copy.deepcopy(kwargs))
    )


def plain(student):
    return MMDET_MODELS.build(ConfigDict(copy.deepcopy(student)))


def loss_of(model, batch):
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    return model(**data, mode='loss')


def trained(model, batch, steps=4):
    model.train()
    wrapper = build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4),
            clip_grad=dict(max_norm=1.0),
            paramwise_cfg=dict(norm_decay_mult=0.0, custom_keys={'backbone': dict(lr_mult=0.5)}),
        ),
    )
    return [model.train_step(copy.deepcopy(batch), wrapper)['loss'].item() for _ in range(steps)]


# ------------------------------------------------------------------------------------------------ naming


def test_state_dict_has_the_students_names_and_no_teacher(student, teacher):
    model = distiller(student, teacher)
    own = {k for k in model.state_dict() if not k.startswith('distill.')}
    assert own == set(plain(student).state_dict())
    assert list(get_state_dict(model)) == list(model.state_dict())
    held = {p.data_ptr() for p in [*model.parameters(), *model.buffers()]}
    assert not held & {p.data_ptr() for p in [*model.teacher.model.parameters(), *model.teacher.model.buffers()]}
    assert not any(m is model.teacher.model for m in model.modules())


def test_plain_student_loads_it_strictly_and_predicts_the_same(student, teacher, batch):
    model = distiller(student, teacher)
    model.init_weights()
    trained(model, batch, 2)
    detector = plain(student)
    load_state_dict(detector, {k: v for k, v in model.state_dict().items() if 'distill.' not in k}, strict=True)
    model.eval(), detector.eval()
    for ours, theirs in zip(
        model.test_step(copy.deepcopy(batch)), detector.test_step(copy.deepcopy(batch)), strict=True
    ):
        assert torch.equal(ours.pred_instances.scores, theirs.pred_instances.scores)
        assert torch.equal(ours.pred_instances.bboxes, theirs.pred_instances.bboxes)


def test_save_and_load_restore_student_and_adapters(student, teacher, batch):
    first, second = distiller(student, teacher), distiller(student, teacher)
    first.init_weights()
    trained(first, batch, 2)
    load_state_dict(second, get_state_dict(first), strict=True)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    assert any(k.startswith('distill.adapter.') for k in first.state_dict())
    assert all(torch.equal(a, second.student.state_dict()[k]) for k, a in first.student.state_dict().items()), (
        'the student object does not share what was loaded'
    )


def test_names_that_the_student_translates_are_translated_for_the_distiller(student, teacher):
    """A single-stage detector reads the RPN of a two-stage checkpoint as its own head."""
    source, model = distiller(student, teacher), distiller(student, teacher)
    source.init_weights()
    renamed = {k.replace('bbox_head.', 'rpn_head.'): v for k, v in source.state_dict().items()}
    load_state_dict(model, dict(renamed), strict=True)
    assert all(torch.equal(model.state_dict()[k], v) for k, v in source.state_dict().items())
    for wrong in ({**renamed, 'extra': torch.zeros(1)}, {**renamed, 'distill.extra': torch.zeros(1)}):
        with pytest.raises(RuntimeError, match='extra'):
            load_state_dict(model, wrong, strict=True)


def test_copies_share_the_teacher_and_own_their_student(student, teacher):
    model = distiller(student, teacher)
    ema = ExponentialMovingAverage(model).module
    assert ema.teacher.model is model.teacher.model
    assert ema.backbone is ema.student.backbone
    assert ema.backbone is not model.backbone
    assert not is_model_wrapper(ema)


def test_a_copy_that_moves_leaves_the_teacher_where_it_is(student, teacher, batch):
    model = distiller(student, teacher).train()
    ema = ExponentialMovingAverage(model, device='meta').module
    assert next(ema.teacher.model.parameters()).is_meta and not next(model.teacher.model.parameters()).is_meta
    assert loss_of(model, batch)
    half = copy.deepcopy(model).to('cpu')
    assert half.teacher.model is model.teacher.model
    half.to(torch.float64)
    assert next(half.teacher.model.parameters()).dtype == torch.float64
    assert next(model.teacher.model.parameters()).dtype == torch.float32
    x = torch.randn(1, 3, 64, 64)
    for one, two in zip(half.teacher(x.double()), model.teacher(x), strict=True):
        torch.testing.assert_close(one.float(), two, atol=1e-4, rtol=1e-4)


def test_teacher_follows_dtype_and_device(student, teacher):
    model = distiller(student, teacher).to(torch.float64)
    assert next(model.teacher.model.parameters()).dtype == torch.float64
    assert next(model.student.parameters()).dtype == torch.float64
    model.train()
    assert not model.teacher.model.training and model.student.training


# ------------------------------------------------------------------------------------------------ training


@pytest.mark.parametrize('methods', [dict(crg=CRG), DRAWING], ids=['graph', 'drawn cells'])
def test_null_weights_train_bit_for_bit_like_the_plain_student(student, teacher, batch, methods):
    methods = {name: dict(method, loss_weight=0) for name, method in methods.items()}
    results = []
    for build in (lambda: plain(student), lambda: distiller(student, teacher, losses=methods)):
        torch.manual_seed(3)
        model = build()
        model.init_weights()
        losses = trained(model, batch, 5)
        results.append((losses, {k: v for k, v in model.state_dict().items() if 'distill.' not in k}, torch.rand(3)))
    (loss_a, state_a, rng_a), (loss_b, state_b, rng_b) = results
    assert loss_a == loss_b
    assert all(torch.equal(state_a[k], state_b[k]) for k in state_a)
    assert torch.equal(rng_a, rng_b), 'distillation drew from the global generator'


def test_null_weights_are_measured_but_do_not_count(student, teacher, batch):
    losses = loss_of(distiller(student, teacher, losses=dict(crg=dict(CRG, loss_weight=0))), batch)
    terms = losses['kd']
    assert not any('loss_kd' in key for key in losses)
    assert set(terms) == {'crg.vertex', 'crg.edge', 'crg.spectral'}
    assert all(v > 0 and not v.requires_grad for v in terms.values())


def test_what_is_only_logged_does_not_count_whatever_its_name(student, teacher, batch):
    ratio = dict(type='mmkd_graph.GradientRatio', ratio=0.5)
    model = distiller(
        student, teacher, losses=dict(loss_a=dict(CRG, loss_weight=0), loss_b=dict(CRG, loss_weight=ratio))
    ).train()
    losses = loss_of(model, batch)
    total, logged = model.parse_losses(losses)
    alone = losses.pop('kd')
    assert {'loss_a.vertex', 'loss_b.gradient_ratio'} <= set(alone)
    assert {*losses, *(f'kd.{key}' for key in alone)} == set(logged) - {'loss'}
    parts = [sum(v.mean() for v in (x if isinstance(x, list) else [x])) for x in losses.values()]
    assert total == logged['loss'] and total.item() == pytest.approx(sum(parts).item())


def test_terms_are_logged_weighted_and_task_losses_untouched(student, teacher, batch):
    model = distiller(student, teacher)
    model.init_weights()
    task = loss_of(model.student, batch)
    single = loss_of(model, batch)
    model.distill.weights['crg'] = LossWeight(2.0)
    double = loss_of(model, batch)
    for term in ('vertex', 'edge', 'spectral'):
        torch.testing.assert_close(double[f'loss_kd.crg.{term}'], 2 * single[f'loss_kd.crg.{term}'])
    for key, value in task.items():
        assert all(torch.equal(a, b) for a, b in zip(value, single[key], strict=True)), key


def test_several_losses_and_every_trained_parameter_gets_a_gradient(student, teacher, batch):
    model = distiller(
        student,
        teacher,
        losses=dict(crg=CRG, vertices=dict(type='CRGLoss', edge_weight=0, spectral_weight=0)),
    )
    losses = loss_of(model, batch)
    assert 'loss_kd.vertices.vertex' in losses and 'loss_kd.crg.edge' in losses
    assert 'loss_kd.vertices.edge' not in losses
    model.parse_losses(losses)[0].backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert all(p.grad is None for p in model.teacher.model.parameters())


def test_distillation_brings_the_pyramids_together(student, teacher, batch):
    model = distiller(student, teacher, losses=dict(crg=dict(CRG, loss_weight=5.0)))
    model.init_weights()
    before = loss_of(model, batch)
    trained(model, batch, 30)
    after = loss_of(model, batch)
    for term in ('vertex', 'edge', 'spectral'):
        assert after[f'loss_kd.crg.{term}'] < before[f'loss_kd.crg.{term}']


def test_student_equal_to_its_teacher_has_no_distillation_loss(batch, tmp_path):
    model = tiny_retinanet()
    path = save_weights(model, tmp_path / 'same.pth')
    built = distiller(model, dict(config=model, checkpoint=path), init_student=path)
    built.init_weights()
    built.eval()  # batch norm with the same statistics on both sides
    losses = loss_of(built, batch)
    for term in ('vertex', 'edge', 'spectral'):
        assert abs(losses[f'loss_kd.crg.{term}']) < 1e-5


def test_pyramids_leave_mode_and_weights_alone(student, teacher, batch):
    model = distiller(student, teacher).train()
    before = copy.deepcopy(model.state_dict())
    data = model.data_preprocessor(batch, True)
    ours, theirs = model.compared_features(data['inputs'], data['data_samples'])
    assert [x.shape for x in ours] == [x.shape for x in theirs] and model.strides == (8, 16, 32, 64, 128)
    assert model.training and model.student.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


# ------------------------------------------------------------------------------------------------ initialisation


def test_init_from_the_teacher_takes_what_agrees(teacher, tmp_path):
    student = tiny_retinanet(base_channels=8, fpn_channels=32)
    model = distiller(student, teacher, init_student='teacher')
    model.init_weights()
    source = model.teacher.model.state_dict()
    assert torch.equal(model.state_dict()['bbox_head.retina_cls.weight'], source['bbox_head.retina_cls.weight'])
    assert torch.equal(model.state_dict()['neck.fpn_convs.0.conv.weight'], source['neck.fpn_convs.0.conv.weight'])
    # lateral convolutions read another width: they stay the student's own
    assert model.state_dict()['neck.lateral_convs.0.conv.weight'].shape[1] == 16


def test_init_from_a_checkpoint(student, teacher, tmp_path):
    path = save_weights(student, tmp_path / 'student.pth', seed=11)
    model = distiller(student, teacher, init_student=path)
    model.init_weights()
    saved = torch.load(path)['state_dict']
    assert all(torch.equal(model.state_dict()[k], v) for k, v in saved.items())


def test_a_distilled_checkpoint_can_teach_and_start(student, teacher, tmp_path):
    first = distiller(student, teacher)
    first.init_weights()
    path = tmp_path / 'distilled.pth'
    torch.save(dict(state_dict=first.state_dict()), path)
    whole = dict(model=dict(type='mmkd_graph.GraphDistiller', student=student, teacher=teacher, losses=dict(crg=CRG)))
    second = distiller(student, dict(config=whole, checkpoint=str(path)), init_student=str(path))
    second.init_weights()
    assert all(torch.equal(second.state_dict()[k], v) for k, v in first.student.state_dict().items())


# ------------------------------------------------------------------------------------------------ pairing, inputs


def test_levels_pair_by_stride(student, teacher, batch):
    student['neck'].update(start_level=0, num_outs=5)  # P2-P6 against P3-P7
    model = distiller(student, teacher)
    assert model.strides == (8, 16, 32, 64)
    assert 'loss_kd.crg.edge' in loss_of_features(model, batch)
    assert distiller(student, teacher, strides=(16, 32)).strides == (16, 32)


@MMDET_MODELS.register_module(force=True)
class CoarseFirst(FPN):
    """As YOLOv3's neck."""

    def forward(self, inputs):
        return super().forward(inputs)[::-1]


def test_the_finest_level_comes_first_whatever_the_tap_gives(student, teacher, batch):
    student['neck'].update(type='CoarseFirst')
    model = distiller(student, teacher)
    assert model.strides == (8, 16, 32, 64, 128)
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    ours, theirs = model.compared_features(data['inputs'], data['data_samples'])
    sizes = [x.shape[-1] for x in ours]
    assert sizes == sorted(sizes, reverse=True) == [x.shape[-1] for x in theirs]


def loss_of_features(model, batch):
    """Distillation terms without the head, whose anchors are for other strides."""
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    ours, theirs = model.compared_features(data['inputs'], data['data_samples'])
    context = DistillContext(data['data_samples'], model.strides, tuple(data['inputs'].shape[-2:]))
    terms = model.distill.losses['crg'](ours, theirs, context)
    return {f'loss_kd.crg.{k}': v for k, v in terms.items()}


def test_backbone_tap_and_adapters_by_mode(student, teacher, batch):
    model = distiller(student, teacher, taps='backbone')
    assert model.strides == (4, 8, 16, 32)
    loss_of(model, batch)
    same = distiller(student, dict(teacher, config=student, strict=False, checkpoint=None), adapter='always')
    same.init_weights()
    assert len(list(same.distill.adapter.parameters())) == 10
    x = [torch.rand(1, 16, 2, 2) for _ in range(5)]
    assert all(torch.allclose(a, b) for a, b in zip(same.distill.adapter(x), x, strict=True)), 'not the identity'


@pytest.mark.parametrize(
    'preprocessor',
    [
        dict(mean=[0, 0, 0], std=[255.0, 255.0, 255.0], bgr_to_rgb=False, pad_size_divisor=32),
        dict(mean=[103.5, 116.3, 123.7], std=[1.0, 1.0, 1.0], bgr_to_rgb=False, pad_size_divisor=64, pad_value=5),
        dict(pad_size_divisor=1),
        dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True, pad_size_divisor=32),
    ],
)
def test_the_teacher_sees_its_own_preprocessing(student, teacher, batch, preprocessor):
    teacher['config']['data_preprocessor'] = dict(type='DetDataPreprocessor', **preprocessor)
    model = distiller(student, teacher)
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    shapes = [s.img_shape for s in data['data_samples']]
    untouched = data['inputs'].clone()
    given = model.pyramids._transfer(data['inputs'], shapes)
    wanted = model.teacher.model.data_preprocessor(copy.deepcopy(batch), False)['inputs']
    assert torch.equal(data['inputs'], untouched), "the student was given the teacher's pixels"
    h, w = wanted.shape[-2:]
    torch.testing.assert_close(given[..., :h, :w].float(), wanted.float(), atol=1e-3, rtol=1e-4)
    assert (given[..., h:, :] == preprocessor.get('pad_value', 0)).all()
    loss_of(model, batch)


# ------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ('change', 'error', 'words'),
    [
        (dict(teacher=dict(checkpoint=None)), ValueError, ['teacher.checkpoint is missing', 'strict=False']),
        (dict(teacher=dict(checkpoint='nowhere.pth')), FileNotFoundError, ['teacher.checkpoint', 'nowhere.pth']),
        (dict(teacher=dict(config='nowhere.py')), FileNotFoundError, ['teacher.config', 'mmdet::']),
        (dict(teacher=dict(config=3)), TypeError, ['teacher.config', 'int']),
        (dict(teacher=dict(config={})), ValueError, ['teacher.config', 'type']),
        (dict(teacher=dict(chekpoint='x')), ValueError, ['teacher.chekpoint', 'checkpoint']),
        (dict(taps='nek'), ValueError, ['taps.student', 'nek', 'near names: neck']),
        (dict(taps=dict(teacher='neck.lateral_conv')), ValueError, ['taps.teacher', 'neck.lateral_convs']),
        (dict(taps=dict(studnt='neck')), ValueError, ['model.taps.studnt is unknown', "did you mean 'student'"]),
        (dict(taps=dict(student=3)), ValueError, ['model.taps.student=3', 'a module path']),
        (dict(tap='neck'), ValueError, ['model.tap is unknown', "did you mean 'taps'", 'init_student']),
        (dict(test_cfg={}), ValueError, ['model.test_cfg is unknown', 'set model.student.test_cfg']),
        (dict(taps='bbox_head'), ValueError, ['taps.student', 'extract_feat']),
        (
            dict(taps=dict(student='backbone.conv1', teacher='backbone.layer4')),
            ValueError,
            ['no common stride', '(2,)', '(32,)'],
        ),
        (dict(strides=(8, 9)), ValueError, ['strides', '[9]', '128']),
        (dict(strides=8), ValueError, ['strides=8', 'a list']),
        (dict(strides=[]), ValueError, ['strides=[]', 'a list']),
        (dict(adapter='never'), ValueError, ['adapter', 'never', 'auto']),
        (dict(adapter='allways'), ValueError, ['adapter', "'always'"]),
        (dict(losses={}), ValueError, ['losses', 'type']),
        (dict(losses=dict(crg=dict(CRG, window=0))), ValueError, ['losses.crg', 'window: got 0', '>= 1']),
        (dict(losses=dict(crg=dict(CRG, loss_weight=-1))), ValueError, ['losses.crg.loss_weight', '>= 0']),
        (dict(losses=dict(crg=dict(CRG, level_weights=[1]))), ValueError, ['losses.crg.level_weights', '5']),
        (
            dict(losses=dict(crg=dict(type='PyramidAdapter', in_channels=[1], out_channels=[1]))),
            ValueError,
            ['losses.crg.type', 'CRGLoss'],
        ),
    ],
    ids=lambda value: None if not isinstance(value, dict) else str(value)[:60],
)
def test_errors_name_the_key_and_what_is_accepted(student, teacher, change, error, words):
    change = dict(change)
    teacher.update(change.pop('teacher', {}))
    with pytest.raises(error) as caught:
        distiller(student, teacher, **change)
    for word in words:
        assert word in str(caught.value), f'{word!r} is not in: {caught.value}'
    assert str(caught.value).startswith('model.')


def test_a_teacher_that_does_not_fit_lists_the_keys(student, teacher, tmp_path):
    weights = torch.load(teacher['checkpoint'])
    state = weights['state_dict']
    state['backbone.layer9.weight'] = torch.zeros(1)
    del state['neck.lateral_convs.0.conv.bias']
    state['bbox_head.retina_cls.bias'] = torch.zeros(7)
    torch.save(weights, teacher['checkpoint'])
    with pytest.raises(ValueError, match=r'teacher\.checkpoint') as caught:
        distiller(student, teacher)
    for word in (
        'missing (1): neck.lateral_convs.0.conv.bias',
        'unexpected (1): backbone.layer9.weight',
        'bbox_head.retina_cls.bias: (7,)',
        'teacher.strict=False',
    ):
        assert word in str(caught.value)
    distiller(student, dict(teacher, strict=False))


def test_an_unreadable_teacher_is_named(student, teacher, tmp_path):
    path = tmp_path / 'broken.pth'
    path.write_bytes(b'PK\x03\x04 not a checkpoint')
    with pytest.raises(ValueError, match=r'teacher\.checkpoint.*broken\.pth.*could not be read'):
        distiller(student, dict(teacher, checkpoint=str(path)))


def test_a_teacher_that_would_run_code_is_refused(student, teacher, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'made'),)

    weights = torch.load(teacher['checkpoint'])
    torch.save(dict(weights, evil=Evil()), tmp_path / 'evil.pth')
    with pytest.raises(ValueError, match=r'teacher\.checkpoint.*evil\.pth.*was not read.*mkdir.*can run code'):
        distiller(student, dict(teacher, checkpoint=str(tmp_path / 'evil.pth')))
    assert not (tmp_path / 'made').exists()


def test_inheriting_from_a_teacher_that_shares_nothing_is_refused(student, teacher):
    student['neck']['out_channels'] = 24
    for key in ('in_channels', 'feat_channels'):
        student['bbox_head'][key] = 24
    student['bbox_head']['num_classes'] = 5
    student['bbox_head']['anchor_generator']['ratios'] = [0.5, 1.0]
    model = distiller(student, teacher, init_student='teacher')
    with pytest.raises(ValueError, match=r'^model\.init_student'):
        model.init_weights()


def test_the_class_is_registered_under_its_scope():
    assert MMDET_MODELS.get('mmkd_graph.GraphDistiller') is GraphDistiller

"""Weights under prefixes, weights that come twice, weights that are not finite, and too few of them."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import save_weights, tiny_retinanet
from mmdet.registry import MODELS as MMDET_MODELS

from mmkd_graph.distillers import GraphDistiller, weights
from mmkd_graph.distillers.weights import load_weights

KEY = 'teacher.checkpoint'


@pytest.fixture
def detector():
    return MMDET_MODELS.build(tiny_retinanet())


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(weights, 'print_log', lambda message, **_: lines.append(message))
    return lines


@pytest.fixture
def state(tmp_path):
    return torch.load(save_weights(tiny_retinanet(), tmp_path / 'plain.pth'))['state_dict']


@pytest.fixture
def save(tmp_path):
    def write(content, **meta):
        torch.save(dict(state_dict=content, meta=meta), tmp_path / 'weights.pth')
        return str(tmp_path / 'weights.pth')

    return write


def under(prefix, state):
    return {prefix + k: v for k, v in state.items()}


def assert_loaded(detector, state):
    assert all(torch.equal(v, state[k]) for k, v in detector.state_dict().items())


@pytest.mark.parametrize('prefix', ['architecture.', 'model.', 'student.', 'teacher.', 'module.', 'module.detector.'])
@pytest.mark.parametrize('strict', [True, False])
def test_a_prefix_that_makes_all_fit_is_taken_off(detector, state, save, said, prefix, strict):
    others = {name: torch.zeros(1) for name in ('other.backbone.conv1.weight', 'step')}
    loaded = load_weights(detector, save({**others, **under(prefix, state)}), KEY, strict)
    assert loaded.prefix == prefix and not loaded.mismatch
    assert repr(prefix) in said[0] and 'step.' in said[0]
    assert_loaded(detector, state)


def test_the_students_weights_are_found_under_a_prefix_too(student, teacher, state, save):
    model = GraphDistiller(
        student, teacher, dict(crg=dict(type='mmkd_graph.CRGLoss')), init_student=save(under('a.b.', state))
    )
    model.init_weights()
    assert_loaded(model.student, state)


def test_what_a_distiller_adds_stays_left_out_under_a_prefix(detector, state, save):
    assert not load_weights(detector, save(under('module.', {**state, 'distill.x': torch.zeros(1)})), KEY).mismatch


def test_versions_of_modules_keep_their_place(state, save, said, monkeypatch, detector):
    seen = {}
    load = type(detector.backbone)._load_from_state_dict
    monkeypatch.setattr(
        type(detector.backbone),
        '_load_from_state_dict',
        lambda self, state, prefix, local, *rest: (
            seen.update({prefix: local}),
            load(self, state, prefix, local, *rest),
        )[1],
    )
    wrapped = torch.nn.ModuleDict(dict(architecture=MMDET_MODELS.build(tiny_retinanet()))).state_dict()
    wrapped._metadata['architecture.backbone'] = dict(version=7)
    load_weights(detector, save(wrapped), KEY)
    assert seen == {'backbone.': dict(version=7)}


def test_of_several_prefixes_one_has_to_be_chosen(detector, state, save):
    both = {**under('student.', state), **under('teacher.', state)}
    with pytest.raises(ValueError, match=r'2 sets of weights.*student\., teacher\..*accepted: one') as caught:
        load_weights(detector, save(both), KEY, strict=False)
    # what the message says does it
    path = save(both)
    command = str(caught.value).partition('teacher.): ')[2].replace('NEW_FILE', repr(path)).replace('FILE', repr(path))
    exec(command, dict(torch=torch))
    assert load_weights(detector, path, KEY).prefix == 'teacher.'
    assert_loaded(detector, state)


def test_shapes_decide_where_names_do_not(detector, state, save):
    wide = MMDET_MODELS.build(tiny_retinanet(base_channels=16)).state_dict()
    both = {**under('teacher.', wide), **under('student.', state)}
    assert load_weights(detector, save(both), KEY).prefix == 'student.'
    assert_loaded(detector, state)


def test_plain_names_come_first(detector, state, save):
    both = {**state, **under('teacher.', state)}
    with pytest.raises(ValueError, match=r'unexpected \(\d+\): teacher\.'):
        load_weights(detector, save(both), KEY)


def test_what_differs_is_said_without_the_prefix(detector, state, save):
    del state['neck.lateral_convs.0.conv.bias']
    with pytest.raises(ValueError, match=r'missing \(1\): neck\.lateral_convs\.0\.conv\.bias\n  unexpected \(0\)'):
        load_weights(detector, save(under('architecture.', state)), KEY)


def test_exact_doubles_of_ema_hooks_are_left_out(detector, state, save, said):
    doubles = {'ema_' + k.replace('.', '_'): torch.zeros_like(v) for k, v in state.items()}
    assert not load_weights(detector, save({**state, **doubles}), KEY).mismatch
    assert (
        f'{len(doubles)} weights are there twice' in said[0] and 'averaged weights are under the plain names' in said[0]
    )
    assert_loaded(detector, state)
    with pytest.raises(ValueError, match=r'unexpected \(1\): ema_of_something_else'):
        load_weights(detector, save({**state, **doubles, 'ema_of_something_else': torch.zeros(1)}), KEY)


@pytest.mark.parametrize('strict', [True, False])
def test_less_than_half_of_backbone_and_neck_is_an_error(detector, state, save, strict):
    body = {k: v for k, v in state.items() if k.startswith(('backbone.', 'neck.'))}
    total = sum(v.numel() for v in body.values())
    few, count = {}, 0
    for k, v in sorted(body.items(), key=lambda item: item[1].numel()):  # most of the names, few of the values
        if (count := count + v.numel()) * 2 < total:
            few[k] = v
    assert len(few) * 2 > len(body)
    for content in (few, {k: v for k, v in state.items() if k.startswith('bbox_head.')}, under('x', state)):
        with pytest.raises(ValueError, match=r'of the values of backbone and neck would be loaded') as caught:
            load_weights(detector, save(content), KEY, strict)
        assert 'strict=False' not in str(caught.value), 'advice that would train with nothing loaded'


def test_more_than_half_is_enough_where_that_is_wished(detector, state, save):
    del state['neck.lateral_convs.0.conv.bias']
    with pytest.raises(ValueError, match=r'teacher\.strict=False'):
        load_weights(detector, save(state), KEY)
    assert 'missing (1)' in load_weights(detector, save(state), KEY, strict=False).mismatch


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('name', ['backbone.bn1.running_var', 'bbox_head.retina_cls.weight'])
@pytest.mark.parametrize('strict', [True, False])
def test_weights_that_are_not_finite_are_named(detector, state, save, value, name, strict):
    state[name].flatten()[-1] = value
    with pytest.raises(ValueError, match=rf'teacher\.checkpoint=.*1 of \d+ weights are NaN or infinite: {name}'):
        load_weights(detector, save(state), KEY, strict)


def test_buffers_that_are_infinite_by_design_are_not(state, save):
    detector = MMDET_MODELS.build(tiny_retinanet())
    detector.neck.register_buffer('mask', torch.full((2,), -float('inf')))
    state = copy.copy(state)
    state['neck.mask'] = detector.neck.mask.clone()
    assert not load_weights(detector, save(state), KEY).mismatch

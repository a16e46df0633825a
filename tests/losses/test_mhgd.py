from __future__ import annotations

import copy
import functools

import numpy as np
import pytest
import torch
from conftest import annotated, tiny_retinanet
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.optim import build_optim_wrapper
from mmengine.runner.checkpoint import get_state_dict, load_state_dict

from mmkd_graph.losses import DistillContext, MHGDLoss, PyramidSpec
from mmkd_graph.necks import pool_instances, read_instances

STRIDES = (8, 16, 32)
PUBLISHED = dict(samples='instances', scaled=False, level_weights='equal')


def pyramid(seed=0, channels=(6, 6, 6), batch=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    sizes = zip(channels, (12, 6, 3), strict=True)
    return tuple(torch.randn(batch, c, n, n, generator=generator).to(dtype) for c, n in sizes)


def truth(seed=0, count=4):
    """Two samples with ``count`` boxes each."""
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for _ in range(2):
        corner = torch.rand(count, 2, generator=generator) * 40
        size = 16 + torch.rand(count, 2, generator=generator) * 40
        samples.append(annotated(torch.cat([corner, corner + size], dim=1), torch.arange(count)))
    return samples


def build(channels=(6, 6, 6), seed=0, **options):
    loss = MHGDLoss(**{'num_heads': 4, 'pool_size': 3, **PUBLISHED, **options})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        loss.bind(PyramidSpec(STRIDES, channels, channels, 'mhgd'))
    return loss


def terms_of(loss, student, teacher, samples):
    return loss(student, teacher, DistillContext(samples, STRIDES, (96, 96)))


def run(loss, student, teacher, samples):
    """Terms, gradients of the sum in the student and in the loss's parameters."""
    student = tuple(x.detach().requires_grad_() for x in student)
    terms = terms_of(loss, student, teacher, samples)
    grads = torch.autograd.grad(sum(terms.values()), [*student, *loss.parameters()])
    return {k: v.detach() for k, v in terms.items()}, grads[: len(student)], grads[len(student) :]


def seasoned(channels=(6, 6, 6), **options):
    """A loss whose running statistics and weights are no longer the initial ones."""
    return copy.deepcopy(_seasoned(channels, tuple(options.items())))


@functools.cache
def _seasoned(channels, options):
    loss = build(channels, **dict(options))
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.1)
    for seed in range(20):
        optimizer.zero_grad()
        sum(terms_of(loss, pyramid(seed + 50, channels), pyramid(seed, channels), truth(seed)).values()).backward()
        optimizer.step()
    optimizer.zero_grad()
    return loss


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('samples', ['instances', 'cells'])
def test_value_against_a_float64_reading_of_the_formula(samples, training):
    """As published, and by default with so many cells that all are drawn."""
    channels, heads, cells = (6, 8, 4), 4, samples == 'cells'
    options = dict(samples='cells', max_cells=1000, scaled=True, level_weights='area') if cells else {}
    loss = seasoned(channels=channels, **options).train(training)
    before = {k: v.double().numpy() for k, v in copy.deepcopy(loss.state_dict()).items()}
    kept = copy.deepcopy(loss)._kept_heads().numpy()
    assert kept.sum(1).tolist() == ([2, 2] if training else [4, 4])
    student, teacher, samples = pyramid(1, channels), pyramid(2, channels), truth(3)
    terms, _, _ = run(loss, student, teacher, samples)
    after = {k: v.double().numpy() for k, v in loss.state_dict().items()}
    corners = [[x, y, x + 8, y + 8] for y in range(0, 96, 8) for x in range(0, 96, 8)]
    boxes = [torch.tensor(corners, dtype=torch.float)] * 2 if cells else read_instances(samples).boxes

    vectors = dict(s=[], t=[])
    pooled = (pool_instances(side, STRIDES, boxes, 1 if cells else 3) for side in (student, teacher))
    for maps_s, maps_t in zip(*pooled, strict=True):
        rows_s, rows_t = [], []
        for map_s, map_t in zip(maps_s.flatten(2).double().numpy(), maps_t.flatten(2).double().numpy(), strict=True):
            if cells:
                rows_t.append(map_t[:, 0] / np.linalg.norm(map_t))
                rows_s.append(map_s[:, 0] / np.linalg.norm(map_s))
                continue
            v = np.linalg.svd(map_t.T)[2][0]
            v = v if (map_t.T @ v).sum() >= 0 else -v
            candidates = np.linalg.svd(map_s.T)[2][:4]
            best = max(candidates, key=lambda u, v=v: abs(u @ v))
            rows_t.append(v)
            rows_s.append(best * np.sign(best @ v))
        vectors['s'].append(np.stack(rows_s))
        vectors['t'].append(np.stack(rows_t))

    def norm(x, name, state, frozen):
        batch = training and not frozen
        mean, var = (x.mean(0), x.var(0)) if batch else (state[f'{name}.running_mean'], state[f'{name}.running_var'])
        return (x - mean) / np.sqrt(var + 1e-5) * state[f'{name}.weight'] + state[f'{name}.bias']

    def graphs(x, y, i, state, frozen):
        name = f'networks.{i}'
        key = norm(y @ state[f'{name}.key.weight'].T, f'{name}.key_norm', state, frozen)
        query = norm(x @ state[f'{name}.query.weight'].T, f'{name}.query_norm', state, frozen)
        width = key.shape[1] // heads
        key = key / np.sqrt(width) if cells else key
        return [key[:, h * width : (h + 1) * width] @ query[:, h * width : (h + 1) * width].T for h in range(heads)]

    graph = estimator = 0.0
    for i in range(2):
        x, y = vectors['t'][i], vectors['t'][i + 1]
        name = f'networks.{i}'
        values = np.maximum(norm(x @ before[f'{name}.value.weight'].T, f'{name}.value_norm', before, False), 0)
        heard = [on * softmax(g) @ values for g, on in zip(graphs(x, y, i, before, False), kept[i], strict=True)]
        told = np.concatenate(heard, axis=1) @ before[f'{name}.output.weight'].T + before[f'{name}.output.bias']
        cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(told, y, strict=True)]
        estimator += 1 - np.mean(cosines)
        # the student is read with the statistics that the teacher has just moved
        both = (graphs(vectors[side][i], vectors[side][i + 1], i, after, True) for side in 'st')
        p, q = (softmax(np.tanh(np.stack(g))) for g in both)
        graph += (0.8, 0.2)[i] * (p * np.log(p / q)).sum(-1).mean() if cells else (p * np.log(p / q)).sum(-1).mean() / 2
    assert terms['estimator'].item() == pytest.approx(estimator, rel=1e-3)
    assert terms['graph'].item() == pytest.approx(graph, rel=1e-2)
    assert graph > 1e-3


def test_cells_are_drawn_anew_and_need_no_box():
    loss, teacher, student = seasoned(samples='cells', max_cells=40), pyramid(2), pyramid(1)
    nothing = [annotated([], []), annotated([], [])]
    values = {run(copy.deepcopy(loss), student, teacher, nothing)[0]['graph'].item() for _ in range(3)}
    assert len(values) == 3 and all(value > 1e-4 for value in values)


def test_cells_of_the_wrong_sign_are_seen():
    """On one level, and on all of features that have a mean; a product of two levels hides that of centred ones."""

    def features(seed):
        return tuple(x + 0.5 for x in pyramid(seed))

    loss = build(samples='cells', max_cells=1000)
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.1)
    for seed in range(30):
        optimizer.zero_grad()
        sum(terms_of(loss, features(seed + 50), features(seed), truth(seed)).values()).backward()
        optimizer.step()
    loss.eval()
    teacher = features(2)
    same, other, one, every = (
        run(loss, student, teacher, truth())[0]['graph'].item()
        for student in (teacher, features(1), (-teacher[0], *teacher[1:]), tuple(-x for x in teacher))
    )
    assert abs(same) < 1e-6 and one > 0.5 * other and every > 0.25 * other


@pytest.mark.parametrize('samples', ['cells', 'instances', 'images'])
@pytest.mark.parametrize('side', [0, 1])
def test_what_is_not_a_number_in_either_pyramid_is_not_one_in_the_loss(samples, side):
    pair = [pyramid(1), pyramid(2)]
    pair[side] = (pair[side][0] * float('nan'), *pair[side][1:])
    boxes = truth()
    for sample in boxes:
        sample.set_metainfo(dict(img_shape=(96, 96)))
    terms, _, _ = run(seasoned(samples=samples), *pair, boxes)
    assert terms['graph'].isnan()


def test_each_term_trains_what_it_should():
    loss = seasoned()
    student, teacher = (tuple(x.requires_grad_() for x in pyramid(seed)) for seed in (1, 2))
    terms = terms_of(loss, student, teacher, truth())
    parameters = list(loss.parameters())
    into_student = torch.autograd.grad(terms['graph'], [*student, *parameters], retain_graph=True, allow_unused=True)
    assert all(g.abs().max() > 0 for g in into_student[:3]) and all(g is None for g in into_student[3:])
    into_heads = torch.autograd.grad(terms['estimator'], [*student, *parameters], retain_graph=True, allow_unused=True)
    assert all(g is None for g in into_heads[:3]) and all(g.abs().max() > 0 for g in into_heads[3:])
    sum(terms.values()).backward()
    assert all(x.grad is None for x in teacher)


def test_a_student_equal_to_its_teacher_costs_nothing():
    terms, student_grads, _ = run(seasoned(), pyramid(1), pyramid(1), truth())
    assert terms['graph'].abs() < 1e-6 and all(g.abs().max() < 1e-4 for g in student_grads)
    assert terms['estimator'] > 1e-2


def test_the_network_learns_the_teacher_and_the_student_the_graphs():
    loss, samples, teacher = build(), truth(), pyramid(2)
    student = [x.requires_grad_() for x in pyramid(1)]
    optimizer = torch.optim.Adam([*loss.parameters(), *student], lr=0.01)
    history = []
    for _ in range(150):
        terms = terms_of(loss, tuple(student), teacher, samples)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
        history.append({k: v.item() for k, v in terms.items()})
    assert np.mean([h['estimator'] for h in history[-10:]]) < 0.5 * history[0]['estimator']
    assert history[-1]['graph'] < 0.2 * max(h['graph'] for h in history)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_the_order_of_instances_and_images_changes_nothing(seed):
    loss = seasoned()
    student, teacher, samples = pyramid(seed), pyramid(seed + 1), truth(seed)
    shuffled = copy.deepcopy(samples)
    for sample in shuffled:
        sample.gt_instances = sample.gt_instances[torch.randperm(4, generator=torch.Generator().manual_seed(seed))]
    terms, _, _ = run(copy.deepcopy(loss), student, teacher, samples)
    mixed, _, _ = run(loss, *(tuple(x.flip(0) for x in side) for side in (student, teacher)), shuffled[::-1])
    for term in terms:
        torch.testing.assert_close(mixed[term], terms[term], rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize(
    'samples',
    [
        [annotated([], []), annotated([], [])],
        [annotated([], []), annotated([[4, 4, 50, 60], [9, 9, 9, 30]], [2, 0])],
    ],
    ids=['no box', 'one box'],
)
def test_fewer_than_two_samples_are_an_attached_zero(samples):
    loss = build()
    statistics = {k: v.clone() for k, v in loss.named_buffers() if 'running' in k}
    terms, *grads = run(loss, pyramid(1), pyramid(2), samples)
    assert all(value == 0 for value in terms.values())
    assert all(torch.equal(g, torch.zeros_like(g)) for part in grads for g in part)
    assert all(torch.equal(v, loss.get_buffer(k)) for k, v in statistics.items())


HARD = {
    'dead channels': lambda x: x * (torch.arange(x.shape[1]) % 3 > 0).view(1, -1, 1, 1),
    'all dead': torch.zeros_like,
    'constant maps': lambda x: torch.ones_like(x) * torch.arange(x.shape[1]).view(1, -1, 1, 1),
    'huge': lambda x: x * 1e4,
    'tiny': lambda x: x * 1e-6,
}


@pytest.mark.parametrize('hard', HARD)
def test_hard_features_give_finite_values_and_gradients(hard):
    for on_student, on_teacher in ((HARD[hard], HARD[hard]), (HARD[hard], lambda x: x), (lambda x: x, HARD[hard])):
        terms, *grads = run(build(), tuple(map(on_student, pyramid(1))), tuple(map(on_teacher, pyramid(2))), truth())
        assert all(value.isfinite() for value in terms.values()), terms
        assert all(grad.isfinite().all() for part in grads for grad in part)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    student, teacher = pyramid(1, dtype=dtype), pyramid(2, dtype=dtype)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        terms, grads, _ = run(build(), student, teacher, truth())
    wanted, _, _ = run(build(), *(tuple(x.float() for x in side) for side in (student, teacher)), truth())
    for term, value in terms.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, wanted[term])
    assert all(g.isfinite().all() and g.dtype == dtype for g in grads)


def test_resuming_continues_bit_for_bit_and_the_students_random_numbers_are_left_alone():
    loss, resumed = seasoned(), build(seed=9)
    resumed.load_state_dict(copy.deepcopy(loss.state_dict()))
    state = torch.get_rng_state()
    draws = set()
    for seed in (3, 4, 5):
        draws.add(str(copy.deepcopy(loss)._kept_heads()))
        wanted = run(loss, pyramid(seed), pyramid(seed + 1), truth(seed))
        found = run(resumed, pyramid(seed), pyramid(seed + 1), truth(seed))
        assert found[0] == wanted[0]
        assert all(torch.equal(a, b) for i in (1, 2) for a, b in zip(found[i], wanted[i], strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert len(draws) > 1, 'always the same heads were dropped'
    assert all(torch.equal(v, resumed.state_dict()[k]) for k, v in loss.state_dict().items())


def test_whole_images_can_be_the_samples():
    samples = [annotated([], []), annotated([], [])]
    for sample, shape in zip(samples, ((96, 64), (80, 96)), strict=True):
        sample.set_metainfo(dict(img_shape=shape))
    student, teacher = pyramid(1), pyramid(2)
    found, grads, _ = run(build(samples='images'), student, teacher, samples)
    boxes = [annotated([[0, 0, 64, 96]], [0]), annotated([[0, 0, 96, 80]], [0])]
    wanted, _, _ = run(build(), student, teacher, boxes)
    assert found == wanted and all(g.isfinite().all() for g in grads)


def test_weights_scale_the_terms():
    full, _, _ = run(build(), pyramid(1), pyramid(2), truth())
    scaled, _, _ = run(build(graph_weight=3.0, estimator_weight=0.5), pyramid(1), pyramid(2), truth())
    torch.testing.assert_close(scaled['graph'], 3 * full['graph'])
    torch.testing.assert_close(scaled['estimator'], 0.5 * full['estimator'])


@pytest.mark.parametrize(
    ('options', 'word'),
    [
        (dict(graph_weight=0), 'graph_weight: got 0'),
        (dict(estimator_weight=-1), 'estimator_weight: got -1'),
        (dict(num_heads=1), 'num_heads: got 1'),
        (dict(max_cells=1), 'max_cells: got 1'),
        (dict(pool_size=0), 'pool_size: got 0'),
        (dict(student_vectors=0), 'student_vectors: got 0'),
        (dict(samples='anchor'), "samples: got 'anchor', accepted is one of 'cells', 'instances', 'images'"),
        (dict(level_weights=(1, 1, 1)), r'losses\.mhgd\.level_weights=.*2 of them'),
        (dict(max_instances=0), 'max_instances: got 0'),
    ],
)
def test_bad_options_name_the_key(options, word):
    with pytest.raises(ValueError, match=word):
        build(**options)


def test_pyramids_that_can_not_be_used_are_refused_at_build():
    with pytest.raises(ValueError, match=r'losses\.mhgd: .*two paired levels'):
        MHGDLoss().bind(PyramidSpec((8,), (4,), (4,), 'mhgd'))
    with pytest.raises(ValueError, match=r'losses\.mhgd: .*equal ones'):
        MHGDLoss().bind(PyramidSpec((8, 16), (4, 4), (4, 6), 'mhgd'))


def distiller(student, teacher, **options):
    losses = dict(mhgd=dict(type='mmkd_graph.MHGDLoss', num_heads=2, **options))
    model = MMDET_MODELS.build(dict(type='mmkd_graph.GraphDistiller', student=student, teacher=teacher, losses=losses))
    model.init_weights()
    return model.train()


@pytest.mark.parametrize('weight', [50.0, dict(type='mmkd_graph.GradientRatio', ratio=0.5, iterations=2)])
def test_the_weight_of_the_loss_leaves_the_training_of_its_network_alone(student, teacher, batch, weight, monkeypatch):
    model = distiller(student, teacher, loss_weight=weight)
    loss = model.distill.losses['mhgd']
    forward, plain = loss.forward, {}

    def seen(*args):
        plain.update(forward(*args))
        return plain

    monkeypatch.setattr(loss, 'forward', seen)
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    for step in range(3):  # a measured weight is fixed in the second
        terms = model(**data, mode='loss')
        assert terms['loss_kd.mhgd.estimator'] == plain['estimator'] > 0, step
        factor = model.distill.weights['mhgd'].value if step == 2 else None
        assert factor is None or terms['loss_kd.mhgd.graph'] == plain['graph'] * factor
    assert factor > 10


@pytest.mark.parametrize('off', ['weight', 'factor'])
def test_without_weight_its_network_is_not_trained(student, teacher, batch, off):
    model = distiller(student, teacher, loss_weight=0.0 if off == 'weight' else 1.0)
    if off == 'factor':
        model.set_loss_factor('mhgd', 0.0)
    losses = model(**model.data_preprocessor(copy.deepcopy(batch), True), mode='loss')
    assert not any(key.startswith('loss_kd.mhgd') for key in losses)
    model.parse_losses(losses)[0].backward()
    assert all(p.grad is None or not p.grad.any() for p in model.distill.parameters())


def test_in_the_distiller_everything_learns_and_the_student_stays_plain(student, teacher, batch):
    model = MMDET_MODELS.build(
        dict(
            type='mmkd_graph.GraphDistiller',
            student=student,
            teacher=teacher,
            losses=dict(mhgd=dict(type='mmkd_graph.MHGDLoss', num_heads=2)),
        )
    )
    model.init_weights()
    model.train()
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    model.parse_losses(model(**data, mode='loss'))[0].backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    wrapper = build_optim_wrapper(model, dict(optimizer=dict(type='SGD', lr=0.01)))
    before = copy.deepcopy(model.state_dict())
    logged = [model.train_step(copy.deepcopy(batch), wrapper) for _ in range(3)][-1]
    assert logged['loss_kd.mhgd.graph'] > 0 and logged['loss_kd.mhgd.estimator'] > 0
    state = get_state_dict(model)
    heads = {k for k in state if k.startswith('distill.losses.mhgd.networks.')}
    assert len(heads) == 4 * 17 and state['distill.losses.mhgd.steps'] == 4
    assert all(not torch.equal(before[k], state[k]) for k in heads)
    plain = MMDET_MODELS.build(tiny_retinanet())
    load_state_dict(plain, {k: v for k, v in state.items() if not k.startswith('distill.')}, strict=True)

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_graph.losses import ChannelGraphLoss, DistillContext, PyramidSpec

STRIDES = (8, 16)
WEIGHTS = (1.0, 1.0, 1.0)  # vertex, edge, spectral
OPTIONS = [
    dict(),
    dict(vertex='unit'),
    dict(vertex='raw'),
    dict(graph='batch'),
    dict(affinity='pearson', graph='batch'),
    dict(affinity='rbf', weights='shift', knn=3),
    dict(distance='projection', solver='exact', diffusion_time=1.0, weights='abs'),
    dict(distance='projection', solver='subspace'),
    dict(distance='heat', diffusion_time=2.0),
    dict(taper=False, solver='exact'),
    dict(skip_trivial=True, weights='shift', solver='exact', diffusion_time=0.5),
    dict(spatial_attention=False, channel_attention=False, relational_attention=False),
]


def pyramid(seed=0, channels=12, batch=2, sizes=((8, 8), (4, 4)), dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, channels, h, w, generator=generator).to(dtype) for h, w in sizes)


def run(loss, student, teacher):
    student = tuple(x.detach().requires_grad_() for x in student)
    terms = loss(student, teacher, DistillContext((), STRIDES[: len(student)], batch_shape=(64, 64)))
    total = sum(terms.values())
    return {k: v.detach() for k, v in terms.items()}, torch.autograd.grad(total, student, allow_unused=True)


@pytest.mark.parametrize('options', OPTIONS, ids=str)
def test_equal_pyramids_cost_nothing_and_pull_nowhere(options):
    x = pyramid()
    terms, grads = run(ChannelGraphLoss(k=4, **options), x, x)
    assert set(terms) == {'vertex', 'edge', 'spectral'}
    for value in terms.values():
        torch.testing.assert_close(value, torch.zeros(()), atol=1e-5, rtol=0)
    for grad in grads:
        torch.testing.assert_close(grad, torch.zeros_like(grad), atol=1e-5, rtol=0)


@pytest.mark.parametrize('options', OPTIONS, ids=str)
def test_different_pyramids_cost_and_pull(options):
    terms, grads = run(ChannelGraphLoss(k=4, **options), pyramid(1), pyramid(2))
    assert all(value > 1e-4 for value in terms.values())
    assert all(grad.isfinite().all() and grad.abs().sum() > 0 for grad in grads)


HARD = {
    'dead channels': lambda x: x * (torch.arange(x.shape[1]) % 3 > 0).view(1, -1, 1, 1),
    'all dead': torch.zeros_like,
    'constant maps': lambda x: torch.ones_like(x) * torch.arange(x.shape[1]).view(1, -1, 1, 1),
    'identical channels': lambda x: x[:, :1].expand_as(x).contiguous(),
    'one position': lambda x: x[..., :1, :1].contiguous(),
    'one channel': lambda x: x[:, :1].contiguous(),
    'huge': lambda x: x * 1e4,
    'tiny': lambda x: x * 1e-6,
}


@pytest.mark.parametrize('options', OPTIONS, ids=str)
@pytest.mark.parametrize('hard', HARD)
def test_hard_features_give_finite_values_and_gradients(options, hard):
    make = HARD[hard]
    loss = ChannelGraphLoss(k=4, **options)
    sides = [(make, make)]
    if hard not in ('one position', 'one channel'):
        sides += [(make, lambda x: x), (lambda x: x, make)]
    for on_student, on_teacher in sides:
        student, teacher = tuple(map(on_student, pyramid(1))), tuple(map(on_teacher, pyramid(2)))
        terms, grads = run(loss, student, teacher)
        assert all(value.isfinite() for value in terms.values()), terms
        assert all(grad is None or grad.isfinite().all() for grad in grads)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), options=st.sampled_from(OPTIONS))
def test_one_permutation_of_both_sides_changes_nothing(seed, options):
    loss = ChannelGraphLoss(k=4, **options)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    student, teacher = pyramid(seed), pyramid(seed + 1)
    terms, _ = run(loss, student, teacher)
    mixed, _ = run(loss, tuple(x[:, order] for x in student), tuple(x[:, order] for x in teacher))
    # the block iteration is run to a tolerance, the rest is exact up to rounding
    slack = 2e-2 if options.get('solver', 'subspace') == 'subspace' and options.get('distance') != 'heat' else 1e-4
    for term in terms:
        torch.testing.assert_close(mixed[term], terms[term], rtol=slack, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(scale=st.floats(0.01, 100), channel=st.integers(0, 11))
def test_rescaling_a_student_channel_changes_nothing_of_the_graph(scale, channel):
    loss = ChannelGraphLoss(k=4, vertex='unit')
    student, teacher = pyramid(1), pyramid(2)
    scaled = tuple(x.clone() for x in student)
    for x in scaled:
        x[:, channel] *= scale
    a, _ = run(loss, student, teacher)
    b, _ = run(loss, scaled, teacher)
    for term in a:
        torch.testing.assert_close(a[term], b[term], rtol=1e-3, atol=1e-5)


# 'raw' and the width of 'rbf' are in the unit of the features.
@pytest.mark.parametrize('options', [x for x in OPTIONS if not {'raw', 'rbf'} & {*map(str, x.values())}], ids=str)
def test_the_unit_of_the_features_changes_nothing(options):
    loss = ChannelGraphLoss(k=4, **options)
    student, teacher = pyramid(1), pyramid(2)
    wanted, _ = run(loss, student, teacher)
    found, _ = run(loss, tuple(20 * x for x in student), tuple(20 * x for x in teacher))
    for term in wanted:
        torch.testing.assert_close(found[term], wanted[term], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize('graph', ['image', 'batch'])
def test_a_silent_student_misses_all_of_the_teachers_energy(graph):
    teacher = pyramid(2)
    terms, _ = run(ChannelGraphLoss(*WEIGHTS, k=4, graph=graph), tuple(torch.zeros_like(x) for x in teacher), teacher)
    assert terms['vertex'].item() == pytest.approx(1)


def test_where_the_teacher_is_silent_the_students_own_energy_counts():
    student = pyramid(1)
    loss = ChannelGraphLoss(*WEIGHTS, k=4, level_weights='alike')
    terms, _ = run(loss, student, tuple(torch.zeros_like(x) for x in student))
    assert terms['vertex'].item() == pytest.approx(np.mean([x.square().mean().item() for x in student]), rel=1e-5)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    loss = ChannelGraphLoss(k=4)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        terms, grads = run(loss, pyramid(1, dtype=dtype), pyramid(2, dtype=dtype))
    reference, _ = run(
        loss,
        tuple(x.float() for x in pyramid(1, dtype=dtype)),
        tuple(x.float() for x in pyramid(2, dtype=dtype)),
    )
    for term, value in terms.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, reference[term])
    assert all(g.dtype == dtype and g.isfinite().all() for g in grads)


@pytest.mark.parametrize('vertex', ['relative', 'unit', 'raw'])
def test_value_against_a_float64_reading_of_the_formula(vertex):
    """Cosine graph per image, all attention on, tapered residual distance: written again with loops in NumPy."""
    temperature, k = 0.7, 3
    student, teacher = pyramid(3, channels=6), pyramid(4, channels=6)
    attention = dict.fromkeys(('spatial_attention', 'channel_attention', 'relational_attention'), True)
    loss = ChannelGraphLoss(*WEIGHTS, k=k, solver='exact', temperature=temperature, vertex=vertex, **attention)
    terms, _ = run(loss, student, teacher)
    wanted = dict(vertex=[], edge=[], spectral=[])
    for s_level, t_level in zip(student, teacher, strict=True):
        for s, t in zip(s_level.double().numpy(), t_level.double().numpy(), strict=True):
            c, area = s.shape[0], s[0].size

            def softmax(x):
                e = np.exp(x - x.max())
                return e / e.sum()

            activity = np.abs(t)
            position = area * softmax(activity.mean(0).ravel() / activity.mean() / temperature)
            channel = c * softmax(activity.reshape(c, -1).mean(1) / activity.mean() / temperature)
            graph = {}
            for key, x in (('s', s), ('t', t)):
                v = x.reshape(c, -1) * np.sqrt(position)
                graph[key] = v / np.linalg.norm(v, axis=1, keepdims=True)
            a = {key: v @ v.T for key, v in graph.items()}
            matched = channel * (1 - (graph['s'] * graph['t']).sum(1))
            if vertex != 'unit':
                weight = channel[:, None] * position
                matched = (weight * (s - t).reshape(c, -1) ** 2).mean()
                if vertex == 'relative':
                    matched /= (weight * t.reshape(c, -1) ** 2).mean()
            wanted['vertex'].append(np.mean(matched))
            rows = np.stack([c * softmax(np.abs(a['t'][i]) / temperature) for i in range(c)])
            relation = (rows + rows.T) / 2
            wanted['edge'].append(np.mean(relation * (a['s'] - a['t']) ** 2))
            lap = {}
            for key, x in a.items():
                w = np.maximum(x, 0) * (1 - np.eye(c))
                d = w.sum(1)
                root = np.where(d > 0, 1 / np.sqrt(np.where(d > 0, d, 1)), 0)
                lap[key] = np.diag((d > 0).astype(float)) - root[:, None] * w * root
            e, u = np.linalg.eigh(lap['t'])
            taper = (e[k] - e[:k]) / (e[k] - e[0])
            wanted['spectral'].append(np.sum(((lap['s'] - lap['t']) @ u[:, :k] * taper) ** 2) / k)
    for term, values in wanted.items():
        every_cell_alike = np.repeat([0.8, 0.2], len(student[0]))
        assert terms[term].item() == pytest.approx(np.average(values, weights=every_cell_alike), rel=2e-3), term


def test_switches_leave_terms_out_and_weights_scale_them():
    student, teacher = pyramid(1), pyramid(2)
    full, _ = run(ChannelGraphLoss(*WEIGHTS, k=4), student, teacher)
    for names in itertools.product((0, 3.0), repeat=3):
        if not any(names):
            continue
        options = dict(zip(('vertex_weight', 'edge_weight', 'spectral_weight'), names, strict=True))
        terms, _ = run(ChannelGraphLoss(k=4, **options), student, teacher)
        assert set(terms) == {k.removesuffix('_weight') for k, v in options.items() if v}
        for term, value in terms.items():
            torch.testing.assert_close(value, 3 * full[term])


def test_level_weights_average_the_levels():
    student, teacher = pyramid(1), pyramid(2)
    parts = [run(ChannelGraphLoss(k=4), (s,), (t,))[0] for s, t in zip(student, teacher, strict=True)]
    for weights, shares in (('alike', (1 / 2, 1 / 2)), ((3.0, 1), (3 / 4, 1 / 4)), ('cells', (4 / 5, 1 / 5))):
        weighted, _ = run(ChannelGraphLoss(k=4, level_weights=weights), student, teacher)
        for term, value in weighted.items():
            torch.testing.assert_close(value, shares[0] * parts[0][term] + shares[1] * parts[1][term])


def test_one_graph_per_image_is_the_mean_over_images():
    student, teacher = pyramid(1), pyramid(2)
    whole, _ = run(ChannelGraphLoss(k=4), student, teacher)
    halves = [
        run(ChannelGraphLoss(k=4), tuple(x[i : i + 1] for x in student), tuple(x[i : i + 1] for x in teacher))[0]
        for i in range(2)
    ]
    for term in whole:
        torch.testing.assert_close(whole[term], (halves[0][term] + halves[1][term]) / 2, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ('options', 'word'),
    [
        (dict(affinity='euclid'), 'affinity'),
        (dict(graph='data set'), 'graph'),
        (dict(k=0), 'k: got 0'),
        (dict(k=16.0), 'k: got 16.0'),
        (dict(vertex_weight=float('nan')), 'vertex_weight: got nan'),
        (dict(knn=0), 'knn'),
        (dict(temperature=0), 'temperature'),
        (dict(edge_weight=-1), 'edge_weight'),
        (dict(vertex_weight=0, edge_weight=0, spectral_weight=0), 'all 0'),
    ],
)
def test_bad_options_name_the_key(options, word):
    with pytest.raises(ValueError, match=word):
        ChannelGraphLoss(**options)


def test_a_level_of_one_cell_has_the_same_value_whatever_the_rounding():
    """Its channels form two cliques: nearly all eigenvalues are equal, and which of them are kept is chance."""
    student, teacher = pyramid(1, channels=40, sizes=((1, 1),)), pyramid(2, channels=40, sizes=((1, 1),))
    for solver in ('exact', 'subspace'):
        loss = ChannelGraphLoss(k=4, solver=solver)
        wanted, _ = run(loss, student, teacher)
        rounded, _ = run(loss, student, tuple(x * 1.7 for x in teacher))
        torch.testing.assert_close(rounded['spectral'], wanted['spectral'], rtol=1e-5, atol=1e-7)
        assert wanted['spectral'] > 1e-3


def test_levels_of_different_width_are_averaged_like_others():
    student, teacher = pyramid(1), pyramid(2)
    narrow_s, narrow_t = pyramid(3, channels=7), pyramid(4, channels=7)
    loss = ChannelGraphLoss(k=4, level_weights='alike')
    both, _ = run(loss, (student[0], narrow_s[0]), (teacher[0], narrow_t[0]))
    one, _ = run(ChannelGraphLoss(k=4), student[:1], teacher[:1])
    other, _ = run(ChannelGraphLoss(k=4), narrow_s[:1], narrow_t[:1])
    for term in both:
        torch.testing.assert_close(both[term], (one[term] + other[term]) / 2)


def test_an_embedding_too_large_for_the_block_iteration_is_refused_at_build():
    wide, narrow = PyramidSpec((8,), (64,), (64,), 'crg'), PyramidSpec((8,), (32,), (32,), 'crg')
    ChannelGraphLoss(k=27).bind(wide)
    with pytest.raises(ValueError, match=r"losses\.crg\.k=28; accepted: at most 27, or any with solver='exact'"):
        ChannelGraphLoss(k=28).bind(wide)
    for loss in (ChannelGraphLoss(k=28, taper=False), ChannelGraphLoss(k=40, solver='exact')):
        loss.bind(wide)
    ChannelGraphLoss(k=40).bind(narrow)


@pytest.mark.parametrize(
    ('weights', 'words'),
    [
        ((1, 2, 3), r'=\(1, 2, 3\).*2 of them for the strides \(8, 16\)'),
        ((0, 0), 'not all 0'),
        ((1, -1), 'a finite number >= 0'),
        ('fine', r"='fine'; accepted: 'alike', 'cells'"),
        (3, "=3; accepted: 'alike', 'cells'"),
    ],
)
def test_level_weights_must_fit_the_levels(weights, words):
    loss = ChannelGraphLoss(level_weights=weights)
    with pytest.raises(ValueError, match=rf'losses\.crg\.level_weights.*{words}'):
        loss.bind(PyramidSpec(STRIDES, (4, 4), (4, 4), 'crg'))

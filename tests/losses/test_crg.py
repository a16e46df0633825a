"""CRG: what each term sees, at what scale, and against an independent reading of the formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.structures import DetDataSample
from torch.nn import functional as F

from mmkd_graph.losses import CRGLoss, DistillContext, PyramidSpec

STRIDES = (8, 16)
TERMS = ('vertex', 'edge', 'spectral')
ONE = dict(vertex_weight=1.0, edge_weight=1.0, spectral_weight=1.0)


def pyramid(seed, channels=12, sizes=((12, 16), (6, 8)), images=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    levels = []
    for h, w in sizes:
        noise = torch.randn(images, channels, h + 2, w + 2, generator=generator, dtype=torch.float64)
        levels.append((F.avg_pool2d(noise, 3, 1) * 3 + 0.2).to(dtype))
    return tuple(levels)


def context(shapes=None, sizes=(96, 128), strides=STRIDES):
    samples = [DetDataSample(metainfo=dict(img_shape=shape)) for shape in shapes or ()]
    return DistillContext(samples, strides, sizes)


def build(strides=STRIDES, **options):
    loss = CRGLoss(**options)
    loss.bind(PyramidSpec(strides, (12,) * len(strides), (12,) * len(strides), 'crg'))
    return loss


def values(student, teacher, where=None, **options):
    where = where or context()
    return {k: v.item() for k, v in build(where.strides, **{**ONE, **options})(student, teacher, where).items()}


def gradients(student, teacher, where=None, **options):
    student = tuple(x.detach().clone().requires_grad_() for x in student)
    where = where or context()
    terms = build(where.strides, **{**ONE, **options})(student, teacher, where)
    return terms, torch.autograd.grad(sum(terms.values()), student)


# ---------------------------------------------------------------------------- against the formulas


def test_values_against_a_float64_reading_of_the_formulas():
    """Window by window, with C × C matrices and an eigensolver; one image is smaller than the batch."""
    shapes, window, tau = [(96, 128), (72, 104)], 4, 2.0
    student, teacher = pyramid(1), pyramid(2)
    found = values(student, teacher, context(shapes), window=window, temperature=tau)
    wanted = dict(vertex=0.0, edge=0.0, spectral=0.0)
    shares = (0.8, 0.2)
    errors, energies = np.zeros((2, 2)), np.zeros((2, 2))
    for i, stride in enumerate(STRIDES):
        graphs, weights = dict(edge=[], spectral=[]), []
        for n, (height, width) in enumerate(shapes):
            rows, columns = -(-height // stride), -(-width // stride)
            s, t = (x[i][n].double().numpy()[:, :rows, :columns] for x in (student, teacher))
            activity = np.abs(t).mean(0)
            a = np.exp(activity / activity.mean() / tau)
            a *= a.size / a.sum()
            channel = np.abs(t).mean((1, 2))
            c = np.exp(channel / channel.mean() / tau)
            c *= c.size / c.sum()
            errors[i, n] = (a * c[:, None, None] * (s - t) ** 2).mean()
            energies[i, n] = (a * c[:, None, None] * t**2).mean()
            for y in range(0, rows, window):
                for x in range(0, columns, window):
                    s_rows, t_rows = (
                        (f * np.sqrt(a))[:, y : y + window, x : x + window].reshape(len(f), -1) for f in (s, t)
                    )
                    weights.append(s_rows.shape[1])
                    pair = [r / np.linalg.norm(r, axis=1, keepdims=True) for r in (s_rows, t_rows)]
                    affinity_s, affinity_t = (r @ r.T for r in pair)
                    energy = max(np.square(affinity_t).sum(), len(t) ** 2 / window**2)
                    graphs['edge'].append(np.square(affinity_s - affinity_t).sum() / energy)
                    m_s, m_t = (
                        w / np.sqrt(np.outer(w.sum(1), w.sum(1))) for w in ((1 + affinity_s) / 2, (1 + affinity_t) / 2)
                    )
                    # the eigenvalue 1 is there twice in windows of one cell: the trivial vector by its definition
                    trivial = np.sqrt(((1 + affinity_t) / 2).sum(1))
                    trivial /= np.linalg.norm(trivial)
                    eigenvalues, basis = np.linalg.eigh(m_t - np.outer(trivial, trivial))
                    distance = np.square((m_s - m_t) @ basis * eigenvalues).sum()
                    graphs['spectral'].append(distance / max((eigenvalues**4).sum(), 1e-6))
        for term, of_windows in graphs.items():
            wanted[term] += shares[i] * np.average(of_windows, weights=weights)
    floor = 1e-3 * energies.mean(0)
    wanted['vertex'] = (np.array(shares)[:, None] * errors / np.maximum(energies, floor)).sum(0).mean()
    for term in TERMS:
        assert found[term] == pytest.approx(wanted[term], rel=1e-4), term
        assert found[term] > 0.1, term


def test_gradients_are_those_of_the_values():
    student, teacher = (pyramid(s, 3, ((5, 6),), 1, torch.float64) for s in (1, 2))
    where = context([(40, 44)], (40, 48), (8,))
    for term in TERMS:
        options = {f'{name}_weight': float(name == term) for name in TERMS}
        loss = build(where.strides, **options, window=4)
        assert torch.autograd.gradcheck(
            lambda s, loss=loss, term=term: loss((s,), teacher, where)[term], student[0].requires_grad_()
        )


# ------------------------------------------------------------------------------- what each term sees


def test_a_student_equal_to_its_teacher_costs_nothing_and_is_not_moved():
    terms, grads = gradients(pyramid(1), pyramid(1))
    assert all(0 <= value.item() < 1e-5 for value in terms.values())
    assert all(g.abs().max() < 1e-3 for g in grads)


@pytest.mark.parametrize('window', [1, 2, 4, 5])
def test_each_term_sees_scrambled_cells(window):
    """Half as much as another image costs; the graph of the whole map sees nothing."""
    sizes = ((24, 32), (12, 16))
    teacher, other = pyramid(1, sizes=sizes), pyramid(2, sizes=sizes)
    generator = torch.Generator().manual_seed(0)
    scrambled = tuple(
        x.flatten(2)[..., torch.randperm(x[0, 0].numel(), generator=generator)].view_as(x) for x in teacher
    )
    where = context(sizes=(192, 256))
    seen, most = values(scrambled, teacher, where, window=window), values(other, teacher, where, window=window)
    assert all(seen[term] > 0.4 * most[term] for term in TERMS), (seen, most)
    whole = values(scrambled, teacher, where, window=32, temperature=None)
    assert whole['edge'] < 1e-4 and whole['spectral'] < 1e-4


def test_a_permutation_of_the_channels_or_of_whole_windows_of_both_changes_nothing():
    student, teacher = pyramid(1), pyramid(2)
    plain = values(student, teacher)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    for move in (
        lambda x: x[:, order],
        lambda x: x.roll(4, 3) if x.shape[3] % 4 == 0 else x,
        lambda x: x.flip(0),
    ):
        moved = values(tuple(map(move, student)), tuple(map(move, teacher)))
        assert moved == pytest.approx(plain, rel=1e-4)


@settings(max_examples=12, deadline=None)
@given(scale=st.sampled_from([1e-6, 1e-3, 1e2, 1e4]), seed=st.integers(0, 99))
def test_the_unit_of_the_features_does_not_count(scale, seed):
    student, teacher = pyramid(seed), pyramid(seed + 1)
    plain = values(student, teacher)
    assert values(*(tuple(scale * x for x in side) for side in (student, teacher))) == pytest.approx(plain, rel=1e-3)


def test_padding_changes_nothing():
    shapes = [(96, 128), (72, 104)]
    student, teacher = pyramid(1), pyramid(2)
    plain, grads = gradients(student, teacher, context(shapes))

    def padded(side, value):
        return tuple(F.pad(x, (0, 48 // s, 0, 80 // s), value=value) for x, s in zip(side, STRIDES, strict=True))

    wider, wide_grads = gradients(padded(student, 3.0), padded(teacher, -7.0), context(shapes, (176, 176)))
    for term in TERMS:
        assert wider[term].item() == pytest.approx(plain[term].item(), rel=1e-5)
    for g, wide in zip(grads, wide_grads, strict=True):
        torch.testing.assert_close(wide[..., : g.shape[2], : g.shape[3]], g, rtol=1e-3, atol=1e-6)
        assert wide[..., g.shape[2] :, :].abs().max() == 0


# --------------------------------------------------------------------------------- hard features

HARD = {
    'dead channels': lambda x: x * (torch.arange(x.shape[1]) % 3 > 0).view(1, -1, 1, 1),
    'all dead': torch.zeros_like,
    'constant maps': lambda x: torch.ones_like(x) * torch.arange(x.shape[1]).view(1, -1, 1, 1),
    'nearly constant': lambda x: 1 + 1e-6 * x,
    'huge': lambda x: x * 1e4,
    'tiny': lambda x: x * 1e-6,
    'sparse': lambda x: F.relu(x - 1.5),
}


@pytest.mark.parametrize('hard', HARD)
def test_hard_features_give_finite_values_and_gradients(hard):
    for on_student, on_teacher in ((HARD[hard], HARD[hard]), (HARD[hard], lambda x: x), (lambda x: x, HARD[hard])):
        terms, grads = gradients(tuple(map(on_student, pyramid(1))), tuple(map(on_teacher, pyramid(2))))
        assert all(value.isfinite() and value >= 0 for value in terms.values()), terms
        assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize('sizes', [((1, 1), (1, 1)), ((3, 2), (1, 2)), ((5, 7), (2, 3))])
@pytest.mark.parametrize('channels', [1, 3])
def test_small_maps_and_few_channels(sizes, channels):
    terms, grads = gradients(pyramid(1, channels, sizes), pyramid(2, channels, sizes))
    assert all(value.isfinite() for value in terms.values()) and all(g.isfinite().all() for g in grads)
    same = values(pyramid(1, channels, sizes), pyramid(1, channels, sizes))
    assert all(value < 1e-5 for value in same.values())


def test_a_level_on_which_the_teacher_is_nearly_dead_stays_in_proportion():
    student, teacher = pyramid(1), pyramid(2)
    quiet = (teacher[0], 1e-9 * teacher[1])
    assert values(student, quiet)['vertex'] < 1e3
    # a student that has next to nothing there as well is not pulled at
    assert values((student[0], 1e-9 * student[1]), quiet)['vertex'] == pytest.approx(
        0.8 / 1.0 * values(student[:1], teacher[:1], context(strides=(8,)))['vertex'], rel=1e-3
    )


@pytest.mark.parametrize('side', [0, 1])
def test_what_is_not_a_number_is_not_one_in_any_term(side):
    pair = [pyramid(1), pyramid(2)]
    broken = pair[side][0].clone()
    broken[0, 3, 2, 2] = torch.nan
    pair[side] = (broken, pair[side][1])
    assert all(np.isnan(value) for value in values(*pair).values())


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    student, teacher = pyramid(1, dtype=dtype), pyramid(2, dtype=dtype)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        terms, grads = gradients(student, teacher)
    wanted = values(*(tuple(x.float() for x in side) for side in (student, teacher)))
    assert {k: v.item() for k, v in terms.items()} == pytest.approx(wanted, rel=1e-6)
    assert all(v.dtype == torch.float32 for v in terms.values())
    assert all(g.isfinite().all() and g.dtype == dtype for g in grads)


# -------------------------------------------------------------------------------------- options


def test_weights_scale_their_terms_and_zero_leaves_them_out():
    plain = values(pyramid(1), pyramid(2))
    for term in TERMS:
        scaled = values(pyramid(1), pyramid(2), **{f'{term}_weight': 3.0})
        assert scaled == pytest.approx({k: v * (3 if k == term else 1) for k, v in plain.items()}, rel=1e-6)
        left = values(pyramid(1), pyramid(2), **{f'{term}_weight': 0.0})
        assert left == {k: v for k, v in plain.items() if k != term}


def test_without_attention_every_cell_and_channel_counts_alike():
    student, teacher = pyramid(1), pyramid(2)
    found = values(student, teacher, temperature=None)['vertex']
    ratio = [((s - t) ** 2).mean((1, 2, 3)) / (t**2).mean((1, 2, 3)) for s, t in zip(student, teacher, strict=True)]
    assert found == pytest.approx((0.8 * ratio[0] + 0.2 * ratio[1]).mean().item(), rel=1e-5)
    assert values(student, teacher)['vertex'] != pytest.approx(found, rel=1e-3)


@pytest.mark.parametrize(
    ('options', 'word'),
    [
        (dict(vertex_weight=-1), 'vertex_weight: got -1'),
        (dict(vertex_weight=0, edge_weight=0, spectral_weight=0), 'all 0'),
        (dict(window=0), 'window: got 0'),
        (dict(window=4.0), r'window: got 4\.0'),
        (dict(temperature=0), 'temperature: got 0'),
        (dict(level_weights=(1, 2, 3)), r'losses\.crg\.level_weights'),
    ],
)
def test_bad_options_name_the_key(options, word):
    with pytest.raises(ValueError, match=word):
        build(**options)

"""Channel graphs of windows against the full eigenproblem and the formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mmkd_graph.graph import spatial_attention
from mmkd_graph.graph.windows import (
    WindowLevels,
    cut_windows,
    edge_distance,
    spectral_distance,
    spectrum,
    unit_rows,
    window_attention,
)


def smooth(seed, channels=48, size=(8, 12), dtype=torch.float64):
    """Maps whose neighbouring cells are alike, as those of a detector."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(2, channels, size[0] + 2, size[1] + 2, generator=generator, dtype=torch.float64)
    return F.avg_pool2d(noise, 3, 1).to(dtype)


def full(rows):
    """M of one window's rows (C, L), in float64 NumPy, by its definition."""
    rows = rows.double().numpy()
    weights = (1 + rows @ rows.T) / 2
    root = np.sqrt(weights.sum(1))
    return weights / root[:, None] / root[None, :]


@pytest.mark.parametrize('size', [1, 2, 3, 4, 5, 20])
def test_windows_hold_every_cell_once(size):
    x = torch.arange(2 * 3 * 7 * 10.0).reshape(2, 3, 7, 10) + 1
    windows = cut_windows(x, size)
    for n in range(2):
        for c in range(3):
            cells = windows[n, :, c].flatten()
            assert torch.equal(cells[cells > 0].sort().values, x[n, c].flatten())
    if size == 20:
        assert torch.equal(windows, x.flatten(2).unsqueeze(1))
    rows, columns = min(size, 7), min(size, 10)
    assert torch.equal(windows[0, 0, 0].reshape(rows, columns), x[0, 0, :rows, :columns])


@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize('size', [1, 2, 4, 5])
def test_the_spectrum_is_that_of_the_whole_matrix(dtype, tolerance, size):
    rows = unit_rows(cut_windows(smooth(1, dtype=dtype), size)).flatten(0, 1)
    values, vectors = spectrum(rows)
    for i in range(len(rows)):
        wanted, basis = np.linalg.eigh(full(rows[i]))
        count = values.shape[1]
        np.testing.assert_allclose(values[i].numpy(), wanted[-count:], atol=tolerance)
        assert abs(wanted[:-count]).max() < 1e-10, 'what is left out is 0'
        strong = values[i] > 1e-4
        v = vectors[i][:, strong].double().numpy()
        np.testing.assert_allclose(v.T @ v, np.eye(v.shape[1]), atol=1e3 * tolerance)
        # the space they span, whatever the signs and the bases of equal values
        b = basis[:, -count:][:, strong.numpy()]
        np.testing.assert_allclose(v @ v.T, b @ b.T, atol=1e4 * tolerance)


@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_the_distances_are_those_of_the_formulas(dtype, tolerance):
    s, t = (unit_rows(cut_windows(smooth(seed, dtype=dtype), 4)) for seed in (1, 2))
    edges, energy = edge_distance(s, t)
    spectral, own = spectral_distance(s, t)
    for n in range(s.shape[0]):
        for k in range(s.shape[1]):
            a, b = (x[n, k].double().numpy() for x in (s, t))
            difference = np.square(a @ a.T - b @ b.T).sum()
            assert edges[n, k].item() == pytest.approx(difference, rel=tolerance)
            assert energy[n, k].item() == pytest.approx(np.square(b @ b.T).sum(), rel=tolerance)
            values, basis = np.linalg.eigh(full(t[n, k]))
            embedding = basis[:, :-1] * values[:-1]  # without the trivial pair
            assert values[-1] == pytest.approx(1)
            moved = (full(s[n, k]) - full(t[n, k])) @ embedding
            assert spectral[n, k].item() == pytest.approx(np.square(moved).sum(), rel=10 * tolerance)
            assert own[n, k].item() == pytest.approx((values[:-1] ** 4).sum(), rel=10 * tolerance)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    scale=st.sampled_from([0.0, 1e-6, 1.0, 1e4]),
    near=st.sampled_from([0.0, 1e-7, 1e-3, 1.0]),
    shape=st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9)),
)
def test_distances_are_never_negative_and_finite(seed, scale, near, shape):
    channels, height, width = shape
    t = scale * smooth(seed, channels, (height, width), torch.float32)
    s = (t + near * scale * smooth(seed + 1, channels, (height, width), torch.float32)).requires_grad_()
    rows_s, rows_t = (unit_rows(cut_windows(x, 4)) for x in (s, t))
    found = [*edge_distance(rows_s, rows_t), *spectral_distance(rows_s, rows_t)]
    assert all(x.isfinite().all() and (x >= 0).all() for x in found)
    (found[0].sum() + found[2].sum()).backward()
    assert s.grad.isfinite().all()


@pytest.mark.parametrize('distance', [edge_distance, spectral_distance])
def test_gradients_of_both_graphs_are_those_of_the_distance(distance):
    rows = [unit_rows(cut_windows(smooth(seed, 5, (2, 2), torch.float64), 2)).requires_grad_() for seed in (1, 2)]
    assert torch.autograd.gradcheck(distance, rows)


def test_a_constant_window_has_no_structure():
    rows = unit_rows(cut_windows(torch.ones(1, 8, 4, 4), 4))
    _, energy = spectral_distance(rows, rows)
    assert energy.item() < 1e-10
    values, vectors = spectrum(rows.flatten(0, 1))
    assert values[0, -1].item() == pytest.approx(1) and values[0, :-1].max() < 1e-6
    assert vectors[..., :-1].abs().max() == 0


def test_a_dead_channel_is_a_zero_row_without_gradient():
    x = smooth(1, 6, (4, 4), torch.float32)
    x[:, 2] *= 1e-9
    x.requires_grad_()
    rows = unit_rows(cut_windows(x, 4))
    assert rows[:, :, 2].abs().max() == 0
    lengths = torch.linalg.vector_norm(rows.detach(), dim=-1)
    torch.testing.assert_close(lengths[:, :, [0, 1, 3, 4, 5]], torch.ones(2, 1, 5))
    rows.square().sum().backward()
    assert x.grad[:, 2].abs().max() == 0


def test_windows_of_several_maps_are_as_those_of_each():
    """A map that is nearly dead beside another one has its own measure of what is dead, and its own attention."""
    maps = [smooth(1, 6, (8, 10)), 1e-6 * smooth(2, 6, (5, 4))]
    inside = [torch.ones(2, 1, 8, 10), torch.ones(2, 1, 5, 4)]
    inside[0][1, :, 6:] = 0
    maps = [x * valid for x, valid in zip(maps, inside, strict=True)]
    parts = [cut_windows(x, 4) for x in maps]
    levels = WindowLevels([x.shape[1] for x in parts], torch.device('cpu'))
    windows, valid = torch.cat(parts, 1), torch.cat([cut_windows(x, 4) for x in inside], 1).squeeze(2)
    assert torch.equal(unit_rows(windows, levels), torch.cat([unit_rows(x) for x in parts], 1))
    counts = levels.sums(valid.sum(-1))
    assert counts.tolist() == [[80, 20], [60, 20]]
    found = window_attention(windows.abs().mean(2), valid, counts, levels, 0.5).split([6, 2], dim=1)
    for n, rows in ((0, 8), (1, 6)):
        for x, mine, height in ((maps[0], found[0], rows), (maps[1], found[1], 5)):
            wanted = F.pad(
                spatial_attention(x[n : n + 1, :, :height], 0.5, normalize=True), (0, 0, 0, x.shape[2] - height)
            )
            torch.testing.assert_close(mine[n], cut_windows(wanted, 4)[0, :, 0])


def test_not_a_number_stays_one():
    x = smooth(1, 6, (4, 4), torch.float32)
    x[0, 0, 0, 0] = torch.nan
    assert unit_rows(cut_windows(x, 4))[0].isnan().any()


@pytest.mark.parametrize(
    ('call', 'word'),
    [
        (lambda: cut_windows(torch.ones(1, 2, 3, 4), 0), 'size: got 0'),
        (lambda: cut_windows(torch.ones(2, 3, 4), 2), r'features: got shape \(2, 3, 4\)'),
    ],
)
def test_bad_arguments_are_named(call, word):
    with pytest.raises(ValueError, match=word):
        call()


def test_graphs_that_are_not_finite_stay_alone():
    rows = unit_rows(cut_windows(smooth(3), 4)).flatten(0, 1)
    clean = spectrum(rows)
    rows[1, 0, 0] = torch.nan
    values, vectors = spectrum(rows)
    assert values[1].isnan().all() and vectors[1].isnan().all()
    assert torch.equal(values[2], clean.values[2])


def test_spectra_that_are_nearly_equal_lose_no_digits_in_single_precision():
    teacher = smooth(1, channels=64)
    student = teacher + 1e-3 * smooth(2, channels=64)

    def value_and_gradient(dtype):
        x = student.to(dtype).requires_grad_()
        distance, energy = spectral_distance(*(unit_rows(cut_windows(y.to(dtype), 4)) for y in (x, teacher)))
        value = (distance / energy).sum()
        return value.double(), torch.autograd.grad(value, x)[0].double()

    (value, gradient), (wanted, exact) = value_and_gradient(torch.float32), value_and_gradient(torch.float64)
    assert 0 < wanted < 1e-3
    torch.testing.assert_close(value, wanted, rtol=1e-3, atol=0)
    assert (gradient - exact).norm() < 1e-2 * exact.norm()


def test_equal_graphs_have_no_spectral_distance_and_no_gradient_at_all():
    teacher = unit_rows(cut_windows(smooth(1, dtype=torch.float32), 4))
    student = teacher.clone().requires_grad_()
    distance, _ = spectral_distance(student, teacher)
    assert not distance.any() and not torch.autograd.grad(distance.sum(), student)[0].any()

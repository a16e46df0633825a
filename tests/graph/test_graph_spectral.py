"""Projectors, distances between embeddings, and their gradients."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_graph.graph import (
    Spectrum,
    adjacency,
    channel_affinity,
    heat_distance,
    normalized_laplacian,
    projection_distance,
    residual_distance,
    residual_of_weights,
    spectral_embedding,
    spectral_projector,
)
from mmkd_graph.graph.solvers import exact_eigenpairs
from mmkd_graph.graph.spectral import _SpectralProjector


def laplacian_of(features, mode='shift'):
    return normalized_laplacian(adjacency(channel_affinity(features), mode))


def random_laplacian(seed, b=2, c=8, mode='shift', dtype=torch.float64):
    return laplacian_of(random_features(seed, b, c, dtype), mode)


def random_features(seed, b=2, c=8, dtype=torch.float64):
    return torch.randn(b, c, 3, 4, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def strong_laplacian(seed, b=2, c=48, k=8, dtype=torch.float32):
    """Features with k strong directions: a gap after k."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(b, c, k, generator=generator) @ torch.randn(b, k, 300, generator=generator)
    features = features + 0.3 * torch.randn(b, c, 300, generator=generator)
    return laplacian_of(features.to(dtype), 'clamp')


def residual(laplacian_s, laplacian_t, k=3, time=0.0):
    return residual_distance(laplacian_s, laplacian_t, spectral_embedding(laplacian_t, k), time)


DISTANCES = {
    'projection': lambda s, t: projection_distance(s, t, 3),
    'diffusion': lambda s, t: projection_distance(s, t, 3, diffusion_time=2.0),
    'projection, no trivial vector': lambda s, t: projection_distance(s, t, 3, skip_trivial=True),
    'residual': residual,
    'residual, taper': lambda s, t: residual_distance(s, t, spectral_embedding(t, 4), taper=s.shape[-1] > 4),
    'residual, diffusion': lambda s, t: residual(s, t, time=2.0),
    'heat': heat_distance,
    'difference': lambda s, t: heat_distance(s, t, 0.0),
}
each_distance = pytest.mark.parametrize('distance', DISTANCES.values(), ids=DISTANCES.keys())


# Values


@pytest.mark.parametrize('time', [0.0, 1.5])
@pytest.mark.parametrize('skip', [False, True])
def test_projection_distance_against_scipy(time, skip):
    student, teacher = random_laplacian(0), random_laplacian(1)
    found = projection_distance(student, teacher, 3, time, skip_trivial=skip)
    for index in range(2):
        parts = []
        for laplacian in (student[index].numpy(), teacher[index].numpy()):
            values, vectors = scipy.linalg.eigh(laplacian)
            first = int(skip)
            parts.append(
                sum(
                    math.exp(-time * values[i]) * np.outer(vectors[:, i], vectors[:, i])
                    for i in range(first, first + 3)
                )
            )
        wanted = 0.5 * ((parts[1] - parts[0]) ** 2).sum() / 3
        assert found[index].item() == pytest.approx(wanted, rel=1e-9)


def test_projection_distance_is_the_mean_squared_sine_of_the_angles():
    student, teacher = random_laplacian(0), random_laplacian(1)
    found = projection_distance(student, teacher, 3)
    for index in range(2):
        spaces = [scipy.linalg.eigh(x[index].numpy())[1][:, :3] for x in (student, teacher)]
        angles = scipy.linalg.subspace_angles(*spaces)
        assert found[index].item() == pytest.approx((np.sin(angles) ** 2).mean(), rel=1e-9)


@pytest.mark.parametrize('time', [0.0, 1.5])
def test_residual_and_heat_distance_against_scipy(time):
    student, teacher = random_laplacian(0), random_laplacian(1)
    by_residual, by_heat = residual(student, teacher, 3, time), heat_distance(student, teacher, time)
    for index in range(2):
        s, t = student[index].numpy(), teacher[index].numpy()
        values, vectors = scipy.linalg.eigh(t)
        kept = vectors[:, :3]
        wanted = ((s @ kept - kept * values[:3]) * np.exp(-time * values[:3])) ** 2
        assert by_residual[index].item() == pytest.approx(wanted.sum() / 3, rel=1e-9)
        wanted = ((s - t) @ scipy.linalg.expm(-time * t)) ** 2
        assert by_heat[index].item() == pytest.approx(wanted.sum() / 8, rel=1e-9)


@pytest.mark.parametrize('time', [0.0, 1.5])
def test_tapered_residual_distance_against_scipy(time):
    student, teacher = random_laplacian(0), random_laplacian(1)
    found = residual_distance(student, teacher, spectral_embedding(teacher, 4), time, taper=True)
    for index in range(2):
        s, t = student[index].numpy(), teacher[index].numpy()
        values, vectors = scipy.linalg.eigh(t)
        # c - t with its negative part cut off is what the taper makes of the teacher's Laplacian
        cut = np.clip(values[3] - values, 0, None) / (values[3] - values[0]) * np.exp(-time * values)
        wanted = ((s - t) @ (vectors * cut) @ vectors.T) ** 2
        assert found[index].item() == pytest.approx(wanted.sum() / 3, rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_tapered_residual_distance_does_not_depend_on_which_repeated_eigenvectors_are_kept(seed):
    # Two cliques of 6: eigenvalues 0, 0 and ten times 1.2. k = 4 cuts through the ten.
    clique = torch.ones(6, 6, dtype=torch.float64) - torch.eye(6, dtype=torch.float64)
    teacher = normalized_laplacian(torch.block_diag(clique, clique).unsqueeze(0))
    student = random_laplacian(seed, b=1, c=12)
    values, vectors = exact_eigenpairs(teacher)
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(10, 10, generator=generator, dtype=torch.float64)).Q
    turned = torch.cat([vectors[..., :2], vectors[..., 2:] @ turn], dim=-1)
    one, other = (
        [
            residual_distance(student, teacher, Spectrum(values[:, :5], basis[..., :5]), taper=taper).item()
            for basis in (vectors, turned)
        ]
        for taper in (True, False)
    )
    assert one[0] == pytest.approx(one[1], rel=1e-9) and one[0] > 0
    assert other[0] != pytest.approx(other[1], rel=1e-6)


def test_tapered_residual_distance_ignores_eigenvalues_equal_but_for_rounding():
    # One clique: a taper over eigenvalues 2 to 5 has nothing but their rounding to go by.
    clique = torch.ones(1, 6, 6) - torch.eye(6)
    values, vectors = exact_eigenpairs(normalized_laplacian(clique))
    spectrum = Spectrum(values[:, 1:5], vectors[..., 1:5])
    assert residual_distance(torch.eye(6)[None], normalized_laplacian(clique), spectrum, taper=True) < 1e-6


@pytest.mark.parametrize('taper', [True, False])
@pytest.mark.parametrize('time', [0.0, 1.5])
def test_residual_of_weights_is_the_residual_of_their_laplacian(taper, time):
    teacher, student = random_laplacian(2), adjacency(channel_affinity(random_features(3)), 'shift')
    spectrum = spectral_embedding(teacher, 4)
    values, grads = [], []
    for side, distance in ((lambda x: x, residual_of_weights), (normalized_laplacian, residual_distance)):
        weights = student.clone().requires_grad_()
        values.append(distance(side(weights), teacher, spectrum, time, taper))
        # Only one of the two ignores a diagonal other than 0.
        grads.append(torch.autograd.grad(values[-1].sum(), weights)[0] * (1 - torch.eye(8)))
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*grads)


def test_heat_distance_is_the_residual_over_the_whole_spectrum():
    student, teacher = random_laplacian(2), random_laplacian(3)
    torch.testing.assert_close(heat_distance(student, teacher, 1.5), residual(student, teacher, 8, 1.5))


def test_projector_with_every_vector_is_the_heat_kernel():
    laplacian = random_laplacian(4)
    torch.testing.assert_close(
        spectral_projector(laplacian, 100, diffusion_time=0.7), torch.linalg.matrix_exp(-0.7 * laplacian)
    )


# Invariances


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), name=st.sampled_from(list(DISTANCES)), order=st.permutations(range(8)))
def test_one_permutation_of_the_channels_of_both_changes_nothing(seed, name, order):
    student, teacher = random_features(seed), random_features(seed + 1)
    distance = DISTANCES[name]
    wanted = distance(laplacian_of(student), laplacian_of(teacher))
    found = distance(laplacian_of(student[:, order]), laplacian_of(teacher[:, order]))
    torch.testing.assert_close(found, wanted, atol=1e-8, rtol=1e-6)


@each_distance
def test_permuting_one_of_the_two_does_change_it(distance):
    student, teacher = random_features(0), random_features(1)
    wanted = distance(laplacian_of(student), laplacian_of(teacher))
    found = distance(laplacian_of(student.flip(1)), laplacian_of(teacher))
    assert not torch.allclose(found, wanted, rtol=1e-3)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), signs=st.lists(st.sampled_from([-1.0, 1.0]), min_size=3, max_size=3))
def test_residual_distance_does_not_see_signs_and_rotations(seed, signs):
    student, teacher = random_laplacian(seed), random_laplacian(seed + 1)
    values, vectors = spectral_embedding(teacher, 3)
    wanted = residual_distance(student, teacher, Spectrum(values, vectors))
    flipped = vectors * torch.tensor(signs, dtype=torch.float64)
    torch.testing.assert_close(residual_distance(student, teacher, Spectrum(values, flipped)), wanted)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed)).double()).Q
    turned = residual_distance(student, teacher, Spectrum(values, vectors @ turn))
    torch.testing.assert_close(turned, wanted)


def test_projection_does_not_see_the_gauge_of_repeated_eigenvalues():
    """Two components: the null space is one plane, whichever basis of it the solver returns."""
    weights = torch.zeros(1, 6, 6, dtype=torch.float64)
    weights[:, :3, :3] = weights[:, 3:, 3:] = 1
    laplacian = normalized_laplacian(weights)
    order = [3, 0, 4, 1, 5, 2]
    found = spectral_projector(laplacian[:, order][:, :, order], 2)
    torch.testing.assert_close(found, spectral_projector(laplacian, 2)[:, order][:, :, order])
    wanted = scipy.linalg.block_diag(np.full((3, 3), 1 / 3), np.full((3, 3), 1 / 3))
    np.testing.assert_allclose(found[0].numpy(), wanted[order][:, order], atol=1e-12)


# Zero at the teacher, and what each distance sees


@each_distance
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_zero_value_and_gradient_where_student_is_teacher(distance, dtype):
    student = random_features(5, dtype=dtype).requires_grad_()
    value = distance(laplacian_of(student), laplacian_of(student.detach()))
    assert torch.equal(value, torch.zeros(2, dtype=dtype)) or value.abs().max() < 1e-12
    value.sum().backward()
    assert student.grad.abs().max() < 1e-9


def test_subspace_solver_zero_value_and_gradient_where_student_is_teacher():
    student = strong_laplacian(0).requires_grad_()
    value = projection_distance(student, student.detach(), 8, solver='subspace')
    value.sum().backward()
    assert not value.any() and not student.grad.any()


@each_distance
def test_gradient_lowers_the_distance_and_leaves_the_teacher_alone(distance):
    student = random_laplacian(6).requires_grad_()
    teacher = random_laplacian(7).requires_grad_()
    before = distance(student, teacher).sum()
    before.backward()
    assert teacher.grad is None
    with torch.no_grad():
        after = distance(student - 1e-4 * student.grad / student.grad.norm(), teacher).sum()
    assert after < before


def test_residual_is_blind_to_an_extra_small_eigenvalue():
    """The student keeps the teacher's eigenpairs and gains one below them: the first k are others."""
    turn = torch.linalg.qr(torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(0)).double()).Q
    values = torch.tensor([0.0, 0.4, 0.5, 0.6, 1.2, 1.3, 1.4, 1.5], dtype=torch.float64)
    extra = values.clone()
    extra[6:] = 0.1
    teacher, student = ((turn * diagonal) @ turn.mT for diagonal in (values, extra))
    assert residual(student, teacher, 4).item() < 1e-20
    # Two of four vectors are others, at right angles.
    assert projection_distance(student, teacher, 4).item() == pytest.approx(0.5)
    assert heat_distance(student, teacher).item() > 0.01


def test_projection_without_diffusion_is_blind_to_eigenvalues_and_the_others_are_not():
    turn = torch.linalg.qr(torch.randn(1, 6, 6, generator=torch.Generator().manual_seed(0)).double()).Q
    values = torch.tensor([0.0, 0.2, 0.4, 1.0, 1.2, 1.4], dtype=torch.float64)
    moved = torch.tensor([0.0, 0.3, 0.6, 1.0, 1.2, 1.4], dtype=torch.float64)
    teacher, student = ((turn * diagonal) @ turn.mT for diagonal in (values, moved))
    assert projection_distance(student, teacher, 3).item() < 1e-20
    assert projection_distance(student, teacher, 3, diffusion_time=1.0).item() > 1e-3
    assert residual(student, teacher, 3).item() == pytest.approx((0.1**2 + 0.2**2) / 3)


# Gradients


@pytest.mark.parametrize('time', [0.0, 1.3])
@pytest.mark.parametrize(('k', 'skip'), [(3, False), (2, True), (8, False), (1, False)])
def test_projector_gradcheck(time, k, skip):
    laplacian = random_laplacian(8).requires_grad_()

    def function(matrix):
        return spectral_projector((matrix + matrix.mT) / 2, k, time, damping=0.0, skip_trivial=skip)

    assert torch.autograd.gradcheck(function, laplacian)


@pytest.mark.parametrize('time', [0.0, 1.3])
def test_projector_gradcheck_with_equal_kept_eigenvalues(time):
    """Exact degeneracy inside the kept part is no gap at all: the gradient stays exact."""
    turn = torch.linalg.qr(torch.randn(1, 6, 6, generator=torch.Generator().manual_seed(1)).double()).Q
    values = torch.tensor([0.3, 0.3, 0.3, 1.0, 1.4, 1.4], dtype=torch.float64)
    laplacian = ((turn * values) @ turn.mT).requires_grad_()

    def function(matrix):
        return spectral_projector((matrix + matrix.mT) / 2, 3, time, damping=0.0)

    assert torch.autograd.gradcheck(function, laplacian)


@pytest.mark.parametrize('time', [0.0, 1.3])
def test_distances_gradcheck_down_to_the_features(time):
    student = random_features(9, b=1, c=5).requires_grad_()
    teacher = random_laplacian(10, b=1, c=5)
    spectrum = spectral_embedding(teacher, 2)
    functions = [
        lambda x: projection_distance(laplacian_of(x), teacher, 2, time, damping=0.0),
        lambda x: residual_distance(laplacian_of(x), teacher, spectrum, time),
        lambda x: heat_distance(laplacian_of(x), teacher, time),
    ]
    for function in functions:
        assert torch.autograd.gradcheck(function, student)


def test_damping_shrinks_the_gradient_and_nothing_else():
    laplacian, teacher = random_laplacian(11), random_laplacian(12)
    norms, found = [], []
    for damping in (0.0, 1e-2, 1.0):
        student = laplacian.clone().requires_grad_()
        value = projection_distance(student, teacher, 3, damping=damping).sum()
        value.backward()
        norms.append(student.grad.norm().item())
        found.append(value.item())
    assert found[0] == found[1] == found[2]
    assert norms[0] > norms[1] > norms[2] > 0


REPEATED = {
    'no edges': torch.zeros(1, 6, 6),
    'complete': torch.ones(1, 6, 6),
    'two components': torch.block_diag(torch.ones(3, 3), torch.ones(3, 3)).unsqueeze(0),
    'ring': (torch.eye(6).roll(1, 0) + torch.eye(6).roll(-1, 0)).unsqueeze(0),
    'single channel': torch.zeros(1, 1, 1),
}


@pytest.mark.parametrize('weights', REPEATED.values(), ids=REPEATED.keys())
@pytest.mark.parametrize('damping', [0.0, 1e-3])
@each_distance
def test_finite_for_repeated_eigenvalues(weights, damping, distance):
    laplacian = normalized_laplacian(weights).requires_grad_()
    channels = weights.shape[-1]
    value = distance(laplacian, random_laplacian(13, b=1, c=channels, dtype=torch.float32))
    for k in (1, 2, 3):
        projector = spectral_projector(laplacian, k, 0.5, damping=damping)
        value = value + (projector * torch.arange(float(channels))).sum()
    value.sum().backward()
    assert value.isfinite().all() and laplacian.grad.isfinite().all()


def test_autograd_through_eigh_would_not_be_finite():
    """Why there is a custom gradient: the reason of the whole exercise, kept true."""
    laplacian = torch.zeros(1, 4, 4, requires_grad=True)
    vectors = torch.linalg.eigh(laplacian).eigenvectors[..., :2]
    ((vectors @ vectors.mT) * torch.arange(4.0)).sum().backward()
    assert not laplacian.grad.isfinite().all()


def hard_features(name):
    features = random_features(14, dtype=torch.float32)
    if name == 'dead channels':
        features[:, 2:5] = 0
    elif name == 'constant maps':
        features = torch.full_like(features, 0.3)
    elif name == 'zero maps':
        features = torch.zeros_like(features)
    elif name == 'one position':
        features = features[..., :1, :1]
    elif name == 'single channel':
        features = features[:, :1]
    return features


@pytest.mark.parametrize('name', ['dead channels', 'constant maps', 'zero maps', 'one position', 'single channel'])
@pytest.mark.parametrize('mode', ['clamp', 'shift', 'abs'])
@each_distance
def test_finite_for_hard_features(name, mode, distance):
    student = hard_features(name).clone().requires_grad_()
    teacher = random_features(15, c=student.shape[1], dtype=torch.float32)
    for s, t in ((student, teacher), (student, student.detach()), (teacher.clone().requires_grad_(), student)):
        value = distance(laplacian_of(s, mode), laplacian_of(t.detach(), mode))
        (grad,) = torch.autograd.grad(value.sum(), s)
        assert value.isfinite().all() and grad.isfinite().all()


@pytest.mark.parametrize('half', [torch.float16, torch.bfloat16])
@each_distance
def test_half_inputs_and_autocast_are_computed_in_float32(half, distance):
    """Half features give exactly what their float32 copies give, autocast or not."""
    student, teacher = random_features(16, dtype=half), random_features(17, dtype=half)
    wanted = distance(laplacian_of(student.float()), laplacian_of(teacher.float()))
    student.requires_grad_()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        value = distance(laplacian_of(student), laplacian_of(teacher))
    assert value.dtype == torch.float32 and torch.equal(value, wanted)
    value.sum().backward()
    assert student.grad.dtype == half and student.grad.isfinite().all() and student.grad.any()


@pytest.mark.parametrize('solver', ['exact', 'subspace'])
def test_backward_under_autocast_is_computed_in_float32(solver):
    laplacian = strong_laplacian(1)
    grads = []
    for enabled in (False, True):
        student = laplacian.clone().requires_grad_()
        projector = spectral_projector(student, 8, solver=solver)
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=enabled):
            grads.append(torch.autograd.grad(projector, student, torch.ones_like(projector))[0])
    assert torch.equal(*grads)


# Subspace solver


@pytest.mark.parametrize('time', [0.0, 1.3])
@pytest.mark.parametrize('skip', [False, True])
def test_subspace_agrees_with_exact(time, skip):
    laplacian, teacher = strong_laplacian(2, dtype=torch.float64), strong_laplacian(3, dtype=torch.float64)
    k = 8 - skip
    grads, projectors = [], []
    for solver, more in (('exact', {}), ('subspace', dict(rounds=10, cg_iterations=60))):
        student = laplacian.clone().requires_grad_()
        projector = spectral_projector(student, k, time, solver, 1e-3, skip, **more)
        grads.append(torch.autograd.grad((projector * teacher).sum(), student)[0])
        projectors.append(projector.detach())
    torch.testing.assert_close(projectors[1], projectors[0], atol=1e-6, rtol=0)
    assert grads[0].norm() > 1e-2
    assert (grads[1] - grads[0]).norm() < 1e-5 * grads[0].norm()


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_conjugate_gradients_stay_where_they_have_converged(dtype):
    laplacian = strong_laplacian(2, dtype=dtype).requires_grad_()
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(2, 48, 48, generator=generator, dtype=torch.float64).to(dtype)
    grads = []
    for solver, more in (('exact', {}), ('subspace', dict(rounds=8, cg_iterations=500))):
        projector = spectral_projector(laplacian, 8, solver=solver, **more)
        grads.append(torch.autograd.grad((projector * target).sum(), laplacian)[0])
    assert (grads[1] - grads[0]).norm() < 1e-3 * grads[0].norm()


def test_subspace_defaults_agree_with_exact_in_float32():
    laplacian, teacher = strong_laplacian(4), strong_laplacian(5)
    values, grads = [], []
    for solver in ('exact', 'subspace'):
        student = laplacian.clone().requires_grad_()
        value = projection_distance(student, teacher, 8, solver=solver)
        grads.append(torch.autograd.grad(value.sum(), student)[0])
        values.append(value.detach())
    torch.testing.assert_close(values[1], values[0], atol=1e-4, rtol=0)
    assert (grads[1] - grads[0]).norm() < 2e-2 * grads[0].norm()


@pytest.mark.parametrize('kind', ['empty', 'complete', 'pairs'])
def test_subspace_is_finite_for_repeated_eigenvalues(kind):
    weights = torch.full((1, 40, 40), float(kind == 'complete'))
    if kind == 'pairs':
        weights[:, range(0, 40, 2), range(1, 40, 2)] = weights[:, range(1, 40, 2), range(0, 40, 2)] = 1
    student = normalized_laplacian(weights).requires_grad_()
    for damping in (0.0, 1e-3):
        projector = spectral_projector(student, 8, 0.5, 'subspace', damping)
        (grad,) = torch.autograd.grad((projector * torch.arange(40.0)).sum(), student)
        assert projector.isfinite().all() and grad.isfinite().all()


def test_projector_takes_a_warm_start():
    before = strong_laplacian(6)
    start = spectral_embedding(before, 8).vectors
    laplacian = (0.98 * before + 0.02 * strong_laplacian(7)).requires_grad_()
    found = spectral_projector(laplacian, 8, solver='subspace', start=start)
    torch.testing.assert_close(found, spectral_projector(laplacian, 8), atol=2e-3, rtol=0)
    found.square().sum().backward()
    assert laplacian.grad.isfinite().all()


# Overflow and bad arguments


@each_distance
def test_overflow_stays_nan_in_its_own_graph(distance):
    student, teacher = random_laplacian(18, dtype=torch.float32), random_laplacian(19, dtype=torch.float32)
    wanted = distance(student, teacher)
    student[1, 2, 3] = student[1, 3, 2] = math.nan
    student.requires_grad_()
    found = distance(student, teacher)
    assert found[1].isnan() and torch.equal(found[0], wanted[0])
    found.sum().backward()
    assert student.grad[0].isfinite().all()


def test_distances_of_an_overflowing_teacher_are_nan():
    student, teacher = random_laplacian(18, dtype=torch.float32), random_laplacian(19, dtype=torch.float32)
    teacher[1, 2, 3] = teacher[1, 3, 2] = math.nan
    for distance in DISTANCES.values():
        found = distance(student, teacher)
        assert found[0].isfinite() and found[1].isnan()


def test_second_derivatives_are_refused():
    laplacian = random_laplacian(20).requires_grad_()
    (grad,) = torch.autograd.grad(spectral_projector(laplacian, 2).square().sum(), laplacian, create_graph=True)
    assert _SpectralProjector.__name__ and grad.requires_grad
    with pytest.raises(RuntimeError, match='once_differentiable'):
        grad.sum().backward()


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda a, b: spectral_projector(a, 2, -1.0), r'diffusion_time: got -1.0, accepted is a finite number >= 0'),
        (lambda a, b: spectral_projector(a, 2, damping=-1.0), r'damping: got -1.0'),
        (lambda a, b: spectral_projector(a, 2, cg_iterations=0), r'cg_iterations: got 0'),
        (lambda a, b: spectral_projector(a, 0), r'k: got 0'),
        (lambda a, b: projection_distance(a, b, 2), r'laplacian_t: got shape \(2, 5, 5\), accepted is the shape'),
        (lambda a, b: residual(a, b), r'laplacian_t: got shape \(2, 5, 5\)'),
        (lambda a, b: heat_distance(a, b), r'laplacian_t: got shape \(2, 5, 5\)'),
        (lambda a, b: heat_distance(a, a, -1), r'diffusion_time: got -1'),
        (lambda a, b: residual_distance(a, a, spectral_embedding(b, 2)), r'spectrum_t: got vectors of shape'),
        (
            lambda a, b: residual_distance(a, a, Spectrum(torch.zeros(2, 3), torch.zeros(2, 8, 2))),
            r'spectrum_t: got values of shape \(2, 3\), accepted is \(2, 2\)',
        ),
        (lambda a, b: projection_distance(a[0], b[0], 2), r'laplacian_s: got shape \(8, 8\)'),
        (lambda a, b: heat_distance(a.long(), a), r'laplacian_s, laplacian_t: got a tensor of torch.int64'),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call(random_laplacian(0), random_laplacian(1, c=5))

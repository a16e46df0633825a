from __future__ import annotations

import pytest
import torch

from mmkd_graph.necks import LowPassPyramid
from mmkd_graph.registry import MODELS


def levels(seed=0, batch=3, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, c, s, s, generator=generator).to(dtype) for c, s in ((6, 8), (10, 4)))


def build(**options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LowPassPyramid([6, 10], embed_channels=5, **options)


def test_every_scale_of_every_level_has_unit_samples():
    found = build()(levels())
    assert [[tuple(x.shape) for x in level] for level in found] == [
        [(3, 5, 8, 8), (3, 5, 4, 4), (3, 5, 2, 2), (3, 5, 1, 1)],
        [(3, 5, 4, 4), (3, 5, 2, 2), (3, 5, 1, 1), (3, 5, 1, 1)],
    ]
    for x in sum(found, ()):
        torch.testing.assert_close(x.flatten(1).norm(dim=1), torch.ones(3))


def test_the_projections_alone_are_learned():
    assert {name for name, _ in build().named_parameters()} == {f'projections.{level}.weight' for level in (0, 1)}
    assert set(build().state_dict()) == {f'projections.{level}.weight' for level in (0, 1)}


def test_the_projection_starts_orthogonal():
    narrow, wide = build().projections[1].weight[:, :, 0, 0], LowPassPyramid([3], 8).projections[0].weight[:, :, 0, 0]
    torch.testing.assert_close(narrow @ narrow.T, torch.eye(5))
    torch.testing.assert_close(wide.T @ wide, torch.eye(3))


def test_a_constant_level_stays_constant():
    constant = torch.randn(1, 6, 1, 1).expand(1, 6, 8, 8)
    for x in build()((constant, torch.zeros(1, 10, 4, 4)))[0]:
        torch.testing.assert_close(x, x[..., :1, :1].expand_as(x))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    neck = build()
    wanted = neck(tuple(x.float() for x in levels(dtype=dtype)))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = neck(levels(dtype=dtype))
    assert all(torch.equal(a, b) for a, b in zip(sum(found, ()), sum(wanted, ()), strict=True))


@pytest.mark.parametrize('scale', [0.0, 1e-20, 1e20])
@pytest.mark.parametrize('batch', [0, 1, 3])
def test_hard_levels_give_finite_values_and_gradients(scale, batch):
    neck = build()
    inputs = tuple((scale * x).requires_grad_() for x in levels(batch=batch))
    sum(x.sum() for x in sum(neck(inputs), ())).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in neck.parameters())
    assert all(x.grad.isfinite().all() for x in inputs)
    if scale == 0:
        assert all(not x.grad.any() for x in inputs)


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(embed_channels=0), 'embed_channels: got 0'),
        (dict(scales=()), 'scales'),
        (dict(scales=(1, 0)), 'scales'),
        (dict(scales=(2, 2)), 'once'),
    ],
)
def test_bad_options_name_the_key(options, words):
    with pytest.raises(ValueError, match=words):
        LowPassPyramid([4], **options)


def test_registered():
    assert MODELS.get('LowPassPyramid') is LowPassPyramid

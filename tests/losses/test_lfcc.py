from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import InstanceData

from mmkd_graph.graph import unit_length
from mmkd_graph.losses import DistillContext, LFCCLoss, PyramidSpec
from mmkd_graph.necks import pool_instances, read_instances

STRIDES = (8, 16)
SPEC = PyramidSpec(STRIDES, student_channels=(6, 7), teacher_channels=(9, 10), name='lfcc')
BOXES = (((4, 4, 60, 40), (20, 10, 50, 60), (0, 30, 30, 64)), ((8, 8, 56, 56), (30, 0, 64, 20)))


def pyramid(channels, seed=0, batch=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    levels = zip(channels, STRIDES, strict=True)
    return tuple(torch.randn(batch, c, 64 // s, 64 // s, generator=generator).to(dtype) for c, s in levels)


def student_of(seed=1, **kwargs):
    return pyramid(SPEC.student_channels, seed, **kwargs)


def teacher_of(seed=2, **kwargs):
    return pyramid(SPEC.teacher_channels, seed, **kwargs)


def context(boxes=BOXES, shape=(64, 64), wrap=lambda x: x):
    samples = []
    for rows in boxes:
        sample = DetDataSample(metainfo=dict(img_shape=shape))
        rows = torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)
        sample.gt_instances = InstanceData(bboxes=wrap(rows), labels=torch.zeros(len(rows), dtype=torch.long))
        samples.append(sample)
    return DistillContext(samples, STRIDES, (64, 64))


def build(spec=SPEC, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        loss = LFCCLoss(**dict(embed_channels=5, samples='instances') | options)
        loss.bind(spec)
    return loss


def run(loss, student, teacher, where=None):
    student = tuple(x.detach().requires_grad_() for x in student)
    terms = loss(student, teacher, where or context())
    assert set(terms) == {'contrast'}
    return terms['contrast'].detach(), torch.autograd.grad(terms['contrast'], [*student, *learned(loss)])


def learned(loss):
    return [p for p in loss.parameters() if p.requires_grad]


def read_with_loops(loss, student, teacher, temperature, scales):
    """The definition again, in float64 and with loops, from the pooled samples on."""
    boxes = read_instances(context().data_samples).boxes
    values = []
    for index in range(2):
        embedded = {}
        for side, levels, neck in (('s', student, loss.student), ('t', teacher, loss.teacher)):
            pooled = pool_instances(levels, STRIDES, boxes, loss.output_size)[index].double().numpy()
            projection = neck.projections[index].weight.detach().double().numpy()[:, :, 0, 0]
            for scale in scales:
                cells = pooled.shape[-1] // scale
                out = np.zeros((len(pooled), len(projection), cells, cells))
                for k, d, y, x in np.ndindex(out.shape):
                    for c in range(pooled.shape[1]):
                        window = pooled[k, c, y * scale : (y + 1) * scale, x * scale : (x + 1) * scale]
                        out[k, d, y, x] += projection[d, c] * window.mean()
                rows = out.reshape(len(out), -1)
                embedded[side, scale] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        for scale in scales:
            similar = np.exp(embedded['s', scale] @ embedded['t', scale].T / temperature)
            values.append(np.mean([-math.log(similar[i, i] / similar[i].sum()) for i in range(len(similar))]))
    return np.mean(values)


def test_value_against_a_float64_reading_of_the_formula():
    loss = build(output_size=4, scales=(1, 2, 4), temperature=0.3)
    student, teacher = student_of(), teacher_of()
    found, _ = run(loss, student, teacher)
    assert found.item() == pytest.approx(read_with_loops(loss, student, teacher, 0.3, (1, 2, 4)), rel=1e-5)


def test_the_right_pairing_is_the_least_of_all():
    """A student equal to its teacher does not cost nothing, but any other pairing of the images costs more."""
    spec = PyramidSpec(STRIDES, SPEC.teacher_channels, SPEC.teacher_channels, 'lfcc')
    loss = build(spec, samples='images')
    loss.student.load_state_dict(loss.teacher.state_dict())
    teacher, where = teacher_of(batch=4), context([()] * 4)
    values = {
        order: run(loss, tuple(x[list(order)] for x in teacher), teacher, where)[0].item()
        for order in itertools.permutations(range(4))
    }
    assert min(values, key=values.get) == (0, 1, 2, 3)
    assert values[0, 1, 2, 3] > 0


def test_cells_against_a_float64_reading_of_the_formula():
    """Every window that begins in its image is a sample, of all images together."""
    loss, student, teacher = build(samples='cells', scales=(1, 2, 3), temperature=0.3), student_of(), teacher_of()
    where = context([(), ()])
    shapes = (64, 40), (33, 64)
    for sample, shape in zip(where.data_samples, shapes, strict=True):
        sample.set_metainfo(dict(img_shape=shape))
    values = []
    for index, stride in enumerate(STRIDES):
        for scale in (1, 2, 3):
            rows = {'s': [], 't': []}
            for key, levels, neck in (('s', student, loss.student), ('t', teacher, loss.teacher)):
                projection = neck.projections[index].weight.detach().double().numpy()[:, :, 0, 0]
                for x, (height, width) in zip(levels[index].double().numpy(), shapes, strict=True):
                    side = x.shape[-1]
                    for top, left in itertools.product(range(0, side, scale), repeat=2):
                        if top * stride < height and left * stride < width:
                            places = itertools.product(range(top, top + scale), range(left, left + scale))
                            window = [x[:, min(i, side - 1), min(j, side - 1)] for i, j in places]
                            cell = projection @ np.mean(window, axis=0)
                            rows[key].append(cell / np.linalg.norm(cell))
            similar = np.exp(np.array(rows['s']) @ np.array(rows['t']).T / 0.3)
            values.append(np.mean(-np.log(np.diag(similar) / similar.sum(1))))
    found, _ = run(loss, student, teacher, where)
    assert found.item() == pytest.approx(np.mean(values), rel=1e-5)
    flipped = [tuple(x.flip(0) for x in side) for side in (student, teacher)]
    where.data_samples.reverse()
    torch.testing.assert_close(run(loss, *flipped, where)[0], found)


def test_cells_are_drawn_anew_where_there_are_too_many():
    torch.manual_seed(0)
    few, many = build(samples='cells', max_cells=5), build(samples='cells', max_cells=10_000)
    drawn = {run(few, student_of(), teacher_of())[0].item() for _ in range(4)}
    assert len(drawn) == 4
    assert len({run(many, student_of(), teacher_of())[0].item() for _ in range(2)}) == 1


def test_one_cell_is_an_attached_zero():
    student, teacher = ([x[:1, :, :1, :1] for x in side] for side in (student_of(), teacher_of()))
    value, grads = run(build(samples='cells'), student, teacher, context([()]))
    assert value.item() == 0
    assert all(not grad.any() for grad in grads)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_the_order_of_instances_and_images_does_not_matter(seed):
    generator = torch.Generator().manual_seed(seed)
    mixed = [[rows[i] for i in torch.randperm(len(rows), generator=generator)] for rows in BOXES]
    loss, student, teacher = build(), student_of(), teacher_of()
    wanted, _ = run(loss, student, teacher)
    flipped = [tuple(x.flip(0) for x in side) for side in (student, teacher)]
    torch.testing.assert_close(run(loss, student, teacher, context(mixed))[0], wanted)
    torch.testing.assert_close(run(loss, *flipped, context(mixed[::-1]))[0], wanted)


def test_boxes_of_either_kind_are_read():
    loss, student, teacher = build(), student_of(), teacher_of()
    wanted, _ = run(loss, student, teacher)
    assert torch.equal(run(loss, student, teacher, context(wrap=HorizontalBoxes))[0], wanted)


@pytest.mark.parametrize('teacher_projection', ['learned', 'fixed'])
def test_gradient_steps_find_the_pairs(teacher_projection):
    loss, teacher = build(teacher_projection=teacher_projection), teacher_of()
    student = tuple(x.requires_grad_() for x in student_of())
    before = [p.clone() for p in loss.teacher.parameters()]
    optimizer = torch.optim.Adam([*student, *learned(loss)], lr=0.02)
    values = []
    for _ in range(25):
        value = loss(student, teacher, context())['contrast']
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[0] > 0.9 * math.log(5)
    assert values[-1] < 0.3 * values[0]
    moved = any(not torch.equal(a, b) for a, b in zip(before, loss.teacher.parameters(), strict=True))
    assert moved == (teacher_projection == 'learned')


def test_collapse_is_no_solution():
    """Samples that all point nearly the same way cost log K; training the projections alone draws them apart."""
    loss, where = build(samples='images', teacher_projection='learned'), context([()] * 6)
    # a mean that all samples share
    student, teacher = (tuple(x + 5 for x in side) for side in (student_of(batch=6), teacher_of(batch=6)))
    pooled = pool_instances(teacher, STRIDES, where.image_boxes, loss.output_size)

    def likeness():
        with torch.no_grad():
            rows = unit_length(loss.teacher(pooled)[0].flatten(1))
        return (rows @ rows.T).mean()

    assert likeness() > 0.9
    optimizer = torch.optim.Adam(learned(loss), lr=0.02)
    values = []
    for _ in range(60):
        value = loss(student, teacher, where)['contrast']
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[0] == pytest.approx(math.log(6), rel=0.05)
    assert values[-1] < 0.6 * values[0]
    assert likeness() < 0.7


@pytest.mark.parametrize('boxes', [((), ()), (((4, 4, 60, 40),), ()), (((4, 4, 4, 40),), ())])
def test_nothing_to_contrast_is_an_attached_zero(boxes):
    value, grads = run(build(), student_of(), teacher_of(), context(boxes))
    assert value.item() == 0
    assert all(not grad.any() for grad in grads)  # there is one for each: nothing is left unused


HARD = {
    'dead': lambda x: torch.zeros_like(x),
    'dead channels': lambda x: x * (torch.arange(x.shape[1]) % 3 > 0).view(1, -1, 1, 1),
    'constant': lambda x: torch.ones_like(x) * torch.arange(x.shape[1]).view(1, -1, 1, 1),
    'huge': lambda x: x * 1e4,
    'tiny': lambda x: x * 1e-6,
    'vanishing': lambda x: x * 1e-20,
    'overflowing': lambda x: x * 1e20,
}


@pytest.mark.parametrize('samples', ['instances', 'images', 'cells'])
@pytest.mark.parametrize('hard', HARD)
def test_hard_features_give_finite_values_and_gradients(samples, hard):
    make, keep = HARD[hard], lambda x: x
    for on_student, on_teacher in ((make, make), (make, keep), (keep, make)):
        student, teacher = tuple(map(on_student, student_of())), tuple(map(on_teacher, teacher_of()))
        value, grads = run(build(samples=samples), student, teacher)
        assert value.isfinite() and all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    loss, sides = build(), (student_of(dtype=dtype), teacher_of(dtype=dtype))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        value, grads = run(loss, *sides)
    wanted, _ = run(loss, *(tuple(x.float() for x in side) for side in sides))
    assert value.dtype == torch.float32 and torch.equal(value, wanted)
    assert all(grad.isfinite().all() for grad in grads)


def test_the_teacher_gets_no_gradient():
    teacher = tuple(x.requires_grad_() for x in teacher_of())
    loss = build(teacher_projection='learned')
    loss(student_of(), teacher, context())['contrast'].backward()
    assert all(x.grad is None for x in teacher)
    assert all(p.grad.abs().sum() > 0 for p in loss.teacher.parameters())


def test_what_is_learned_on_each_side():
    def names(**options):
        return {name.split('.')[0] for name, p in named(build(**options))}

    def named(loss):
        return [(name, p) for name, p in loss.named_parameters() if p.requires_grad]

    assert names() == {'student'}
    assert names(teacher_projection='learned') - names() == {'teacher'}
    kept = {f'{side}.projections.{level}.weight' for side in ('student', 'teacher') for level in (0, 1)}
    assert set(build().state_dict()) == kept, 'a fixed projection must be the same after a resume'


def test_the_projections_start_orthogonal():
    narrow, wide = (build(embed_channels=n).student.projections[0].weight[:, :, 0, 0] for n in (5, 8))
    torch.testing.assert_close(narrow @ narrow.T, torch.eye(5))
    torch.testing.assert_close(wide.T @ wide, torch.eye(6))


def test_the_global_random_generator_is_left_alone():
    loss, state = build(), torch.get_rng_state()
    run(loss, student_of(), teacher_of())
    assert torch.equal(torch.get_rng_state(), state)


def test_images_end_where_their_padding_begins():
    loss, student, teacher = build(samples='images'), student_of(), teacher_of()
    where = context(shape=(32, 32))
    wanted, _ = run(loss, student, teacher, where)
    for x in (*student, *teacher):
        cells = 32 // (64 // x.shape[-1])
        x[..., cells + 1 :, :] = 100  # bilinear sampling reads one cell further
        x[..., :, cells + 1 :] = 100
    assert torch.equal(run(loss, student, teacher, where)[0], wanted)
    assert not torch.equal(run(loss, student, teacher)[0], wanted)


def test_level_weights_average_the_levels():
    student, teacher = student_of(), teacher_of()
    plain, first, weighted = (
        run(build(level_weights=weights), student, teacher)[0] for weights in ('equal', (1, 0), (3, 1))
    )
    second = 2 * plain - first
    torch.testing.assert_close(weighted, (3 * first + second) / 4)
    assert not torch.isclose(first, second)


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(temperature=0), 'temperature: got 0'),
        (dict(samples='pixels'), "samples: got 'pixels'.*'images'"),
        (dict(max_cells=1), 'max_cells'),
        (dict(samples='instances', scales=(1, 16)), r'scales: got \(1, 16\).*output_size, 8'),
        (dict(scales=()), 'scales'),
        (dict(scales=(1, 0)), 'scales'),
        (dict(scales=(2, 2)), 'scales.*once'),
        (dict(embed_channels=0), 'embed_channels: got 0'),
        (dict(output_size=0), 'output_size: got 0'),
        (dict(max_instances=0), 'max_instances: got 0'),
        (dict(teacher_projection='none'), "^teacher_projection: got 'none'.*'fixed'"),
    ],
)
def test_bad_options_name_the_key(options, words):
    with pytest.raises(ValueError, match=words):
        LFCCLoss(**options)


def test_level_weights_must_fit_the_levels():
    with pytest.raises(ValueError, match=r'losses\.lfcc\.level_weights.*2 of them'):
        LFCCLoss(level_weights=(1, 2, 3)).bind(SPEC)

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import InstanceData

from mmkd_graph.losses import DistillContext, FGDLoss, PyramidSpec

BOXES = ([[4.0, 4.0, 40.0, 36.0], [20.0, 8.0, 46.0, 20.0]], [[10.0, 0.0, 18.0, 39.0]])
TEMPERATURE = 0.5


def pyramid(seed):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, 4, h, w, generator=generator) for h, w in ((5, 6), (3, 3)))


def context(boxes=BOXES, kind=torch.clone, shapes=((40, 48), (40, 20))):
    samples = []
    for image, (its_boxes, shape) in enumerate(zip(boxes, shapes, strict=True)):
        sample = DetDataSample(metainfo=dict(img_shape=shape, img_id=image))
        sample.gt_instances = InstanceData(bboxes=kind(torch.tensor(its_boxes).reshape(-1, 4)))
        samples.append(sample)
    return DistillContext(data_samples=samples, strides=(8, 16), batch_shape=(40, 48))


def built(randomized=True, **options):
    """The loss with blocks whose last layer is not the zero it starts from."""
    torch.manual_seed(0)
    loss = FGDLoss(temperature=TEMPERATURE, **options)
    loss.bind(PyramidSpec((8, 16), (4, 4), (4, 4), 'fgd'))
    loss.init_weights()
    if randomized:
        for parameter in loss.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return loss


def attention(f):
    """Spatial (H, W) and channel (C,) attention of one image (C, H, W)."""
    c, h, w = f.shape
    space = np.array([[sum(abs(f[k, y, x]) for k in range(c)) / c for x in range(w)] for y in range(h)])
    channel = np.array([sum(abs(v) for v in f[k].ravel()) / (h * w) for k in range(c)])
    exps = [np.exp(a / TEMPERATURE) for a in (space, channel)]
    return h * w * exps[0] / exps[0].sum(), c * exps[1] / exps[1].sum()


def context_block(f, block):
    """GcBlock of one image: attention pooling, then conv, layer norm, ReLU, conv, added to every position."""
    weights = {key: value.double().numpy() for key, value in block.state_dict().items()}
    h, w = f.shape[1:]
    score = np.array([[weights['conv_mask.weight'][0, :, 0, 0] @ f[:, y, x] for x in range(w)] for y in range(h)])
    score = np.exp(score + weights['conv_mask.bias'][0])
    pooled = (f * score / score.sum()).sum((1, 2))
    hidden = weights['channel_add_conv.0.weight'][:, :, 0, 0] @ pooled + weights['channel_add_conv.0.bias']
    hidden = (hidden - hidden.mean()) / np.sqrt(hidden.var() + 1e-5)
    hidden = hidden * weights['channel_add_conv.1.weight'].ravel() + weights['channel_add_conv.1.bias'].ravel()
    added = (
        weights['channel_add_conv.3.weight'][:, :, 0, 0] @ np.maximum(hidden, 0) + weights['channel_add_conv.3.bias']
    )
    return f + added[:, None, None]


def test_value_against_a_float64_reading_with_loops():
    loss, student, teacher = built(), pyramid(1), pyramid(2)
    wanted = dict(foreground=0.0, background=0.0, attention=0.0, relation=0.0)
    for level, stride in enumerate((8, 16)):
        for image, boxes in enumerate(BOXES):
            s, t = (x[level][image].double().numpy() for x in (student, teacher))
            c, h, w = s.shape
            (space_s, channel_s), (space_t, channel_t) = attention(s), attention(t)
            objects = np.zeros((h, w))
            for x1, y1, x2, y2 in boxes:
                x1, y1 = math.floor(x1 / stride), math.floor(y1 / stride)
                x2, y2 = math.ceil(x2 / stride) + 1, math.ceil(y2 / stride) + 1
                objects[y1:y2, x1:x2] = np.maximum(objects[y1:y2, x1:x2], 1 / ((x2 - x1) * (y2 - y1)))
            empty = sum(objects[y, x] == 0 for y in range(h) for x in range(w))
            for k, y, x in np.ndindex(c, h, w):
                squared = channel_t[k] * space_t[y, x] * (s[k, y, x] - t[k, y, x]) ** 2
                wanted['foreground'] += 1e-3 * objects[y, x] * squared / 2
                wanted['background'] += 5e-4 * (objects[y, x] == 0) * squared / max(empty, 1) / 2
            wanted['attention'] += 5e-4 * np.abs(space_s - space_t).sum() / 2
            wanted['attention'] += 5e-4 * np.abs(channel_s - channel_t).sum() / 2
            difference = context_block(s, loss.student_blocks[level]) - context_block(t, loss.teacher_blocks[level])
            wanted['relation'] += 5e-6 * (difference**2).sum() / 2
    terms = loss(student, teacher, context())
    assert terms.keys() == wanted.keys()
    for term, value in wanted.items():
        assert value > 0
        assert terms[term].item() == pytest.approx(value, rel=1e-5), term


def test_blocks_start_as_the_identity():
    """As the authors', whose last convolution is 0: at first the relation is the plain squared difference."""
    student, teacher = pyramid(1), pyramid(2)
    wanted = sum((s - t).square().sum() / 2 for s, t in zip(student, teacher, strict=True))
    torch.testing.assert_close(built(randomized=False)(student, teacher, context())['relation'], 5e-6 * wanted)


def test_learned_blocks_are_saved_under_the_loss():
    names = {name.split('.')[0] for name in built().state_dict()}
    assert names == {'student_blocks', 'teacher_blocks'}
    assert built(relation_weight=0).state_dict() == {}


def test_box_types_and_unpadded_sizes_do_not_matter():
    """mmdet's boxes are a tensor or ``HorizontalBoxes``, in pixels of the padded batch whatever the image's size."""
    loss, student, teacher = built(), pyramid(1), pyramid(2)
    wanted = loss(student, teacher, context())
    for given in (context(kind=HorizontalBoxes), context(shapes=((40, 48), (40, 48)))):
        found = loss(student, teacher, given)
        assert all(torch.equal(found[term], wanted[term]) for term in wanted)


def test_without_boxes_the_foreground_is_an_attached_zero_and_all_is_background():
    student = tuple(x.requires_grad_() for x in pyramid(1))
    terms = built()(student, pyramid(2), context(([], [])))
    assert terms['foreground'] == 0 and terms['background'] > 0
    gradients = torch.autograd.grad(terms['foreground'], student)
    assert all(g.abs().max() == 0 for g in gradients)


def test_full_of_boxes_the_background_is_an_attached_zero():
    student = tuple(x.requires_grad_() for x in pyramid(1))
    terms = built()(student, pyramid(2), context(([[0.0, 0.0, 48.0, 40.0]],) * 2))
    assert terms['background'] == 0 and terms['foreground'] > 0
    assert all(g.abs().max() == 0 for g in torch.autograd.grad(terms['background'], student))


def test_switches_leave_terms_out():
    student, teacher = pyramid(1), pyramid(2)
    names = ('foreground', 'background', 'attention', 'relation')
    full = built(randomized=False)(student, teacher, context())
    for name in names:
        others = {f'{other}_weight': 0 for other in names if other != name}
        terms = built(randomized=False, **others)(student, teacher, context())
        assert set(terms) == {name}
        torch.testing.assert_close(terms[name], full[name])


@pytest.mark.parametrize('options', [dict(temperature=0), dict(relation_weight=-1), dict(foreground_weight='a')])
def test_bad_options_name_the_key(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        FGDLoss(**options)


def test_levels_of_one_channel_have_no_relation():
    spec = PyramidSpec((8,), (1,), (1,), 'fgd')
    with pytest.raises(ValueError, match=r'losses\.fgd\.relation_weight'):
        FGDLoss().bind(spec)
    FGDLoss(relation_weight=0).bind(spec)

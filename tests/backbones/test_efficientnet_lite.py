from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import import_tool
from mmdet.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional

from mmkd_graph.backbones import EfficientNetLite

NAMES = {
    'conv': {'expand_conv': '_expand_conv', 'depthwise_conv': '_depthwise_conv', 'linear_conv': '_project_conv'},
    'bn': {'expand_conv': '_bn0', 'depthwise_conv': '_bn1', 'linear_conv': '_bn2'},
}


def public_name(name: str, blocks: list[int]) -> str:
    """What the packages call a tensor of ours; ``blocks``: how many blocks the stages before each one have."""
    _, stage, *rest = name.split('.')
    if stage == '0':
        return f'{dict(conv="_conv_stem", bn="_bn0")[rest[0]]}.{rest[1]}'
    block, part, kind, last = rest
    return f'_blocks.{blocks[int(stage) - 1] + int(block)}.{NAMES[kind][part]}.{last}'


def as_published(backbone: EfficientNetLite) -> dict[str, Tensor]:
    """Random weights of the backbone as the packages have them, with a head of a few channels."""
    blocks = [sum(len(stage) for stage in backbone.layers[1:i]) for i in range(1, len(backbone.layers))]
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, value in backbone.state_dict().items():
        drawn = torch.randn(value.shape, generator=generator)
        if name.endswith('conv.weight'):
            drawn *= value[0].numel() ** -0.5
        elif name.endswith(('bn.weight', 'running_var')):
            drawn = 1 + 0.3 * drawn.clamp(-2, 2)
        weights[public_name(name, blocks)] = drawn.to(value.dtype)
    head = {'_conv_head.weight': torch.rand(4, 320, 1, 1), '_bn1.bias': torch.rand(4), '_fc.weight': torch.rand(9, 4)}
    return weights | head


def same(x: Tensor, weights: dict[str, Tensor], prefix: str, norm: str, stride: int = 1, groups: int = 1) -> Tensor:
    """A convolution padded as TensorFlow's SAME, and its batch norm with fixed statistics."""
    kernel = weights[f'{prefix}.weight']
    missing = [max((-(-side // stride) - 1) * stride + kernel.shape[-1] - side, 0) for side in x.shape[-2:]]
    x = functional.pad(x, [end for side in missing[::-1] for end in (side // 2, side - side // 2)])
    x = functional.conv2d(x, kernel, stride=stride, groups=groups)
    mean, var, scale, shift = (
        weights[f'{norm}.{key}'][:, None, None] for key in ('running_mean', 'running_var', 'weight', 'bias')
    )
    return (x - mean) / (var + 1e-3).sqrt() * scale + shift


def reference(x: Tensor, weights: dict[str, Tensor], strides: dict[int, int]) -> Tensor:
    """The last feature map of the network as its authors describe it, (N, 3, H, W) to (N, C, H / 32, W / 32)."""
    x = same(x, weights, '_conv_stem', '_bn0', 2).clamp(0, 6)
    for i in range(1 + max(int(name.split('.')[1]) for name in weights if name.startswith('_blocks'))):
        block, before = f'_blocks.{i}', x
        if f'{block}._expand_conv.weight' in weights:
            x = same(x, weights, f'{block}._expand_conv', f'{block}._bn0').clamp(0, 6)
        x = same(x, weights, f'{block}._depthwise_conv', f'{block}._bn1', strides.get(i, 1), x.shape[1]).clamp(0, 6)
        x = same(x, weights, f'{block}._project_conv', f'{block}._bn2')
        if x.shape == before.shape and i not in strides:
            x = x + before
    return x


@pytest.fixture(scope='module')
def tool():
    return import_tool('convert_efficientnet_lite')


@pytest.mark.parametrize(
    ('arch', 'depths', 'channels', 'parameters'),
    # 4.652 and 6.092 million with the head and 1000 classes, as the authors count them
    [
        ('lite0', [1, 2, 2, 6, 5], [40, 112, 320], 4_652_008),
        ('lite2', [1, 3, 3, 8, 6], [48, 120, 352], 6_092_072),
    ],
)
def test_it_is_the_authors_network(arch: str, depths: list, channels: list, parameters: int) -> None:
    backbone = EfficientNetLite(arch, out_indices=(3, 4, 5, 6)).eval()
    assert [len(stage) for stage in backbone.layers[1:6]] == depths
    levels = backbone(torch.zeros(1, 3, 64, 64))
    assert [level.shape[1] for level in levels] == [*channels, 1280]
    assert [64 // level.shape[2] for level in levels] == [8, 16, 32, 32]
    assert sum(p.numel() for p in backbone.parameters()) + 1281 * 1000 == parameters
    assert {type(m) for m in backbone.modules() if 'ReLU' in type(m).__name__} == {nn.ReLU6}


@pytest.mark.parametrize(
    ('arch', 'strides'), [('lite0', {1: 2, 3: 2, 5: 2, 11: 2}), ('lite2', {1: 2, 4: 2, 7: 2, 15: 2})]
)
def test_converted_weights_compute_what_the_published_ones_do(tool, tmp_path: Path, arch: str, strides: dict) -> None:
    backbone = EfficientNetLite(arch).eval()
    weights = as_published(backbone)
    torch.save(weights, tmp_path / 'in.pth')
    assert tool.main([str(tmp_path / 'in.pth'), str(tmp_path / 'out.pth')]) == 0
    backbone.init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'out.pth'))
    backbone.init_weights()
    # an odd size: what is padded depends on it
    x = torch.randn(1, 3, 50, 63, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(backbone(x)[-1], reference(x, weights, strides), rtol=1e-4, atol=1e-4)


def test_depths_keep_the_beginning_of_every_stage(tool, tmp_path: Path) -> None:
    whole = EfficientNetLite().eval()
    cut = MODELS.build(dict(type='mmkd_graph.EfficientNetLite', depths=(1, 2, 1, 4, 4))).eval()
    cut.load_state_dict({name: value for name, value in whole.state_dict().items() if name in cut.state_dict()})
    assert len(EfficientNetLite(out_indices=(3, 4)).layers) == 5, 'a stage that nobody reads'
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        channels = [level.shape[1] for level in cut(x)]
        start = whole.layers[0](x.contiguous(memory_format=torch.channels_last))
        for stage, depth in zip(whole.layers[1:], (1, 2, 1, 4, 4), strict=True):
            start = stage[:depth](start)
        assert torch.equal(cut(x)[-1], start)
    assert channels == [40, 112, 192]


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(arch='lite1'), "backbone.arch='lite1' is unknown; accepted: 'lite0', 'lite2'"),
        (dict(depths=(1, 2)), r'backbone.depths=\(1, 2\); accepted: numbers of blocks from'),
        (dict(depths=(1, 2, 2, 7, 5)), r'from \(1, 1, 1, 4, 1\) to \(1, 2, 2, 6, 5\)'),
        (dict(arch='lite2', depths=(1, 2, 2, 4, 6)), r'from \(1, 1, 1, 5, 1\) to \(1, 3, 3, 8, 6\)'),
        (dict(depths=(1, 2, 2, 6, 0)), r'depths=\(1, 2, 2, 6, 0\)'),
    ],
)
def test_a_network_that_does_not_exist_is_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        EfficientNetLite(**options)


def test_frozen_batch_norms_stay_as_they_are() -> None:
    backbone = EfficientNetLite(norm_cfg=dict(type='BN', eps=1e-3, requires_grad=False), norm_eval=True)
    backbone.train()
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]
    backbone(torch.rand(1, 3, 64, 64))[-1].sum().backward()
    assert all(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before, strict=True))
    assert not any(p.requires_grad for norm in norms for p in norm.parameters())
    assert all(p.grad is not None for p in backbone.parameters() if p.requires_grad)


def test_what_does_not_fit_is_named(tool, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    wanted = {'layers.0.conv.weight': torch.zeros(4, 3, 3, 3), 'layers.0.bn.bias': torch.zeros(4)}
    given = {'_conv_stem.weight': torch.ones(4, 3, 3, 3), '_bn0.bias': torch.ones(4), '_fc.bias': torch.ones(9)}
    assert {name: value.sum().item() for name, value in tool.renamed(given, wanted).items()} == {
        'layers.0.conv.weight': 108,
        'layers.0.bn.bias': 4,
    }
    for changed, words in (
        ({'_bn0.bias': torch.ones(5)}, r'_bn0.bias \(5,\) does not fit layers.0.bn.bias \(4,\)'),
        ({'_blocks.0._bn1.bias': torch.ones(4)}, '_blocks.0._bn1.bias fits nothing'),
    ):
        with pytest.raises(ValueError, match=words):
            tool.renamed(given | changed, wanted)
    with pytest.raises(ValueError, match=r'nothing fits layers.0.bn.bias'):
        tool.renamed({'_conv_stem.weight': torch.ones(4, 3, 3, 3)}, wanted)
    with pytest.raises(ValueError, match=r'_bn0.weight \(4,\) does not fit layers.0.bn.bias'):
        tool.renamed({'_conv_stem.weight': torch.ones(4, 3, 3, 3), '_bn0.weight': torch.ones(4)}, wanted)

    torch.save(given, tmp_path / 'other.pth')
    torch.save([1], tmp_path / 'list.pth')
    (tmp_path / 'broken.pth').write_bytes(b'PK')
    for file, words in (
        ('other.pth', 'lite0: _conv_stem.weight (4, 3, 3, 3) does not fit layers.0.conv.weight (32, 3, 3, 3); lite2:'),
        ('list.pth', 'accepted: a dict of tensors'),
        ('broken.pth', 'broken.pth: '),
        ('none.pth', 'No such file'),
    ):
        assert tool.main([str(tmp_path / file), str(tmp_path / 'out.pth')]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / 'out.pth').exists()

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmkd_graph.necks import PyramidAdapter


def test_auto_adapts_only_where_widths_differ():
    adapter = PyramidAdapter([4, 8], [8, 8])
    assert [type(x) for x in adapter.levels] == [nn.Conv2d, nn.Identity]
    a, b = adapter((torch.rand(2, 4, 3, 5), torch.rand(2, 8, 2, 2)))
    assert a.shape == (2, 8, 3, 5) and b.shape == (2, 8, 2, 2)


def test_always_starts_as_the_identity():
    adapter = PyramidAdapter([8], [8], mode='always')
    adapter.init_weights()
    x = torch.randn(1, 8, 4, 4)
    torch.testing.assert_close(adapter((x,))[0], x)
    assert all(p.requires_grad for p in adapter.parameters())


def test_never_refuses_other_widths():
    with pytest.raises(ValueError, match="adapter='never'"):
        PyramidAdapter([4], [8], mode='never')
    assert not list(PyramidAdapter([8], [8], mode='never').parameters())

"""What stands in a checkpoint beside its weights can be read back as weights only."""

from __future__ import annotations

import collections
import datetime
import enum
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict

from mmkd_graph.checkpoints import weights_only
from mmkd_graph.plain import plain


class Colour(enum.Enum):
    RED = 'red'


CASES = [
    (range(3), [0, 1, 2]),
    (Path('a b/c'), 'a b/c'),
    (datetime.date(2024, 5, 1), '2024-05-01'),
    (datetime.datetime(2024, 5, 1, 12), '2024-05-01 12:00:00'),
    (collections.defaultdict(list, {'a': [1]}), {'a': [1]}),
    (collections.OrderedDict(a=ConfigDict(b=(1, ConfigDict(c=2)))), {'a': {'b': (1, {'c': 2})}}),
    (collections.deque([1, (2,)]), [1, (2,)]),
    (np.str_('cat'), 'cat'),
    (np.array(['cat', 'dog']), ['cat', 'dog']),
    (np.float16(0.5), 0.5),
    (np.longdouble(2), 2.0),
    (np.datetime64('2024-05-01'), '2024-05-01'),
    (Colour.RED, 'red'),
    (torch.Size([1, 2]), (1, 2)),
    ({'a', 1}, {'a', 1}),
    (b'raw', b'raw'),
]


@pytest.mark.parametrize(('value', 'wanted'), CASES, ids=[type(value).__name__ for value, _ in CASES])
def test_containers_texts_and_times(value: object, wanted: object, tmp_path: Path) -> None:
    found = plain(dict(x=value))['x']
    assert found == wanted and type(found) is type(wanted)
    torch.save(found, tmp_path / 'file.pth')
    with weights_only():
        assert torch.load(tmp_path / 'file.pth') == wanted


@pytest.mark.parametrize('kind', ['float16', 'int8', 'uint16', 'uint64', 'complex64', 'bool', 'longdouble'])
def test_arrays_of_all_numbers(kind: str, tmp_path: Path) -> None:
    array = np.ones((2, 3), kind)
    assert plain(array).dtype == array.dtype
    torch.save(dict(array=plain(array)), tmp_path / 'file.pth')
    with weights_only():
        assert np.array_equal(torch.load(tmp_path / 'file.pth')['array'], array)


def test_what_has_no_plain_form_is_written_as_text_and_named() -> None:
    told: list[str] = []
    found = plain(dict(dataset_meta=dict(reader=print, names=[object])), 'meta', told)
    assert found == dict(dataset_meta=dict(reader=str(print), names=[str(object)]))
    assert told == [
        'meta.dataset_meta.reader (builtin_function_or_method)',
        'meta.dataset_meta.names[0] (type)',
    ]


def test_what_mmengine_writes_is_read(tmp_path: Path) -> None:
    """By mmengine's own hook, into ``meta.dataset_meta``."""
    meta = dict(source=ConfigDict(camera='left'), ids=range(3), day=datetime.date(2024, 5, 1), root=PurePosixPath('a'))
    torch.save(dict(meta, name=np.str_('cat'), half=np.ones(2, np.float16)), tmp_path / 'file.pth')
    with weights_only():
        found = torch.load(tmp_path / 'file.pth')
    assert {key: found[key] for key in meta} == meta and found['name'] == 'cat'

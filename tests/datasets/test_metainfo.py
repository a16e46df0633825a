"""One metainfo of what data sets and checkpoints say of the data."""

from __future__ import annotations

import numpy as np
import pytest

from mmkd_graph.datasets.metainfo import common_metainfo


@pytest.mark.parametrize(
    ('given', 'wanted'),
    [
        (None, {}),
        ([], {}),
        ('classes', {}),
        ([dict(classes=('a',)), None], {}),
        (dict(classes=('a',), palette=[(0, 0, 0)]), dict(classes=('a',), palette=[(0, 0, 0)])),
        ([dict(classes=('a', 'b')), dict(classes=('b', 'a'))], {}),
        (
            [dict(classes=('a', 'b'), palette=[(1, 2, 3)]), dict(classes=['a', 'b'], palette=[[1, 2, 4]])],
            dict(classes=('a', 'b')),
        ),
        ([dict(classes=('a',)), dict(palette=None)], {}),
    ],
)
def test_what_all_parts_say(given: object, wanted: dict) -> None:
    assert common_metainfo(given) == wanted


def test_arrays_are_compared_by_their_numbers() -> None:
    parts = [dict(palette=np.full((2, 3), 7), other=np.zeros(i + 1)) for i in range(2)]
    assert common_metainfo(parts)['palette'].tolist() == [[7] * 3] * 2 and 'other' not in common_metainfo(parts)


def test_the_given_mapping_is_not_handed_out() -> None:
    given = dict(classes=('a',))
    common_metainfo(given)['classes'] = ()
    assert given == dict(classes=('a',))

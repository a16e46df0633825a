"""The labels of built data sets against their classes, through every wrapper."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mmdet.datasets import BaseDetDataset
from mmdet.registry import DATASETS

from mmkd_graph.checking import FAIL, OK, WARNING
from mmkd_graph.checking import labels as module
from mmkd_graph.checking.labels import check_batch_labels, check_labels
from mmkd_graph.datasets import CLASSES, generate_shapes
from mmkd_graph.testing import annotated

KEY = 'train_dataloader.dataset'


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('labels') / 'data'
    generate_shapes(root, num_train=6, num_val=1, num_test=1)
    return root


def coco(root: Path, classes: Any = tuple(CLASSES), **options: Any) -> dict[str, Any]:
    return dict(
        type='CocoDataset',
        data_root=str(root),
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='VOC2007/JPEGImages/'),
        metainfo=dict(classes=classes),
        **options,
    )


WRAPPERS = {
    '': lambda inner: inner,
    '.dataset': lambda inner: dict(type='RepeatDataset', times=2, dataset=inner),
    '.datasets.0': lambda inner: dict(type='ConcatDataset', datasets=[inner]),
    '.dataset.dataset': lambda inner: dict(
        type='MultiImageMixDataset',
        pipeline=[],
        dataset=dict(type='ClassBalancedDataset', oversample_thr=0.1, dataset=inner),
    ),
}


@pytest.mark.parametrize('path', WRAPPERS)
@pytest.mark.parametrize('serialize', [True, False])
def test_a_string_of_classes_is_found_through_every_wrapper(root: Path, path: str, serialize: bool) -> None:
    good = DATASETS.build(WRAPPERS[path](coco(root, serialize_data=serialize)))
    assert [finding.level for finding in check_labels(good, 'train_dataloader')] == [OK]
    # mmdet takes every class whose name is part of the string: two labels for one name
    bad = DATASETS.build(WRAPPERS[path](coco(root, ' '.join(CLASSES[:3]), serialize_data=serialize)))
    findings = check_labels(bad, 'train_dataloader')
    assert {finding.level for finding in findings} == {FAIL}
    assert {finding.key for finding in findings} == {f'{KEY}{path}.metainfo.classes'}
    assert 'is a string' in findings[0].found and f"classes=('{' '.join(CLASSES[:3])}',)" in findings[0].advice
    assert 'where 1 classes have 0 to 0' in findings[1].found


class Records(BaseDetDataset):
    """What a data set of somebody else's may give."""

    METAINFO = dict(classes=('a', 'b', 'c'))

    def __init__(self, labels: list[int | None], ignore: bool = False, **options: Any) -> None:
        self.labels, self.ignore = labels, ignore
        super().__init__(**options)

    def load_data_list(self) -> list[dict[str, Any]]:
        return [
            dict(img_path='x.jpg', instances=[dict(bbox_label=x, ignore_flag=int(self.ignore))] * (x is not None))
            for x in self.labels
        ]


def records(labels: list[int | None]) -> dict[str, Any]:
    return dict(type=Records, labels=labels)


def words(dataset: Any, training: bool = True) -> tuple[str, str]:
    (finding,) = check_labels(dataset, 'train_dataloader', training)
    return finding.level, finding.found


def test_labels_outside_of_the_classes_and_classes_without_a_box() -> None:
    assert words(Records([0, 1, 2, 2])) == (OK, '4 boxes in 4 of 4 images have labels of the 3 classes')
    level, found = words(Records([0, 1, 2, 3, -1]))
    assert level == FAIL and '2 boxes in 5 of 5 images have labels as -1, 3' in found
    assert words(Records([0, 2])) == (WARNING, "no box of 1 of the 3 classes: ['b']")
    assert words(Records([0, 2]), training=False)[0] == OK


def test_a_data_set_without_a_box_that_counts() -> None:
    level, found = words(Records([0, 1, 2], ignore=True))
    assert level == FAIL and found.startswith('no box of any of the 3 classes in 3 of 3 images, 3 that are ignored')
    assert words(Records([0], ignore=True), training=False)[0] == WARNING
    together = DATASETS.build(dict(type='ConcatDataset', datasets=[records([None]), records([0, 1, 2])]))
    assert words(together)[0] == OK, 'images without objects beside others are no fault'


def test_data_sets_that_are_put_together_name_the_same_classes() -> None:
    other = dict(records([0, 1, 2]), metainfo=dict(classes=('c', 'b', 'a')))
    dataset = DATASETS.build(dict(type='ConcatDataset', datasets=[records([0, 1, 2]), other]))
    (finding,) = check_labels(dataset, 'train_dataloader')
    assert finding.level == FAIL and finding.key == f'{KEY}.datasets.1.metainfo.classes'
    assert f'other classes than those of {KEY}.datasets.0' in finding.found


def test_classes_that_the_file_does_not_have(root: Path) -> None:
    """mmdet leaves them out, and the labels of those after them move."""
    dataset = DATASETS.build(coco(root, ('cat', *CLASSES)))
    (finding,) = check_labels(dataset, 'train_dataloader')
    assert finding.level == FAIL and '1 of the 7 classes are none of the categories' in finding.found


def test_large_sets_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, '_IMAGES', 3)
    assert words(Records([0, 1, 2] * 4)) == (OK, '3 boxes in 3 of 12 images have labels of the 3 classes')


def test_what_keeps_no_records_is_known_by_its_batches() -> None:
    assert check_labels([1, 2], 'train_dataloader') == []
    sample = annotated([[0, 0, 9, 9], [0, 0, 5, 5]], [1, 3])
    sample.set_metainfo(dict(img_path='there/7.jpg'))
    batches = [dict(inputs=[None], data_samples=[sample])]
    (finding,) = check_batch_labels(batches, Records.METAINFO, 'train_dataloader')
    assert finding.level == FAIL and 'image there/7.jpg, have labels as 3' in finding.found
    assert check_batch_labels(batches, dict(classes=tuple('abcd')), 'train_dataloader') == []
    assert check_batch_labels(batches, None, 'train_dataloader') == []
    assert check_batch_labels([SimpleNamespace()], Records.METAINFO, 'train_dataloader') == []

"""What cannot be read is named, in this process and in others, of any data set and however it is wrapped."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from mmdet.datasets import BaseDetDataset
from mmdet.registry import DATASETS, TRANSFORMS
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmkd_graph.checking.batches import sample_batches
from mmkd_graph.datasets.reading import UnreadableImage, name_images
from mmkd_graph.findings import one_line
from mmkd_graph.registry import HOOKS


@TRANSFORMS.register_module(force=True)
class RefusesMixing:
    """A transform that takes several images and does not like one of them."""

    def get_indexes(self, dataset: Any) -> int:
        return 0

    def __call__(self, results: dict) -> dict:
        assert 'c.png' not in results['img_path'], 'no mixing'
        return results


class Files(BaseDetDataset):
    """The images of a folder."""

    METAINFO = dict(classes=('a',))

    def load_data_list(self) -> list[dict[str, Any]]:
        paths = sorted(Path(self.data_root).glob('*.png'))
        return [dict(img_path=str(path), img_id=i, instances=[]) for i, path in enumerate(paths)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images, of which the second is empty."""
    for name in ('a', 'b', 'c'):
        cv2.imwrite(str(tmp_path / f'{name}.png'), np.zeros((4, 4, 3), np.uint8))
    (tmp_path / 'b.png').write_bytes(b'')
    return tmp_path


def files(folder: Path) -> dict[str, Any]:
    return dict(type=Files, data_root=str(folder), pipeline=[dict(type='LoadImageFromFile')])


def wrapped(inner: dict) -> dict[str, Any]:
    return dict(type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[inner]))


def read(loader: Iterable) -> str:
    """What the error of reading everything says."""
    batches = iter(loader)
    with pytest.raises(UnreadableImage) as error:
        for _ in batches:
            pass
    if hasattr(batches, '_shutdown_workers'):  # left to the garbage collection, it waits for 5 s
        batches._shutdown_workers()
    return one_line(error.value)


@pytest.mark.parametrize(
    ('phase', 'workers'),
    [('train', {}), ('val', dict(num_workers=1)), ('test', dict(num_workers=1, persistent_workers=True))],
)
def test_the_image_is_named_in_every_process(folder: Path, phase: str, workers: dict) -> None:
    loader = DataLoader(DATASETS.build(wrapped(files(folder))), collate_fn=list, **workers)
    hook = HOOKS.build(dict(type='mmkd_graph.UnreadableImageHook'))
    for _ in range(2):  # a training may be followed by another
        getattr(hook, f'before_{phase}')(SimpleNamespace(**{f'{phase}_dataloader': loader}))
    told = read(loader)
    assert f'image {folder / "b.png"} cannot be read: error: OpenCV' in told and '\n' not in told


def seeded(dataset: dict, **options: Any) -> DataLoader:
    sampler = dict(type='mmkd_graph.SeededSampler', sampler=dict(type='DefaultSampler', shuffle=False))
    collate = dict(type='pseudo_collate')
    return Runner.build_dataloader(
        dict(dataset=dataset, sampler=sampler, batch_size=1, collate_fn=collate, num_workers=0) | options, seed=0
    )


def test_the_sampler_of_a_training_names_it_without_a_hook(folder: Path) -> None:
    """Upstream's iteration-based loop starts its workers before any hook is called."""
    assert f'image {folder / "b.png"} cannot be read' in read(seeded(files(folder), num_workers=1))
    (folder / 'b.png').unlink()
    mixed = dict(type='MultiImageMixDataset', dataset=files(folder), pipeline=[dict(type='RefusesMixing')])
    assert f'image {folder / "c.png"} cannot be read: AssertionError: no mixing' in read(seeded(mixed))


def test_the_check_names_it_and_leaves_no_trace(folder: Path) -> None:
    loader = DataLoader(DATASETS.build(files(folder)), collate_fn=list)
    assert f'image {folder / "b.png"} cannot be read' in read(sample_batches(loader, 3)[1])
    assert 'prepare_data' not in vars(loader.dataset)


def test_data_sets_can_still_be_copied_and_sent_to_other_processes(folder: Path) -> None:
    dataset = DATASETS.build(files(folder))
    name_images(dataset)
    for other in (copy.deepcopy(dataset), pickle.loads(pickle.dumps(dataset)), dataset.get_subset([1])):
        assert other.prepare_data.dataset is other
        with pytest.raises(UnreadableImage):
            other[len(other) // 2]
    name_images([1, 2])  # of a kind that is left alone

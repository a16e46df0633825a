"""What is inside of a data set, and errors of reading it that name the image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


class UnreadableImage(RuntimeError):
    """An image, or what belongs to it, that a data set's pipeline cannot read; the message names it."""


def leaves(dataset: Any, key: str = 'dataset') -> Iterator[tuple[str, Any]]:
    """The data sets inside of RepeatDataset, ConcatDataset, MultiImageMixDataset and their like, built or configs.

    Yields:
        Config key, below ``key``, and data set of each that wraps no other.
    """
    inner, several = (
        dataset.get(name) if isinstance(dataset, Mapping) else getattr(dataset, name, None)
        for name in ('dataset', 'datasets')
    )
    if callable(getattr(dataset, 'prepare_data', None)):  # mmengine's, whatever it holds
        yield key, dataset
    elif inner is not None:
        yield from leaves(inner, f'{key}.dataset')
    elif isinstance(several, (list, tuple)):
        for i, inner in enumerate(several):
            yield from leaves(inner, f'{key}.datasets.{i}')
    else:
        yield key, dataset


def name_images(dataset: Any) -> None:
    """Let what a data set cannot read raise :class:`UnreadableImage`, in whichever process reads it.

    Of mmengine's ``BaseDataset`` and whatever wraps some; others are left alone. Processes that were started before
    keep the errors they had.
    """
    for _, leaf in leaves(dataset):
        if callable(getattr(leaf, 'prepare_data', None)) and 'prepare_data' not in vars(leaf):
            leaf.prepare_data = _NamedImages(leaf)


def unreadable(dataset: Any, index: int, error: Exception) -> UnreadableImage:
    """The error that names the image at an index."""
    try:
        info = dataset.get_data_info(index)
        name = info.get('img_path') or f'img_id {info["img_id"]}'
    except Exception:  # whatever is wrong with it must not hide the error
        name = f'number {index} of {type(dataset).__name__}'
    return UnreadableImage(f'image {name} cannot be read: {type(error).__name__}: {" ".join(str(error).split())}')


class _NamedImages:
    """``prepare_data`` of a data set; an object that can be pickled and copied with it."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __call__(self, index: int) -> Any:
        try:
            return type(self.dataset).prepare_data(self.dataset, index)
        except Exception as error:
            raise unreadable(self.dataset, index, error) from error

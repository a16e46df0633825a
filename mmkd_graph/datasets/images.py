"""Whether images are there, whole, and as large as their annotations say; from their headers alone."""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import mmcv
import numpy as np
from PIL import Image, UnidentifiedImageError

from .problems import ERROR, NOTE, WARNING, Problems

SECONDS = 10.0
"""Time for the images of a config: on a shared disk the headers of a large set take many minutes."""
_THREADS = 8  # most of the time is waiting for the disk
_CHUNK = 256
_ENDS = {'JPEG': b'\xff\xd9', 'MPO': b'\xff\xd9', 'PNG': b'IEND\xaeB`\x82'}
_ORIENTATION = 0x0112
_QUARTER_TURNS = (5, 6, 7, 8)


@dataclass(frozen=True)
class Expected:
    """An image that an annotation file names.

    Attributes:
        path: its file.
        size: (width, height) in pixels that the annotation file says; None if it does not.
        file: the annotation file; empty for that of the data set.
        entry: the entry in it.
    """

    path: str
    size: tuple[float, float] | None
    entry: str
    file: str = ''


class Listings:
    """Which files there are: one listing per folder instead of one question per image, as shared disks are slow."""

    def __init__(self) -> None:
        self._names: dict[str, set[str]] = {}

    def __contains__(self, path: str) -> bool:
        parent, name = os.path.split(path)
        if parent not in self._names:
            try:
                self._names[parent] = set(os.listdir(parent or '.'))
            except (OSError, ValueError):  # not there, not readable, or no path at all
                self._names[parent] = set()
        return name in self._names[parent]


def image_size(path: str | os.PathLike[str], turned: bool = True) -> tuple[int, int] | None:
    """(width, height) in pixels of an image, from its header.

    Args:
        path: the image file.
        turned: whether the reader turns images as their EXIF orientation says, as OpenCV and mmdet's default do.

    Returns:
        The size that the reader sees; None if that is not known.

    Raises:
        ValueError: if the file is empty, truncated, or no image, with what is wrong.
    """
    try:
        with open(path, 'rb') as file:
            if not file.read(1):
                raise ValueError('has 0 bytes')
            file.seek(0)
            try:
                image = Image.open(file)
            except UnidentifiedImageError:  # OpenCV knows other formats
                return _decoded_size(path)
            except Image.DecompressionBombError:
                return None
            size, turn = image.size, False
            with contextlib.suppress(Exception):  # broken EXIF data, which readers pass over
                turn = image.getexif().get(_ORIENTATION) in _QUARTER_TURNS
            if end := _ENDS.get(image.format):
                file.seek(-min(len(end), os.fstat(file.fileno()).st_size), os.SEEK_END)
                if file.read() != end and _is_truncated(path):
                    raise ValueError('is truncated')
    except OSError as error:
        raise ValueError(f'cannot be read ({error.strerror or error})') from error
    if not turn or not turned:
        return size
    # whether other formats are turned depends on OpenCV's version
    return size[::-1] if image.format in ('JPEG', 'MPO') else None


def _is_truncated(path: Any) -> bool:
    """Whether the end is missing of a file that ends otherwise than it should; there may be more after the image."""
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError):
        return True
    return False


def _decoded_size(path: Any) -> tuple[int, int]:
    pixels = None
    with contextlib.suppress(Exception):  # OpenCV's own
        pixels = mmcv.imread(str(path), backend='cv2')
    if pixels is None:
        raise ValueError('is no image, or a broken one')
    return pixels.shape[1], pixels.shape[0]


def look_at_images(
    images: Sequence[Expected], problems: Problems, turned: bool = True, seconds: float = SECONDS
) -> None:
    """Compare images with what is said of them; report what is broken or of another size.

    Args:
        images: files that are there.
        problems: takes what is found; a note says how many were looked at where the time did not suffice for all.
        turned: see :func:`image_size`.
        seconds: after this time no more are looked at. Those that were are spread evenly.
    """
    deadline = time.monotonic() + seconds
    order = np.random.default_rng(0).permutation(len(images)).tolist()
    wrong: dict[int, tuple[str, str, str] | None] = {}
    done = 0
    with ThreadPoolExecutor(_THREADS) as pool, warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of images that are very large, or have odd metadata
        while done < len(order) and time.monotonic() < deadline:
            chunk = order[done : done + _CHUNK]
            wrong.update(zip(chunk, pool.map(lambda i: _compare(images[i], turned), chunk), strict=True))
            done += _CHUNK
    for index, found in sorted(wrong.items()):
        if found:
            severity, message, kind = found
            problems.add(severity, images[index].entry, message, kind, images[index].file)
    if done < len(order):
        problems.add(NOTE, '', f'{done} of {len(order)} images were looked at, evenly spread, in {seconds:g} s')


def _compare(image: Expected, turned: bool) -> tuple[str, str, str] | None:
    """Severity, message and kind of what is wrong with an image."""
    try:
        size = image_size(image.path, turned)
    except ValueError as error:
        return ERROR, f'the image {image.path} {error}', 'images that are broken'
    if size is None or image.size is None or size == image.size:
        return None
    what = f'the image {image.path} is {size[0]}x{size[1]} pixels, its annotation says {image.size[0]}x{image.size[1]}'
    if turned and image_size(image.path, turned=False) != size:
        what += ' (its EXIF orientation turns it)'
    off = max(abs(a - b) for a, b in zip(size, image.size, strict=True))
    return WARNING if off <= 1 else ERROR, what, 'images of another size than their annotation says'

"""What the teacher is fed: batches that were normalised for the student, as the teacher's preprocessor gives them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.transforms import Normalize
from mmdet.datasets.transforms import Albu
from mmdet.models.data_preprocessors import BoxInstDataPreprocessor, DetDataPreprocessor, TrackDataPreprocessor
from mmdet.registry import TRANSFORMS
from mmdet.structures import DetDataSample
from mmengine.logging import print_log
from mmengine.model import BaseDataPreprocessor, ImgDataPreprocessor
from torch import Tensor, nn

from mmkd_graph.registry import type_name

from .rng import preserved_rng

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')

_LINE = "data_preprocessor=dict(type='DetDataPreprocessor', {}pad_size_divisor={})"
IMAGENET = _LINE.format('mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True, ', 32)
"""The commonest line, as an example in messages."""

_KNOWN = {
    kind.forward for kind in (ImgDataPreprocessor, DetDataPreprocessor, BoxInstDataPreprocessor, TrackDataPreprocessor)
}
"""Forward passes that do to pixels what mmengine's attributes of a preprocessor say."""

_NORMALISED = ((-10.0, -0.5, 0.5, 10.0), (-150.0, -90.0, 30.0, 165.0))
"""Lowest value from and to, highest from and to, of images whose mean was subtracted, with and without division.

Pixels are 0 to 255. Photometric distortion takes dark ones below 0, but not all of a batch into the first range, and
none as far as the second. Black images and padding are constant, at or near 0.
"""
_UNIT_VALUES = 32
"""So many different values between 0 and 1 are no image of black pixels, but one that was divided by 255."""


# ---------------------------------------------------------------- preprocessors


@dataclass(frozen=True)
class PixelMap:
    """What a preprocessor does to the pixels (0 to 255, BGR) of an image.

    Attributes:
        mean: (C,), subtracted after the channels were reversed.
        std: (C,), divided by.
        reverse: whether the channels come out in the other order.
        pad_value: of what is added at the bottom and right, normalised already.
        divisor: of height and width of what comes out.
    """

    mean: Tensor
    std: Tensor
    reverse: bool
    pad_value: float
    divisor: int

    @classmethod
    def of(cls, preprocessor: nn.Module, key: str, channels: int = 3) -> PixelMap:
        """Read it off a ``data_preprocessor``.

        Those of mmengine and mmdet, and classes that inherit their forward pass, are known. Of another class a small
        image is preprocessed, and what comes out is compared with what its attributes say.

        Args:
            preprocessor: of a detector.
            key: config key, for error messages.
            channels: of an image.

        Raises:
            ValueError: if what it does to pixels is not known.
        """
        mean, std = torch.zeros(1), torch.ones(1)
        if getattr(preprocessor, '_enable_normalize', False):
            mean, std = (x.detach().cpu().float().flatten() for x in (preprocessor.mean, preprocessor.std))
        kind = type(preprocessor).__name__
        if any(len(x) not in (1, channels) for x in (mean, std)):
            raise ValueError(
                f'{key}: {kind} has {len(mean)} values in mean, {len(std)} in std; '
                f'accepted: 1 or {channels}, as the model takes images of {channels} channels'
            )
        declared = cls(
            mean.expand(channels),
            std.expand(channels),
            channels == 3 and getattr(preprocessor, '_channel_conversion', False),
            float(getattr(preprocessor, 'pad_value', 0)),
            int(getattr(preprocessor, 'pad_size_divisor', 1)),
        )
        forward = type(preprocessor).forward
        if forward not in _KNOWN and forward is not BaseDataPreprocessor.forward:
            declared._check(preprocessor, key)
        return declared

    def _check(self, preprocessor: nn.Module, key: str) -> None:
        """Raise if an image does not come out as these numbers say."""
        height, width, channels = 32, 48, len(self.mean)
        image = torch.arange(channels * height * width).remainder(251).to(torch.uint8).view(channels, height, width)
        sample = DetDataSample(metainfo=dict(img_shape=(height, width), ori_shape=(height, width)))
        why = 'what comes out of it is not what its mean, std and channel order say'
        try:
            with preserved_rng(), torch.no_grad():
                given = preprocessor(dict(inputs=[image.clone()], data_samples=[sample]), False)['inputs'][0]
            wanted = image.flip(0) if self.reverse else image
            wanted = (wanted - self.mean.view(-1, 1, 1)) / self.std.view(-1, 1, 1)
            if torch.allclose(given[:, :height, :width].cpu().float(), wanted, rtol=1e-3, atol=1e-3):
                return
        except Exception as error:  # preprocessors of any kind
            why = f'it does not take an image ({type(error).__name__}: {error})'
        raise ValueError(
            f'{key}: what {type(preprocessor).__name__} does to pixels is not known: {why}; accepted: '
            f'{", ".join(sorted(x.__qualname__.split(".")[0] for x in _KNOWN))}, or a class that does what its '
            'attributes mean, std and _channel_conversion say, as these do'
        )


def has_preprocessor(detector: nn.Module) -> bool:
    """Whether a detector has a preprocessor of its own; without one in its config mmengine's does nothing to images."""
    return type(detector.data_preprocessor).forward is not BaseDataPreprocessor.forward


class InputTransfer:
    """A batch normalised for the student, as the teacher's own preprocessor would have given it.

    Mean, standard deviation, channel order, padding value and size divisor may differ. The two normalisations
    compose to one affine map per channel, so nothing is decoded twice; padded pixels get the teacher's padding value.
    The first batch is looked at: images that the data pipeline normalised too would be fed wrongly.

    Args:
        student: the student's ``data_preprocessor``.
        teacher: the teacher's ``data_preprocessor``.
        channels: of an image.

    Raises:
        ValueError: see :meth:`PixelMap.of`.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, channels: int = 3) -> None:
        self.student = PixelMap.of(student, 'model.student.data_preprocessor', channels)
        self.teacher = PixelMap.of(teacher, "model.teacher.config's model.data_preprocessor", channels)
        self.flip = self.student.reverse != self.teacher.reverse
        mean_s, std_s = self.student.mean, self.student.std
        if self.flip:
            mean_s, std_s = mean_s.flip(0), std_s.flip(0)
        self.scale = (std_s / self.teacher.std).view(1, -1, 1, 1)
        self.shift = ((mean_s - self.teacher.mean) / self.teacher.std).view(1, -1, 1, 1)
        self.pad_value, self.divisor = self.teacher.pad_value, self.teacher.divisor
        self.same_normalisation = (
            not self.flip
            and torch.allclose(self.scale, torch.ones_like(self.scale))
            and torch.allclose(self.shift, torch.zeros_like(self.shift), atol=1e-6)
        )
        self.same_padding = self.pad_value == self.student.pad_value
        self._looked = False

    def __deepcopy__(self, memo: dict) -> InputTransfer:
        return self  # nothing in it changes, and copies have nothing to look at again

    def __call__(self, inputs: Tensor, image_shapes: list[tuple[int, int]]) -> Tensor:
        """Re-normalise (N, C, H, W) inputs whose valid regions are ``image_shapes`` in pixels.

        Raises:
            ValueError: on the first call, if the images were normalised before the student's preprocessor.
        """
        if not self._looked and not torch.compiler.is_compiling():
            self._looked = True
            self._look(inputs, image_shapes)
        height, width = inputs.shape[-2:]
        if not self.same_normalisation or not self.same_padding:
            outputs = inputs.flip(1) if self.flip else inputs
            if not self.same_normalisation:
                outputs = outputs * self.scale.to(outputs) + self.shift.to(outputs)
            elif outputs is inputs:
                outputs = inputs.clone()
            for image, (h, w) in zip(outputs, image_shapes, strict=True):
                image[:, h:] = self.pad_value
                image[:, :, w:] = self.pad_value
            inputs = outputs
        bottom, right = -height % self.divisor, -width % self.divisor
        return F.pad(inputs, (0, right, 0, bottom), value=self.pad_value) if bottom or right else inputs

    @torch.no_grad()
    def _look(self, inputs: Tensor, image_shapes: list[tuple[int, int]]) -> None:
        """Raise if what the student's preprocessor was given were no pixels; reads from the device once."""
        images = [image[:, :h, :w].flatten(1) for image, (h, w) in zip(inputs, image_shapes, strict=False) if h and w]
        if not images:
            return
        ends = torch.stack([torch.stack([x.amin(1), x.amax(1)]) for x in images]).float().cpu()
        ends = ends * self.student.std + self.student.mean
        low, high = ends.min().item(), ends.max().item()
        found = (
            'with mean and std of model.student.data_preprocessor taken back, the first batch is between '
            f'{low:.3g} and {high:.3g}, and pixels are 0 to 255'
        )
        advice = (
            'of train_dataloader.dataset.pipeline, and write mean and std (of 0 to 255) into model.student: '
            f'{IMAGENET}, for instance'
        )
        fed = 'before they reach model.student.data_preprocessor, and the teacher would be fed wrongly'
        if any(a <= low < b and c < high <= d for a, b, c, d in _NORMALISED):
            raise ValueError(f'the images are normalised {fed}: {found}. Take Normalize out {advice}')
        if low >= -0.01 and high <= 1.01 and len(images[0].unique()) > _UNIT_VALUES:
            if not self.same_normalisation:
                raise ValueError(f'the images are scaled to 0 to 1 {fed}: {found}. Take the scaling out {advice}')
            # The teacher's preprocessor is the same, so it may well have been trained on such images.
            message = f'the images are scaled to 0 to 1: {found}. Make sure that the teacher was trained on such images'
            print_log(message, logger='current', level=30)


# ---------------------------------------------------------------- pipelines


@dataclass(frozen=True)
class Normalised:
    """A transform that normalises images in a data pipeline.

    Attributes:
        key: where it is in the config.
        name: its class.
        line: what does the same in the model.
    """

    key: str
    name: str
    line: str


def normalised(config: Mapping[str, Any], loaders: Sequence[str] = LOADERS) -> list[Normalised]:
    """The transforms in a config's data sets that normalise images, mmcv's and Albumentations'.

    Args:
        config: a whole config.
        loaders: keys in it.
    """
    found = []
    for loader in loaders:
        dataset = (config.get(loader) or {}).get('dataset')
        divisors = [node['size_divisor'] for _, node in _nodes(dataset, '') if node.get('size_divisor')]
        others: list[str] = []
        for key, node in _nodes(dataset, f'{loader}.dataset'):
            kind = None if key.startswith(tuple(others)) else _transform(node['type'])
            if isinstance(kind, type) and issubclass(kind, Normalize):
                numbers = dict(mean=node.get('mean'), std=node.get('std'), bgr_to_rgb=node.get('to_rgb', True))
                found.append(Normalised(key, kind.__name__, _line(numbers, divisors)))
            elif isinstance(kind, type) and issubclass(kind, Albu):
                others.append(f'{key}.transforms')  # names in there are not mmcv's
                for inner, transform in _nodes(node.get('transforms'), f'{key}.transforms'):
                    if type_name(transform['type']) == 'Normalize':
                        found.append(Normalised(inner, "Albumentations' Normalize", _line(_albu(transform), divisors)))
    return found


def _nodes(node: Any, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every dict with a ``type`` in nested dicts and lists, outer ones first, with its key."""
    if isinstance(node, Mapping):
        if 'type' in node:
            yield key, node
        for name, value in node.items():
            yield from _nodes(value, f'{key}.{name}')
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from _nodes(value, f'{key}[{i}]')


def _transform(kind: Any) -> Any:
    if not isinstance(kind, str):
        return kind
    try:
        return TRANSFORMS.get(kind)
    except Exception:  # a scope or module that is not there; building the data set says so
        return None


def _albu(node: Mapping[str, Any]) -> dict[str, Any]:
    """Albumentations gives statistics as shares of the largest pixel; in mmdet's pipelines it sees BGR."""
    largest = node.get('max_pixel_value', 255.0)
    mean, std = node.get('mean', (0.485, 0.456, 0.406)), node.get('std', (0.229, 0.224, 0.225))
    try:
        mean, std = ([round(x * largest, 4) for x in values] for values in (mean, std))
    except TypeError:
        mean = std = None
    return dict(mean=mean, std=std, bgr_to_rgb=False)


def _line(numbers: Mapping[str, Any], divisors: Sequence[Any]) -> str:
    values = {name: list(x) if isinstance(x, (list, tuple)) else x for name, x in numbers.items() if x is not None}
    return _LINE.format(''.join(f'{name}={x}, ' for name, x in values.items()), divisors[0] if divisors else 32)

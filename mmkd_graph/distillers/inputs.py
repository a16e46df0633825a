"""What the teacher is fed: batches that were normalised for the student, as the teacher's preprocessor gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

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

from .keys import typed
from .rng import preserved_rng

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')

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


def preprocessor_line(divisor: int = 32, **statistics: Any) -> str:
    """``data_preprocessor=dict(…)``, as it is written into the model of a config."""
    values = {name: list(x) if isinstance(x, (list, tuple)) else x for name, x in statistics.items() if x is not None}
    options = ''.join(f'{name}={x}, ' for name, x in values.items())
    return f"data_preprocessor=dict(type='DetDataPreprocessor', {options}pad_size_divisor={divisor})"


IMAGENET = preprocessor_line(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
"""The commonest line, as an example in messages."""


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
        """Read it off a detector's ``data_preprocessor``, for images of so many channels.

        Those of mmengine and mmdet, and classes that inherit their forward pass, are known. Of another class a small
        image is preprocessed, and what comes out is compared with what its attributes say.

        Raises:
            ValueError: if what it does to pixels is not known; names the config ``key``.
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


class InputTransfer:
    """A batch normalised for the student, as the teacher's own preprocessor would have given it.

    Mean, standard deviation, channel order, padding value and size divisor may differ. The two normalisations
    compose to one affine map per channel, so nothing is decoded twice; padded pixels get the teacher's padding value.
    The first batch is looked at: images that the data pipeline normalised too would be fed wrongly.

    Args:
        student, teacher: their ``data_preprocessor``.
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
        self.same_normalisation = (
            not self.flip
            and torch.allclose(self.scale, torch.ones_like(self.scale))
            and torch.allclose(self.shift, torch.zeros_like(self.shift), atol=1e-6)
        )
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
        pad_value, divisor = self.teacher.pad_value, self.teacher.divisor
        if not self.same_normalisation or pad_value != self.student.pad_value:
            outputs = inputs.flip(1) if self.flip else inputs
            if not self.same_normalisation:
                outputs = outputs * self.scale.to(outputs) + self.shift.to(outputs)
            elif outputs is inputs:
                outputs = inputs.clone()
            for image, (h, w) in zip(outputs, image_shapes, strict=True):
                image[:, h:] = pad_value
                image[:, :, w:] = pad_value
            inputs = outputs
        bottom, right = (-side % divisor for side in inputs.shape[-2:])
        return F.pad(inputs, (0, right, 0, bottom), value=pad_value) if bottom or right else inputs

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


class Normalised(NamedTuple):
    """A transform that normalises images in a data pipeline: config key, class, and the line to write in the model."""

    key: str
    name: str
    line: str


def normalised(config: Mapping[str, Any], loaders: Sequence[str] = LOADERS) -> list[Normalised]:
    """The transforms that normalise images, mmcv's and Albumentations', in the data sets of a config's ``loaders``."""
    found = []
    for loader in loaders:
        dataset = (config.get(loader) or {}).get('dataset')
        nodes = dict(typed(dataset, f'{loader}.dataset'))
        divisor = next((node['size_divisor'] for node in nodes.values() if node.get('size_divisor')), 32)
        others: list[str] = []
        for key, node in nodes.items():
            kind = node['type']
            if key.startswith(tuple(others)):
                if type_name(kind) == 'Normalize':
                    line = preprocessor_line(divisor, **_albu(node))
                    found.append(Normalised(key, "Albumentations' Normalize", line))
                continue
            if isinstance(kind, str):
                with suppress(Exception):  # a scope or module that is not there; building the data set says so
                    kind = TRANSFORMS.get(kind)
            if isinstance(kind, type) and issubclass(kind, Normalize):
                numbers = dict(mean=node.get('mean'), std=node.get('std'), bgr_to_rgb=node.get('to_rgb', True))
                found.append(Normalised(key, kind.__name__, preprocessor_line(divisor, **numbers)))
            elif isinstance(kind, type) and issubclass(kind, Albu):
                others.append(f'{key}.transforms')  # names in there are not mmcv's
    return found


def _albu(node: Mapping[str, Any]) -> dict[str, Any]:
    """Albumentations gives statistics as shares of the largest pixel; in mmdet's pipelines it sees BGR."""
    largest = node.get('max_pixel_value', 255.0)
    mean, std = node.get('mean', (0.485, 0.456, 0.406)), node.get('std', (0.229, 0.224, 0.225))
    try:
        mean, std = ([round(x * largest, 4) for x in values] for values in (mean, std))
    except TypeError:
        mean = std = None
    return dict(mean=mean, std=std, bgr_to_rgb=False)

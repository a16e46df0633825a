"""Feature taps: read a module's output during a forward pass that happens anyway."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from .rng import preserved_rng

Result = TypeVar('Result')

PROBE_SIZES = (256, 512)
"""Sides of the square probe image in pixels: multiples of the usual coarsest stride (P7, 128).

The larger one is for detectors whose coarsest convolutions do not fit into the smaller (SSD).
"""
CHANNELS = 3
"""Channels of an image, for detectors that do not ask for another number."""


class Probed(NamedTuple):
    """What one small forward pass says of a detector.

    Attributes:
        strides: input pixels per cell, one entry per tapped level.
        channels: of each tapped level.
        image_channels: of the images that it takes.
    """

    strides: tuple[int, ...]
    channels: tuple[int, ...]
    image_channels: int


def default_tap(detector: nn.Module) -> str:
    """``'neck'`` where the detector has one, otherwise ``'backbone'``."""
    return 'neck' if getattr(detector, 'neck', None) is not None else 'backbone'


def find_tap(detector: nn.Module, path: str, key: str) -> nn.Module:
    """The submodule at a dotted ``path``, such as ``'backbone.layer4'``.

    Raises:
        ValueError: if there is no such module; names the config ``key`` and close ones.
    """
    modules = dict(detector.named_modules())
    if path and path in modules:
        return modules[path]
    near = difflib.get_close_matches(path, modules, n=4, cutoff=0.4)
    top = [name for name, _ in detector.named_children()]
    hint = f'near names: {", ".join(near)}; ' if near else ''
    raise ValueError(
        f'{key}={path!r}: {type(detector).__name__} has no such module; {hint}top-level modules: {", ".join(top)}'
    )


def as_pyramid(output: Any, key: str) -> tuple[Tensor, ...]:
    """A tapped output, one feature map (N, C, H, W), a sequence of them or a mapping to them, as a tuple of maps.

    Raises:
        ValueError: if it is anything else, such as (N, L, C) tokens; names the config ``key``.
    """
    if isinstance(output, Tensor):
        output = (output,)
    elif isinstance(output, Mapping):
        output = tuple(output.values())
    if not isinstance(output, Sequence):
        found: Any = type(output).__name__
    elif output and all(isinstance(x, Tensor) and x.ndim == 4 for x in output):
        return tuple(output)
    else:
        found = [tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in output]
    raise ValueError(f'{key}: the tapped module gives {found}; accepted: feature maps of shape (N, C, H, W)')


@contextmanager
def recorded(module: nn.Module) -> Iterator[list[Any]]:
    """Collect the outputs of ``module`` while the context is open.

    The hook lives only that long, so copies of the model (EMA), other calls and pickles carry none.
    """
    outputs: list[Any] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()


def probe(detector: nn.Module, path: str, key: str) -> Probed:
    """Strides and channels of the pyramid tapped at ``path``, and channels of the images, read off one forward pass.

    That needs no knowledge of any detector family. The pass runs in eval mode without gradient and leaves weights,
    statistics and random states untouched.

    Raises:
        ValueError: if the path is unknown, the detector has no ``extract_feat``, it fails, or the module gives no maps;
            names the config ``key``.
    """
    if not hasattr(detector, 'extract_feat'):
        raise ValueError(
            f'{key.rpartition(".")[2]}: {type(detector).__name__} has no extract_feat; accepted: detectors that have '
            'it (of a model that wraps a detector, such as a tracker, give that detector)'
        )
    module = find_tap(detector, path, key)
    with evaluated(detector):
        outputs, image = _first_pass(detector, module, key)
    if not outputs:
        raise ValueError(
            f'{key}={path!r}: this module does not run in extract_feat; accepted: modules of the backbone or neck'
        )
    pyramid = as_pyramid(outputs[-1], f'{key}={path!r}')
    if any(len(x) != 1 for x in pyramid):
        raise ValueError(
            f'{key}={path!r}: {[len(x) for x in pyramid]} maps per image and level in eval mode; accepted: one'
        )
    strides = tuple(round(image.shape[-1] / x.shape[-1]) for x in pyramid)
    return Probed(strides, tuple(x.shape[1] for x in pyramid), image.shape[1])


def _first_pass(detector: nn.Module, module: nn.Module, key: str) -> tuple[list[Any], Tensor]:
    """What ``module`` gives for the first probe image that the detector takes, and that image."""

    def run(device: torch.device) -> tuple[list[Any], Tensor]:
        failures = []
        attempts = [(CHANNELS, side) for side in PROBE_SIZES]
        while attempts:
            channels, side = attempts.pop(0)
            image = torch.zeros(1, channels, side, side, device=device)
            try:
                with _asked_channels(detector) as asked, recorded(module) as outputs:
                    detector.extract_feat(image)
                return outputs, image
            except Exception as error:  # any backbone may fail in any way
                if asked and channels == CHANNELS:
                    attempts = [(asked[0], side) for side in PROBE_SIZES]
                else:
                    failures.append(error)
        raise failures[0]

    try:
        return on_first_device(detector, run)
    except Exception as error:
        raise ValueError(
            f'{key}: {type(detector).__name__}.extract_feat fails on images of {" and ".join(map(str, PROBE_SIZES))} '
            f'pixels: {type(error).__name__}: {error}; accepted: detectors that take one of them'
        ) from error


@contextmanager
def _asked_channels(detector: nn.Module) -> Iterator[list[int]]:
    """Channels that the first convolution wants an image to have, if one of :data:`CHANNELS` does not fit it.

    Only the first one that runs says anything of images: a later one that does not fit is a mistake in the config.
    What rearranges pixels before it (YOLOX's Focus gives four times as many channels) is taken into account.
    """
    asked: list[int] = []
    seen: list[nn.Module] = []

    def look(module: nn.Conv2d, inputs: tuple[Any, ...]) -> None:
        if not seen and inputs and isinstance(inputs[0], Tensor) and inputs[0].ndim == 4:
            given = inputs[0].shape[1]
            if module.in_channels != given and module.in_channels * CHANNELS % given == 0:
                asked.append(module.in_channels * CHANNELS // given)
        seen.append(module)

    handles = [m.register_forward_pre_hook(look) for m in detector.modules() if isinstance(m, nn.Conv2d)]
    try:
        yield asked
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluated(module: nn.Module) -> Iterator[None]:
    """Eval mode without gradient; afterwards the modes of all parts and the random states are as before."""
    modes = {m: m.training for m in module.modules()}
    module.eval()
    try:
        with preserved_rng(), torch.no_grad():
            yield
    finally:
        for m, mode in modes.items():
            m.training = mode


def on_first_device(module: nn.Module, run: Callable[[torch.device], Result]) -> Result:
    """What ``run`` gives on the first device on which it does not fail.

    Models are built on the CPU; those with operators that only a GPU has (CARAFE) are taken there, and back.

    Raises:
        Exception: what it failed with at home.
    """
    home = next(module.parameters()).device
    failures = []
    for device in _devices(home):
        try:
            module.to(device)
            return run(device)
        except Exception as error:  # any module may fail in any way
            failures.append(error)
        finally:
            module.to(home)
    raise failures[0]


def _devices(home: torch.device) -> list[torch.device]:
    return [home, torch.device('cuda')] if home.type == 'cpu' and torch.cuda.is_available() else [home]

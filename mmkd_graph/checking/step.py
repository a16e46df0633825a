"""Time and memory of a training step, and what the whole schedule takes at that pace."""

from __future__ import annotations

import copy
import math
import resource
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.optim import build_optim_wrapper

from mmkd_graph.distillers import GraphDistiller
from mmkd_graph.findings import FAIL, OK, WARNING, Finding, one_line

_FULL = 0.9
"""Share of a device's memory above which larger images of the set may not fit."""
_SECOND = 3
"""How much longer a second step may begin: nothing is projected from the first one alone."""


def iterations(train_cfg: Mapping[str, Any], images: int, batch: int, gpus: int) -> int | None:
    """Iterations of a training on ``images``, ``batch`` of them per process; None if the loop does not say.

    Example:
        >>> iterations(dict(by_epoch=True, max_epochs=12), images=117266, batch=2, gpus=8)
        87960
    """
    if train_cfg.get('max_iters'):
        return int(train_cfg['max_iters'])
    if train_cfg.get('max_epochs'):
        return int(train_cfg['max_epochs']) * math.ceil(math.ceil(images / gpus) / batch)
    return None


def check_step(
    model: GraphDistiller,
    cfg: Mapping[str, Any],
    batches: Sequence[Any],
    images: int,
    batch: int,
    gpus: int,
    seconds: float = 20.0,
) -> list[Finding]:
    """Train a few steps, the first of which warms up; the model's weights are others afterwards.

    Args:
        model: the distiller on its device.
        cfg: the whole config.
        batches: as the loader gives them.
        images, batch, gpus: as of :func:`iterations`.
        seconds: time after which no other step is begun; a second one, as the first is not warm, until thrice that.
    """
    device = next(model.parameters()).device
    cuda = device.type == 'cuda'
    try:
        wrapper = build_optim_wrapper(model, copy.deepcopy(cfg['optim_wrapper']))
        wrapper.initialize_count_status(model, 0, len(batches) + 1)
    except Exception as error:  # optimizers of any kind
        return [Finding(FAIL, 'optim_wrapper', one_line(error), 'correct the config')]
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    model.train()
    times, logged = [], {}
    begin = time.monotonic()
    try:
        for data in batches:
            passed = time.monotonic() - begin
            if times and passed > seconds * (_SECOND if len(times) == 1 else 1):
                break
            start = time.perf_counter()
            logged = model.train_step(copy.deepcopy(data), wrapper)
            if cuda:
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - start)
    except torch.cuda.OutOfMemoryError as error:
        advice = 'make train_dataloader.batch_size smaller, use amp, or with_cp of the backbone'
        return [Finding(FAIL, 'train_dataloader.batch_size', one_line(error), advice)]
    if bad := [name for name, value in logged.items() if not torch.isfinite(value).all()]:
        found = f'after {len(times)} steps not finite: {", ".join(bad)}'
        return [Finding(FAIL, 'optim_wrapper', found, 'lower the learning rate, clip gradients, or train without amp')]
    return [_memory(device), _time(cfg, times, images, batch, gpus)]


def _memory(device: torch.device) -> Finding:
    key = 'train_dataloader.batch_size'
    if device.type != 'cuda':
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
        found = f'this process took {used:.2f} GiB of memory at most, on {device.type}'
        return Finding(OK, key, found, details=dict(gib=used, device=device.type))
    used = torch.cuda.max_memory_allocated(device) / 1024**3
    total = torch.cuda.get_device_properties(device).total_memory / 1024**3
    found = f'a step takes {used:.2f} of {total:.1f} GiB on {torch.cuda.get_device_name(device)}'
    details = dict(gib=used, total=total, device=device.type)
    if used > _FULL * total:
        return Finding(WARNING, key, found, 'larger images may not fit: make it smaller, or use amp', details)
    return Finding(OK, key, found, details=details)


def _time(cfg: Mapping[str, Any], times: Sequence[float], images: int, batch: int, gpus: int) -> Finding:
    if len(times) == 1:
        found = f'the first step of {batch} images takes {times[0]:.3g} s, too long to take a warm one'
        return Finding(OK, 'train_cfg', found, details=dict(seconds_of_first_step=times[0], gpus=gpus))
    step = statistics.median(times[1:])
    total = iterations(cfg.get('train_cfg') or {}, images, batch, gpus)
    found = f'a step of {batch} images takes {step:.3g} s'
    details: dict[str, Any] = dict(seconds_per_step=step, iterations=total, gpus=gpus)
    if total is None:
        return Finding(WARNING, 'train_cfg', f'{found}; the loop has no max_epochs or max_iters', details=details)
    details['hours'] = total * step / 3600
    found += f'; {total} iterations on {gpus} process{"es" if gpus > 1 else ""} take {_duration(total * step)}'
    rest = 'validation, ' + ('communication, ' if gpus > 1 else '')
    return Finding(OK, 'train_cfg', f'{found}, without {rest}and loading that is slower than this', details=details)


def _duration(seconds: float) -> str:
    """In the unit that a person would take.

    Example:
        >>> _duration(50), _duration(600), _duration(7200), _duration(400000)
        ('50 s', '10.0 min', '2.0 h', '4.6 days')
    """
    for least, size, unit in ((2 * 86400, 86400, 'days'), (5400, 3600, 'h'), (90, 60, 'min')):
        if seconds > least:
            return f'{seconds / size:.1f} {unit}'
    return f'{seconds:.0f} s'

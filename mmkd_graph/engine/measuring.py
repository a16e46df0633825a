"""Paired timings: every round measures every path once, in an order that changes, so that drift affects all alike."""

from __future__ import annotations

import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy import stats


@dataclass(frozen=True)
class Spread:
    """A median and the bounds of its 95 % confidence interval (order statistics; needs six values)."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        interval = stats.quantile_test(values, q=statistics.median(values), p=0.5).confidence_interval(0.95)
        return cls(statistics.median(values), float(interval.low), float(interval.high))


def alternate(
    paths: Mapping[str, Callable[[], object]], rounds: int, warmup: int, device: torch.device, seed: int = 0
) -> dict[str, list[float]]:
    """Seconds of every path in every round after ``warmup``; ``seed`` is that of the order within each round."""
    order, shuffled = list(paths), random.Random(seed)
    seconds: dict[str, list[float]] = {name: [] for name in paths}
    for turn in range(-warmup, rounds):
        shuffled.shuffle(order)
        for name in order:
            if device.type == 'cuda':
                torch.cuda.synchronize(device)
            begin = time.perf_counter()
            paths[name]()
            if device.type == 'cuda':
                torch.cuda.synchronize(device)
            if turn >= 0:
                seconds[name].append(time.perf_counter() - begin)
        print(f'round {turn + 1} of {rounds}' if turn >= 0 else 'warm-up', flush=True)
    return seconds


def machine(device: torch.device, threads: int | None = None) -> str:
    """What numbers were measured on: device, threads of a process, versions."""
    if device.type == 'cuda':
        what = torch.cuda.get_device_name(device)
    else:
        what = f'{os.cpu_count()} CPU cores, {threads or torch.get_num_threads()} threads'
    return f'{what}, torch {torch.__version__}, Python {platform.python_version()}'


def write_report(stem: Path, text: str, content: Any) -> None:
    """Print a report in markdown, and write it and the numbers behind it: ``<stem>.md`` and ``<stem>.json``."""
    print(f'\n{text}')
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix('.md').write_text(text, encoding='utf-8')
    stem.with_suffix('.json').write_text(json.dumps(content, indent=1))

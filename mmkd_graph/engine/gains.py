"""What distillation gained: means, intervals and the table of a comparison."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from scipy import stats

Results = dict[str, dict[str, list]]
"""Per model ``ap``, ``ap50`` (in percent) and ``seconds``, one number per seed in the same order, or None."""


def interval(values: list[float]) -> float:
    """Half width of the 95 % confidence interval of the mean (Student's t); nan for fewer than two values."""
    if len(values) < 2:
        return float('nan')
    return float(stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5)


def summary(values: list[float | None], digits: int = 1) -> str:
    """``mean ± half interval`` of some numbers; empty if one of them is not known."""
    if None in values:
        return ''
    mean = f'{statistics.mean(values):.{digits}f}'
    return mean if len(values) < 2 else f'{mean} ± {interval(values):.{digits}f}'


def signed(gains: list[float]) -> str:
    """``+mean ± half interval`` of gains."""
    mean = round(statistics.mean(gains), 1) + 0.0  # no "-0"
    return f'{mean:+.1f}' + ('' if len(gains) < 2 else f' ± {interval(gains):.1f}')


def table(
    results: Results, by_images: Mapping[str, tuple[float, float]], taught_by: Mapping[str, str] | None = None
) -> str:
    """Markdown rows of AP, AP50, paired gain, share of the gap closed and time.

    Args:
        results: of all models. ``student`` is what the methods are measured against; a teacher may be missing.
        by_images: per method the ends of the gain's interval over the images; empty where they were not drawn again.
        taught_by: per method the name of its teacher; default: ``teacher`` is that of all.
    """
    lines = [
        '| model | AP | AP50 | gain | by images | gap closed | time | AP of each seed |',
        '|---|---:|---:|---:|---:|---:|---:|---|',
    ]
    taught_by = taught_by or {}
    student = results['student']
    pace = _median(student['seconds'])
    for name, result in results.items():
        gain = images = share = ''
        if name not in ('student', 'teacher', *taught_by.values()):
            gains = _paired(result, student)
            mean = statistics.mean(gains)
            gain = signed(gains)
            images = '{:+.1f} to {:+.1f}'.format(*by_images[name]) if name in by_images else ''
            if teacher := results.get(taught_by.get(name, 'teacher')):
                gap = statistics.mean(teacher['ap']) - statistics.mean(student['ap'])
                share = f'{round(100 * mean / gap)} %' if gap > 0 else 'no gap'
        seconds = _median(result['seconds'])
        time = f'{seconds / pace:.2f}' if seconds and pace else ''
        lines.append(
            f'| {name} | {summary(result["ap"])} | {summary(result["ap50"])} | {gain} | {images} | {share} | '
            f'{time} | {", ".join(f"{x:.1f}" for x in result["ap"])} |'
        )
    return '\n'.join(lines)


def to_the_best(results: Results, methods: Sequence[str]) -> str:
    """A sentence on how far the methods are from the one with the highest mean AP, paired by seed.

    Args:
        results: of all models.
        methods: names of those that are compared.

    Returns:
        Empty for fewer than two methods or seeds.

    Example:
        >>> to_the_best({'crg': {'ap': [30.0, 31.0]}, 'pkd': {'ap': [30.5, 31.5]}}, ['crg', 'pkd'])
        'Differences to pkd, the highest mean, paired by seed: crg -0.5 ± 0.0.'
    """
    best = max(methods, key=lambda name: statistics.mean(results[name]['ap']))
    if len(methods) < 2 or len(results[best]['ap']) < 2:
        return ''
    others = [f'{name} {signed(_paired(results[name], results[best]))}' for name in methods if name != best]
    return f'Differences to {best}, the highest mean, paired by seed: {", ".join(others)}.'


def verdicts(results: Results, by_images: Mapping[str, tuple[float, float]], methods: Sequence[str]) -> str:
    """A sentence for every kind of outcome, with the methods that have it: is there a gain?

    A gain or a loss is shown where 0 lies outside of its interval over the seeds, and outside of that over the images.

    Args:
        results: of ``student`` and the methods.
        by_images: per method the ends of the gain's interval over the images; empty where they were not drawn again.
        methods: names of those that are judged.

    Example:
        >>> verdicts({'student': {'ap': [30.0, 31.0]}, 'crg': {'ap': [30.5, 30.5]}}, {}, ['crg'])
        'crg: 2 seeds show neither a gain nor a loss; use three at least.'
    """
    found: dict[str, list[str]] = {}
    for name in methods:
        gains = _paired(results[name], results['student'])
        found.setdefault(_verdict(gains, by_images.get(name)), []).append(name)
    return '\n'.join(f'{", ".join(names)}: {sentence}' for sentence, names in found.items())


def _verdict(gains: list[float], images: tuple[float, float] | None) -> str:
    seeds, more = len(gains), '; use three at least' if len(gains) < 3 else ''
    if seeds < 2:
        return f'one seed shows neither a gain nor a loss{more}.'
    mean, half = statistics.mean(gains), interval(gains)
    if abs(mean) <= half:
        return f'{seeds} seeds show neither a gain nor a loss{more}.'
    what, side = ('a gain', 'above') if mean > 0 else ('a loss', 'below')
    if images is None:
        return f'the interval over the seeds is {side} 0, {what}; that over the images is not known.'
    if (images[0] > 0) if mean > 0 else (images[1] < 0):
        return f'{what} is shown: both intervals are {side} 0.'
    return f'the seeds show {what}, but its interval over the images holds 0: other images might not show it.'


def _paired(one: Mapping[str, list], other: Mapping[str, list]) -> list[float]:
    """Differences of AP, seed by seed."""
    return [a - b for a, b in zip(one['ap'], other['ap'], strict=True)]


def _median(values: list[float | None]) -> float | None:
    return None if None in values else statistics.median(values)

"""Teacher, student alone and distilled student on the same images."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmkd_graph.checkpoints import is_address
from mmkd_graph.distillers.teacher import model_of
from mmkd_graph.export import student_model
from mmkd_graph.findings import one_line

from . import figures
from .detections import SCORE, Accuracy, Images, Matches, Predictions, accuracies, match, predict
from .page import Page, Picture, svg, uri
from .panels import Panels
from .trainings import ALONE, DISTILLED, TEACHER, ReportError, Training

_ORDER = (TEACHER, ALONE, DISTILLED)


def add_detections(
    page: Page,
    by_role: Mapping[str, Training],
    count: int,
    show: int,
    which: str,
    device: str,
    say: Callable[[str], None],
) -> None:
    distilled = by_role[DISTILLED]
    loader = distilled.config.get('val_dataloader') or distilled.config.get('test_dataloader')
    if not loader:
        page.lack('detections', 'The config has neither val_dataloader nor test_dataloader.')
        return
    try:
        images = Images(loader, count)
    except Exception as error:  # a data set that has gone, or whatever its class raises
        raise ReportError(f'the validation images of {distilled.folder} cannot be read: {one_line(error)}') from error
    whole = len(images.images) == images.total
    part = f'all {images.total}' if whole else f'{len(images.images)} of {images.total} evenly spread'
    page.data = f'{part} validation images'
    found: dict[str, list[Predictions]] = {}
    for role, (model, checkpoint, strict) in _models(page, by_role, which).items():
        say(f'{role}: {checkpoint} on {len(images.images)} images')
        try:
            found[role], unknown = predict(model, str(checkpoint), images, device, strict)
        except (FileNotFoundError, ValueError) as error:
            if role == DISTILLED:
                raise ReportError(one_line(error)) from error
            page.lack('detections', f'The {role} was not run: {one_line(error)}')
            continue
        if unknown:
            page.lack('detections', f'The {role} does not know the classes {", ".join(unknown)}.')
        averaged = ', averaged weights (EMA)' if role in by_role and by_role[role].averaged else ''
        page.models.append(dict(role=role, checkpoint=str(checkpoint), averaged=averaged))
    say('average precision')
    accuracy, drawn = accuracies(images, found)
    for model in page.models:
        model.update(ap=accuracy[model['role']].ap, ap50=accuracy[model['role']].ap50)
    if ALONE in accuracy:
        page.gain = _gain(accuracy, drawn)
    _by_class(page, images, accuracy)
    matches = {role: [match(*pair) for pair in zip(images.images, given, strict=True)] for role, given in found.items()}
    _true_objects(page, images, matches)
    for role, given in found.items():
        scores = np.concatenate([one.scores for one in given])
        if not (scores > SCORE).any():
            highest = f'the highest was {scores.max():.2f}' if len(scores) else 'it detects nothing'
            page.lack('summary', f'No detection of the {role} scored above {SCORE}; {highest}. AP counts all scores.')
    gains = _gains(matches)
    if gains is not None:
        page.draw('wins', Picture(svg(figures.plot_gains(gains)), 'Number of images by what was gained on them.'))
    for number in _chosen(gains, len(images.images), show):
        panels = Panels(images.images[number], images.classes)
        row = [Picture(uri(panels.truth(), 'jpeg'), title=f'ground truth ({_counted(images, number)} objects)')]
        for role in _ORDER:
            if role in found:
                one = matches[role][number]
                title = f'{role}: {one.found.sum()} found, {(one.shown & ~one.true).sum()} false'
                row.append(Picture(uri(panels.predictions(found[role][number], one), 'jpeg'), title=title))
        gain = None if gains is None else int(gains[number])
        page.rows.append(dict(name=Path(images.images[number].path).name, gain=gain, pictures=row))


def _models(page: Page, by_role: Mapping[str, Training], which: str) -> dict[str, tuple[Any, Any, bool]]:
    """Model, checkpoint and strictness of each that can be run; the teacher is the one that was distilled from."""
    distilled = by_role[DISTILLED]
    teacher = distilled.config.model.teacher
    models: dict[str, tuple[Any, Any, bool]] = {}
    checkpoint = teacher.get('checkpoint')
    if checkpoint and not is_address(checkpoint) and not Path(checkpoint).is_file() and TEACHER in by_role:
        checkpoint = by_role[TEACHER].checkpoint(which)
    if checkpoint:
        models[TEACHER] = (teacher.config, checkpoint, teacher.get('strict', True))
    else:
        page.lack('detections', 'The teacher was not run: the config names no checkpoint of it.')
    if ALONE in by_role and (checkpoint := by_role[ALONE].checkpoint(which)):
        models[ALONE] = (model_of(by_role[ALONE].config), checkpoint, True)
    elif ALONE in by_role:
        page.lack('detections', f'The student alone was not run: {by_role[ALONE].folder} has no checkpoint.')
    models[DISTILLED] = (student_model(distilled.config), distilled.checkpoint(which), True)
    kinds = {str(Path(models[role][1]).name).startswith('best_') for role in (ALONE, DISTILLED) if role in models}
    if len(kinds) > 1:
        page.lack('detections', 'Only one of the students has a best_*.pth: the other is shown as it was at its end.')
    return models


def _gain(accuracy: Mapping[str, Accuracy], drawn: Mapping[str, np.ndarray]) -> str:
    gain = f'{accuracy[DISTILLED].ap - accuracy[ALONE].ap:+.1f} AP'
    differences = drawn[DISTILLED] - drawn[ALONE] if drawn else np.empty(0)
    differences = differences[np.isfinite(differences)]
    if differences.size:
        low, high = np.percentile(differences, [2.5, 97.5])
        gain += f' ({low:+.1f} to {high:+.1f}, 95 % over images)'
    return gain


def _by_class(page: Page, images: Images, accuracy: Mapping[str, Accuracy]) -> None:
    for label, name in enumerate(images.classes):
        objects = sum(int(((one.labels == label) & ~one.ignored).sum()) for one in images.images)
        values = {role: accuracy[role].classes[name] for role in _ORDER if role in accuracy}
        best = max((x for x in values.values() if not math.isnan(x)), default=math.nan)
        gain = values[DISTILLED] - values[ALONE] if ALONE in values else math.nan
        page.classes.append(dict(name=name, objects=objects, values=values, best=best, gain=gain))


def _counted(images: Images, number: int) -> int:
    return int((~images.images[number].ignored).sum())


def _true_objects(page: Page, images: Images, matches: Mapping[str, Sequence[Matches]]) -> None:
    total = sum(_counted(images, number) for number in range(len(images.images)))
    for role in _ORDER:
        if role in matches:
            found = sum(int(one.found.sum()) for one in matches[role])
            false = sum(int((one.shown & ~one.true).sum()) for one in matches[role])
            share = f'{100 * found / total:.0f} %' if total else '–'
            page.counts.append(dict(role=role, found=found, total=total, share=share, false=false))


def _gains(matches: Mapping[str, Sequence[Matches]]) -> np.ndarray | None:
    """By image, how many more objects the distilled student finds than the student alone."""
    if ALONE not in matches:
        return None
    pairs = zip(matches[DISTILLED], matches[ALONE], strict=True)
    return np.array([int(ours.found.sum()) - int(theirs.found.sum()) for ours, theirs in pairs])


def _chosen(gains: np.ndarray | None, total: int, show: int) -> list[int]:
    """Images to show: a third where most is gained, a third where most is lost, the rest evenly spread."""
    spread = np.linspace(0, total - 1, min(show, total)).round().astype(int).tolist()
    if gains is None:
        return [*dict.fromkeys(spread)]
    order = np.argsort(-gains, kind='stable').tolist()
    third = max(1, show // 3)
    most = [i for i in order[:third] if gains[i] > 0]
    least = [i for i in order[::-1][:third] if gains[i] < 0]
    others = [i for i in spread if i not in (*most, *least)]
    rest = [i for i in order if i not in (*most, *least, *others)]
    return [*most, *least, *[*others, *rest][: max(0, show - len(most) - len(least))]][:show]

"""What the trainings logged and drew: curves, losses, graphs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmkd_graph.checkpoints import is_address
from mmkd_graph.findings import one_line
from mmkd_graph.packaged import command
from mmkd_graph.visualization import plot_losses

from . import figures
from .gradients import gradient_shares, loss_weights, read_state
from .page import Page, Picture, svg, uri
from .trainings import TEACHER, Training, main_metric


def add_curves(page: Page, trainings: Sequence[Training]) -> None:
    name = main_metric(trainings)
    if name is None:
        remedy = f'{command("train.py")} … --cfg-options train_cfg.val_interval=1'
        page.lack('curves', 'No training has validated.', remedy)
        return
    names = [name, *(other for other in (f'{name}_50',) if any(other in one.metrics for one in trainings))]
    caption = 'Validation metrics that the trainings logged. One training each: another seed gives another curve.'
    page.draw('curves', Picture(svg(figures.plot_metrics(trainings, names)), caption))
    for training in trainings:
        if name not in training.metrics:
            page.lack('curves', f'{training.folder} has no {name}: it has not validated.')
    if TEACHER not in {one.role for one in trainings}:
        checkpoint = str(trainings[0].config.model.teacher.get('checkpoint') or '')
        folder = 'TEACHER_WORK_DIR' if not checkpoint or is_address(checkpoint) else str(Path(checkpoint).parent)
        given = [str(one.folder) for one in trainings]
        page.lack(
            'curves',
            'No work dir of the teacher was given, so its curve is not shown.',
            command('analysis/report.py', *given, folder),
        )


def add_losses(page: Page, distilled: Training, checkpoint: Path | None, device: str) -> None:
    # with a slash in it: a name that log_processor.custom_cfg gave a term beside its own
    terms = {name: points for name, points in distilled.terms.items() if 'loss' in name and '/' not in name}
    if terms:
        caption = (
            'Terms that count, as the log has them: those of the student’s own losses above, those of the distillation '
            'below, multiplied by their weights.'
        )
        page.draw('losses', Picture(svg(plot_losses(terms, window=1)), caption))
    state, position = read_state(checkpoint) if checkpoint else ({}, {})
    weights = loss_weights(distilled.config, state)
    for name, one in weights.items():
        value = 'not measured yet' if one.value is None else f'{one.value:.4g}'
        how = 'given in the config' if one.ratio is None else f'measured, for a gradient ratio of {one.ratio:g}'
        page.weights.append((name, one.loss, value, how))
    measured = {name: one for name, one in weights.items() if len(one.ratios)}
    if measured:
        drawn = figures.plot_gradient_ratios(
            {name: (one.passes, one.ratios) for name, one in measured.items()},
            {name: one.ratio for name, one in measured.items()},
        )
        caption = (
            'Gradient share while the weight was measured: norm of the gradient of the loss at weight 1 at the tapped '
            'features of the student, divided by that of the task losses. The weight is wanted / median.'
        )
        page.draw('losses', Picture(svg(drawn), caption))
    else:
        page.lack(
            'losses',
            'No gradient was measured in training: every loss_weight is a number.',
            "loss_weight=dict(type='mmkd_graph.GradientRatio', ratio=0.5)  # in the config",
        )
    if checkpoint and device:
        try:
            shares = gradient_shares(distilled.config, state, position, device)
        except Exception as error:  # teacher and training data may have gone since
            page.lack('losses', f'Gradient shares at the end could not be measured: {one_line(error)}')
            return
        caption = (
            f'Gradient share at the end: the same norms on one training batch, with the weights in {checkpoint.name} '
            'and the losses as they are weighted. Norms of terms do not add up, as gradients may oppose each other.'
        )
        page.draw('losses', Picture(svg(figures.plot_shares(shares)), caption))


def add_graphs(page: Page, distilled: Training) -> None:
    captions = {
        'affinity': 'Channel affinities (cosines between channels in windows of 4 × 4 cells, averaged): the student '
        'before and after, and the teacher. What distillation should achieve is less |difference| after than before.',
        'spectra': 'Laplacian spectra of the same graphs. The student after should lie nearer to the teacher.',
    }
    for name, caption in captions.items():
        path = distilled.folder / 'pictures' / f'{name}.png'
        if path.is_file():
            page.draw('graphs', Picture(uri(path.read_bytes(), 'png'), caption))
    if 'graphs' not in page.pictures:
        page.lack(
            'graphs',
            'The training drew no graphs.',
            "custom_hooks = [dict(type='mmkd_graph.GraphPicturesHook')]  # in the config, before training",
        )

"""What a page consists of, and how it is written."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from mmkd_graph.checkpoints import write_whole
from mmkd_graph.packaged import command

from .detections import IOU, SCORE
from .panels import FALSE, MISSED, OBJECT, TRUE
from .trainings import Training


@dataclass(frozen=True)
class Picture:
    """A picture with its caption; ``uri`` holds all of it."""

    uri: str
    caption: str = ''
    title: str = ''


@dataclass(frozen=True)
class Missing:
    """What a section lacks, and the command or setting that provides it."""

    what: str
    remedy: str = ''


@dataclass
class Page:
    """What the template fills in."""

    title: str
    command: str
    trainings: list[Training]
    environment: str
    made: str
    missing: dict[str, list[Missing]] = field(default_factory=dict)
    pictures: dict[str, list[Picture]] = field(default_factory=dict)
    weights: list[tuple[str, str, str, str]] = field(default_factory=list)
    models: list[dict[str, Any]] = field(default_factory=list)
    data: str = ''
    gain: str = ''
    counts: list[dict[str, Any]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    classes: list[dict[str, Any]] = field(default_factory=list)
    differences: list[tuple[str, str, str]] | None = None

    def lack(self, section: str, what: str, remedy: str = '') -> None:
        """Say in a section that something is missing."""
        self.missing.setdefault(section, []).append(Missing(what, remedy))

    def draw(self, section: str, picture: Picture) -> None:
        """Add a picture to a section."""
        self.pictures.setdefault(section, []).append(picture)

    def lack_student(self, distilled: Training) -> None:
        """Say, once, that the student alone is missing: with it there are curves, gains and config differences."""
        copies = sorted(distilled.folder.glob('*.py'), key=lambda path: (path.stem == 'student', path.stat().st_mtime))
        config = copies[0] if copies else Path('CONFIG.py')
        # where tools/compare.py leaves it
        alone = Path('work_dirs/compare', config.stem, 'student-0')
        train = f'{command("compare.py", str(config))} --seeds 0  # trains both students, or finds them trained\n'
        self.lack(
            'summary',
            'No work dir of the student alone was given, so the page has no gain over it.',
            f'{"" if alone.is_dir() else train}{command("analysis/report.py", str(distilled.folder), str(alone))}',
        )

    def chosen_by_validation(self) -> bool:
        """Whether a checkpoint that was run is a best one."""
        return any(Path(model['checkpoint']).name.startswith('best_') for model in self.models)

    def sources(self) -> list[tuple[str, str, str]]:
        """(role, work dir, checkpoint that was run) of every training and model."""
        run = {model['role']: model['checkpoint'] + model['averaged'] for model in self.models}
        given = {training.role for training in self.trainings}
        rows = [(one.role, str(one.folder), run.get(one.role, '–')) for one in self.trainings]
        return rows + [(role, 'not given', checkpoint) for role, checkpoint in run.items() if role not in given]

    def write(self, out: Path) -> None:
        """Write the page into a file, whole or not at all."""
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader('mmkd_graph.reporting', ''),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )
        colours = dict(object=OBJECT, true=TRUE, false=FALSE, missed=MISSED)
        text = environment.get_template('page.html').render(page=self, iou=IOU, score=SCORE, colours=colours)
        write_whole(text.encode(), out)


def svg(figure: Figure) -> str:
    """The data URI of a figure."""
    with io.BytesIO() as buffer:
        figure.savefig(buffer, format='svg')
        return uri(buffer.getvalue(), 'svg+xml')


def uri(content: bytes, kind: str) -> str:
    """The data URI of an image file."""
    return f'data:image/{kind};base64,{base64.b64encode(content).decode()}'

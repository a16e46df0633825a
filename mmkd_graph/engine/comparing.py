"""Train and evaluate teacher, student and distilled students over seeds, in processes that can be interrupted."""

from __future__ import annotations

import functools
import os
import queue
import statistics
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .gains import Results, table, to_the_best, verdicts
from .resampling import resampled_ap
from .runs import Given, Run
from .suites import Suite, untried

NO_VALIDATION = {'train_cfg.val_interval': 10**9}
"""The splits are read by the evaluation alone."""


@dataclass
class Comparison:
    """The runs of a suite, as the command line asks for them.

    Args:
        suite: what is compared; None where a subclass knows.
        work_dir: folder of all runs.
        methods: names of those of the suite that are run.
        seeds: of the students; the first one is that of the teacher.
        split: ``'val'`` or ``'test'``, which is reported.
        jobs: processes at a time, each on its share of the cores, and on a GPU of its own where there are several.
        keep_teacher: keep the teacher's features of every image in the work dir.
        cfg_options: settings on top of all configs.

    Attributes:
        scores: of methods that are tuned, AP on the validation split of every value tried.
        by_images: per method the ends of the 95 % interval over the images of its gain, the mean over the seeds; empty
            where the evaluator is another than mmdet's ``CocoMetric``.
        metric: name of what is reported as AP.
        notes: what has to be known of the numbers, in sentences.
    """

    suite: Suite | None
    work_dir: Path
    methods: Sequence[str]
    seeds: Sequence[int]
    split: str = 'test'
    jobs: int = 1
    keep_teacher: bool = False
    cfg_options: Mapping[str, Any] = field(default_factory=dict)
    scores: dict[str, dict[Any, float]] = field(default_factory=dict)
    by_images: dict[str, tuple[float, float]] = field(default_factory=dict)
    metric: str = ''
    notes: list[str] = field(default_factory=list)

    @property
    def threads(self) -> int:
        """Of each process."""
        return max(1, (os.cpu_count() or 1) // self.jobs)

    @property
    def tuning_seed(self) -> int:
        return self.suite.tune.get('seed', self.seeds[0])

    @property
    def taught_by(self) -> dict[str, str]:
        """Per method the name of its teacher."""
        return dict.fromkeys(self.methods, 'teacher')

    @property
    def teaching(self) -> str:
        """Where the teachers come from, in words."""
        return 'the teacher as its weights are' if self.suite.weights else 'one teacher'

    @functools.cached_property
    def teacher(self) -> Run:
        if not self.suite.weights:
            return self.run('teacher', self.suite.teacher, self.seeds[0])
        start = (self.suite.teacher, self.work_dir / 'teacher', {**NO_VALIDATION, **self.cfg_options})
        return Given(*start, *self.surroundings(), weights=self.suite.weights)

    def results(self) -> Results:
        """Train and evaluate everything.

        Raises:
            RunFailed: if a process ends with an error.
        """
        rows = {name: [row] for name, row in self.teachers().items()}
        self.prepare()
        runs = {}
        for seed in self.seeds:  # a method that cannot be trained ends all before the student has been
            runs |= {(name, seed): self.learner(name, self.chosen(name), seed) for name in self.methods}
            runs['student', seed] = self.student(seed)
        found = self.finish(runs, self.split)
        self.resample(runs)
        rows |= {name: [found[name, seed] for seed in self.seeds] for name in ('student', *self.methods)}
        return {name: {key: [row[key] for row in some] for key in some[0]} for name, some in rows.items()}

    def teachers(self) -> dict[str, dict[str, Any]]:
        """Metrics of the teachers, by name."""
        return self.finish({'teacher': self.teacher}, self.split)

    def prepare(self) -> None:
        """Pretrain the backbone and tune, where the suite says so."""
        if self.suite.pretrain is not None:
            before = self.run('pretrain', self.suite.pretrain, self.seeds[0])
            before.train()
            student = self.write('student', self.suite.pretrained(before.checkpoint))
            self.suite = replace(self.suite, student=student)
        if self.suite.tune:
            self.tune()

    def student(self, seed: int) -> Run:
        """The run of the student alone."""
        return self.run('student', self.suite.student, seed)

    def resample(self, runs: Mapping[tuple[str, int], Run]) -> None:
        """Find ``by_images``: the seeds stay, and the images are drawn again."""
        names = ['student', *self.methods]
        boxes = [runs[name, seed].boxes(self.split) for name in names for seed in self.seeds]
        if None in boxes or not self.metric.endswith('bbox_mAP'):
            self.notes.append('"by images" is empty: it needs the boxes that CocoMetric writes.')
            return
        first = boxes[0]
        drawn = 100 * resampled_ap(first.ann_file, [one.predictions for one in boxes], first.classes)
        means = drawn.reshape(len(names), len(self.seeds), -1).mean(axis=1)
        for name, gains in zip(self.methods, means[1:] - means[0], strict=True):
            self.by_images[name] = tuple(np.nanpercentile(gains, (2.5, 97.5)))

    def tune(self) -> None:
        """Score the values of every method that is tuned, until :func:`~.suites.untried` has none left."""
        self.scores = {name: {} for name in self.methods if self.suite.tunes(name)}
        while trials := {
            (name, value): self.learner(name, value, self.tuning_seed)
            for name, scores in self.scores.items()
            for value in untried(self.suite.tune['values'], scores)
        }:
            for (name, value), result in self.finish(trials, 'val').items():
                self.scores[name][value] = result['ap']
        for name in self.scores:
            print(f'{name}: {self.suite.tune["key"]}={self.chosen(name)} on val', flush=True)

    def chosen(self, name: str) -> Any:
        """The best value of a method that is tuned, otherwise ``None``."""
        scores = self.scores.get(name)
        return scores and max(scores, key=scores.__getitem__)

    def learner(self, name: str, value: Any, seed: int) -> Run:
        """The run of a method."""
        label = name if value is None else f'{name}-{value}'
        config = self.write(label, self.suite.config(name, self.teacher.checkpoint, value))
        return self.run(label, config, seed)

    def run(self, label: str, config: str, seed: int) -> Run:
        """The run of a config by a seed."""
        options = {'randomness.seed': seed, **NO_VALIDATION, **self.cfg_options}
        return Run(config, self.work_dir / f'{label}-{seed}', options, *self.surroundings())

    def surroundings(self) -> tuple[dict[str, str], str]:
        """Environment and trainer of all runs."""
        environment = {'OMP_NUM_THREADS': str(self.threads), 'MKL_NUM_THREADS': str(self.threads)}
        if not self.keep_teacher:
            return environment, 'train.py'
        environment['MMKD_KEPT_TEACHER'] = str(self.work_dir / 'kept-teacher')
        return environment, 'benchmark/train_with_kept_teacher.py'

    def write(self, label: str, text: str) -> str:
        """Write a config of this comparison; returns its path."""
        path = self.work_dir / 'configs' / f'{label}.py'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding='utf-8')
        return str(path)

    def finish(self, runs: Mapping[Any, Run], split: str) -> dict[Any, dict[str, Any]]:
        """Train and evaluate some runs, ``jobs`` of them at a time; after one that fails, no other begins."""
        failed = threading.Event()
        places: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
        for place in gpus(self.jobs):
            places.put(place)

        def one(run: Run) -> dict[str, Any]:
            place = places.get()
            try:
                if failed.is_set():
                    raise CancelledError
                run = replace(run, environment={**run.environment, **place}) if place else run
                run.train()
                score = run.score(split)
                seconds = run.seconds_per_iteration()
            except BaseException:
                failed.set()
                raise
            finally:
                places.put(place)
            self.metric = self.metric or score.metric
            if score.metric != self.metric:
                self.warn(f'The metric of {run.work_dir.name} is `{score.metric}`, which the others do not have.')
            if score.empty:
                self.warn(f'{run.work_dir.name} detects nothing at all on {split}: its AP is 0.')
            return dict(ap=score.value, ap50=score.at_50, seconds=seconds)

        with ThreadPoolExecutor(self.jobs) as pool:
            futures = {key: pool.submit(one, run) for key, run in runs.items()}
        return {key: future.result() for key, future in futures.items()}

    def warn(self, note: str) -> None:
        """Print a note of the numbers, and keep it for the report."""
        print(note, flush=True)
        self.notes.append(note)

    def report(self, results: Results, where: str) -> str:
        """The table, and how its numbers were made."""
        alone = results['student']['ap']
        deviation = f'{statistics.stdev(alone):.2f}' if len(alone) > 1 else 'not known'
        pretrained = self.suite is not None and self.suite.pretrain
        note = "The students' backbones start from the same trained weights. " if pretrained else ''
        if self.keep_teacher:
            note += "The teacher's features were kept, and the times are without it. "
        if self.metric != 'coco/bbox_mAP':
            note += f'AP is 100 × `{self.metric}`. '
        note += ''.join(f'{one} ' for one in dict.fromkeys(self.notes))
        text = (
            f'{table(results, self.by_images, self.taught_by)}\n\n'
            f'{verdicts(results, self.by_images, self.methods)}\n\n'
            f'Split: {self.split}. Seeds: {", ".join(map(str, self.seeds))}; {self.teaching}. A gain is the AP of the '
            'distilled student minus that of the student alone with the same seed; the table has the mean over the '
            'seeds. ± is half of the 95 % interval of a mean over the seeds. "By images" is the 95 % interval of the '
            'mean gain with other images of the same kind (bootstrap). Times are relative to the student '
            f'alone. The standard deviation of its AP between seeds is {deviation}. {note}{self.jobs} processes at a '
            f'time on {where}.\n'
        )
        if differences := to_the_best(results, self.methods):
            text += f'\n{differences}\n'
        if self.scores:
            choices = []
            for name, scores in self.scores.items():
                tried = ', '.join(f'{value}: {ap:.1f}' for value, ap in sorted(scores.items()))
                choices.append(f'{name} {self.chosen(name)} ({tried})')
            text += (
                f'\n`{self.suite.tune["key"]}` was chosen on val by seed {self.tuning_seed}: {"; ".join(choices)}.\n'
            )
        return text


def gpus(jobs: int) -> list[dict[str, str]]:
    """What each of the processes at a time is to find in its environment: a GPU, where there are several of both."""
    count = torch.cuda.device_count()
    if jobs < 2 or count < 2:
        return [{}] * jobs
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    names = visible.split(',') if visible else [str(i) for i in range(count)]
    return [{'CUDA_VISIBLE_DEVICES': names[i % count]} for i in range(jobs)]

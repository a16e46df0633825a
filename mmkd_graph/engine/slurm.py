"""A suite as jobs of Slurm: one run each, which wait for what they need and are submitted once."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmkd_graph.checkpoints import is_address, write_whole
from mmkd_graph.packaged import TOOLS

from .runs import Run, resolved, write_config
from .suites import Suite, SuiteError

SCRIPT = TOOLS / 'benchmark' / 'coco' / 'job.sh'
"""What every job runs: training, and the test of its last checkpoint."""


class NotSubmitted(RuntimeError):
    """Slurm has refused a job or is not there; the message is one line."""


@dataclass(frozen=True)
class Job:
    """One run as a job.

    Attributes:
        name: of the job.
        run: what it trains.
        after: names of the jobs that have to succeed before it begins.
        weights: checkpoint that is only tested, a path or an address; empty for what is trained.
    """

    name: str
    run: Run
    after: tuple[str, ...] = ()
    weights: str = ''

    @property
    def finished(self) -> bool:
        """Whether it has been trained and tested."""
        return is_finished(self.run.work_dir)

    @property
    def config(self) -> Path:
        """The whole config, where :meth:`prepare` writes it."""
        return written_config(self.run)

    @property
    def last_id(self) -> str:
        """Slurm's number of the job that was last submitted for it; empty if none was."""
        path = self.run.work_dir / 'job'
        return path.read_text() if path.exists() else ''

    def prepare(self) -> None:
        """Write its config.

        Raises:
            RunFailed: if its folder is that of another config.
        """
        self.run.work_dir.mkdir(parents=True, exist_ok=True)
        self.run.claim()
        write_config(self.run.config, self.run.options, self.config.parent)


@dataclass(frozen=True)
class Batch:
    """The jobs of a suite.

    Args:
        suite: what is compared.
        name: of the suite.
        work_dir: folder of its runs.
        methods: names of those of the suite that are run.
        seeds: of the students. A teacher that is trained has the suite's first.
        cfg_options: settings on top of all configs.
        at_once: let the methods not wait for the student alone.
    """

    suite: Suite
    name: str
    work_dir: Path
    methods: Sequence[str]
    seeds: Sequence[int]
    cfg_options: Mapping[str, Any] = field(default_factory=dict)
    at_once: bool = False

    def jobs(self) -> list[Job]:
        """All jobs, each one after those it waits for; their configs are written below ``work_dir/configs``.

        Raises:
            SuiteError: if the suite asks for what jobs that know nothing of each other cannot do.
        """
        for key in ('tune', 'pretrain'):
            if getattr(self.suite, key):
                raise SuiteError(f'{self.name}: {key}; accepted: suites without it. compare.py runs this one')
        given = self.suite.weights
        if given and not is_address(given):
            given = os.path.abspath(given)
        teacher = self._job('teacher', self.suite.teacher, self.suite.seeds[0], weights=given or '')
        weights = given or teacher.run.work_dir / 'weights.pth'
        jobs = [teacher]
        students = {seed: self._job('student', self.suite.student, seed) for seed in self.seeds}
        jobs += students.values()
        for name in self.methods:
            path = self.work_dir / 'configs' / f'{name}.py'
            write_whole(self.suite.config(name, weights).encode(), path)
            for seed in self.seeds:
                waits = [teacher.name] if self.at_once else [teacher.name, students[seed].name]
                jobs.append(self._job(name, str(path), seed, after=tuple(waits)))
        return jobs

    def _job(self, label: str, config: str, seed: int, **more: Any) -> Job:
        options = {'randomness.seed': seed, **self.cfg_options}
        if 'base_batch_size' in (resolved(config, {}).get('auto_scale_lr') or {}):
            options['auto_scale_lr.enable'] = True  # whatever the number of GPUs
        run = Run(config, self.work_dir / f'{label}-{seed}', options)
        return Job(f'{self.name}-{label}-{seed}', run, **more)


@dataclass(frozen=True)
class Cluster:
    """How jobs are submitted.

    Args:
        gpus: processes of a job, one per GPU.
        gpus_per_node: of them on one machine; 0 asks for no GPU, and the processes meet over gloo.
        cpus_per_task: cores of a process.
        partition: empty for Slurm's default.
        time: limit of a job as ``sbatch`` reads it; empty for the partition's default.
        more: further options of ``sbatch``.
    """

    gpus: int = 8
    gpus_per_node: int = 8
    cpus_per_task: int = 5
    partition: str = ''
    time: str = ''
    more: Sequence[str] = ()

    def command(self, job: Job, after: Sequence[str]) -> list[str]:
        """The command that submits a job.

        Args:
            job: that is submitted.
            after: numbers of the jobs that have to succeed before.
        """
        options = [f'--job-name={job.name}', f'--output={job.run.work_dir}/slurm.log', f'--ntasks={self.gpus}']
        if self.gpus_per_node:
            options += [f'--ntasks-per-node={self.gpus_per_node}', f'--gres=gpu:{self.gpus_per_node}']
        options += [f'--cpus-per-task={self.cpus_per_task}']
        options += [f'--{name}={value}' for name in ('partition', 'time') if (value := getattr(self, name))]
        if after:  # one that waits for what has failed would wait for ever
            options += [f'--dependency=afterok:{":".join(after)}', '--kill-on-invalid-dep=yes']
        arguments = [TOOLS, job.run.work_dir, job.config, *([job.weights] if job.weights else [])]
        return ['sbatch', '--parsable', *options, *self.more, *map(str, (SCRIPT, *arguments))]

    def submit(self, job: Job, after: Sequence[str]) -> str:
        """Submit a job; returns its number.

        Raises:
            NotSubmitted: if Slurm refuses it.
            RunFailed: if its folder is that of another config.
        """
        job.prepare()
        environment = dict(GPUS=self.gpus, GPUS_PER_NODE=self.gpus_per_node, CPUS_PER_TASK=self.cpus_per_task)
        environment = {key: str(value) for key, value in environment.items()}
        # a cluster's name may follow the number
        number = _ask(self.command(job, after), PYTHON=sys.executable, **environment).strip().partition(';')[0]
        write_whole(number.encode(), job.run.work_dir / 'job')
        return number

    def submit_all(self, jobs: Sequence[Job], dry_run: bool = False) -> None:
        """Submit those that are neither finished nor in the queue, and print what happens to each.

        Raises:
            NotSubmitted: if Slurm refuses one.
            RunFailed: if the folder of one is that of another config.
        """
        try:
            queue = queued()
        except NotSubmitted as error:
            if not dry_run:
                raise
            queue = {}
            print(f'The queue is not known: {error}', file=sys.stderr)
        numbers: dict[str, str] = {}
        command: list[str] = []
        for job in jobs:
            after = [numbers[name] for name in job.after if name in numbers]
            told = ' '.join(['', 'after', *after] if after else [])
            if job.finished:
                print(f'{job.name}: finished')
            elif job.last_id in queue:
                numbers[job.name] = job.last_id
                print(f'{job.name}: job {job.last_id} is {queue[job.last_id]}')
            elif dry_run:
                numbers[job.name], command = f'<{job.name}>', self.command(job, after)
                print(f'{job.name}: would be submitted{told}')
            else:
                numbers[job.name] = self.submit(job, after)
                print(f'{job.name}: submitted as job {numbers[job.name]}{told}', flush=True)
        if command:
            print(f'\nThe last one by: {shlex.join(command)}')


def queued() -> dict[str, str]:
    """The user's jobs that have not ended: their states by their numbers."""
    rows = _ask(['squeue', '--me', '--noheader', '--format=%i %T']).splitlines()
    return dict(row.split(maxsplit=1) for row in rows)


def is_finished(work_dir: Path) -> bool:
    """Whether the run in a folder has been trained and tested by a job."""
    return (work_dir / 'tested').exists()


def written_config(run: Run) -> Path:
    """Where a job's whole config is."""
    return run.work_dir / 'configs' / 'train' / Path(run.config).name


def _ask(command: Sequence[str], **environment: str) -> str:
    try:
        done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise NotSubmitted(f'there is no {command[0]} here; accepted: a machine with the commands of Slurm') from error
    if done.returncode:
        raise NotSubmitted(f'{shlex.join(command)}: {" ".join(done.stderr.split())}')
    return done.stdout

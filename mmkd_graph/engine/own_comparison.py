"""The comparison of a user's own distillation configs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .comparing import NO_VALIDATION, Comparison
from .own_configs import OwnConfigs
from .runs import Given, Run, RunFailed

SEEDS = (0, 1, 2)
"""Of the students, unless others are asked for."""


@dataclass
class OwnComparison(Comparison):
    """The runs of distillation configs; see :class:`Comparison`, whose ``suite`` is None.

    Args:
        own: the configs.
    """

    own: OwnConfigs | None = None

    def __post_init__(self) -> None:
        self.notes += self.own.notes

    @property
    def taught_by(self) -> dict[str, str]:
        """Per method the name of its teacher."""
        return {name: self.own.taught_by[name] for name in self.methods}

    @property
    def teaching(self) -> str:
        """Where the teachers come from, in words."""
        return 'teachers as their checkpoints are'

    def teachers(self) -> dict[str, dict[str, Any]]:
        """Metrics of the teachers that can be evaluated on the student's data, by name."""
        found = {}
        for label in dict.fromkeys(self.taught_by.values()):
            teacher = self.own.teachers[label]
            problem = teacher.problem
            if not problem:
                config = self.write(label, teacher.config)
                run = Given(config, self.work_dir / label, {}, *self.surroundings(), weights=teacher.weights)
                try:
                    run.train()
                except RunFailed as error:
                    raise RunFailed(
                        f'{label}: the weights or the config are not those that the runs in {self.work_dir} learned '
                        'from; choose another --work-dir, or remove that one'
                    ) from error
                try:
                    found |= self.finish({label: run}, self.split)
                except RunFailed as error:  # any detector on any data
                    problem = f'it could not be evaluated: {" ".join(str(error).split())}'
            if problem:
                self.warn(f'No row of {label}: {problem}.')
        return found

    def prepare(self) -> None:
        """Write the student's config."""
        self.write('student', self.own.student)

    def student(self, seed: int) -> Run:
        """The run of the student alone."""
        return self.run('student', str(self.work_dir / 'configs' / 'student.py'), seed)

    def learner(self, name: str, value: Any, seed: int) -> Run:
        """The run of a config."""
        return self.run(name, self.own.methods[name], seed)

    def run(self, label: str, config: str, seed: int) -> Run:
        """The run of a config by a seed; the student's has all other options in it."""
        options = {'randomness.seed': seed, **({} if self.own.validated else NO_VALIDATION)}
        if label != 'student':
            options |= self.cfg_options
        return Run(config, self.work_dir / f'{label}-{seed}', options, *self.surroundings())

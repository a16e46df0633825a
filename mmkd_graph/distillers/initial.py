"""Files that a detector starts from: the pretrained weights that ``init_cfg`` names in its modules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pickle import UnpicklingError

from torch import nn

from mmkd_graph.checkpoints import weights_only
from mmkd_graph.registry import type_name

from .missing import MissingWeights, loaded_name, missing_weights
from .weights import not_read


@contextmanager
def initialising(model: nn.Module, key: str = 'student', whole_key: str = 'model.student') -> Iterator[None]:
    """Let the initialisation inside read files as weights only; errors name those of ``init_cfg`` that were not read.

    Raises:
        MissingWeights: for a file, a connection or a package that is missing.
        ValueError: if a file holds more than weights.
    """
    try:
        with weights_only():
            yield
    except UnpicklingError as error:
        found = [f'{key}{name}={file!r}' for name, file in _initial_files(model)]
        raise not_read(' or '.join(found) or "a file of the student's init_cfg", error) from error
    except MissingWeights:
        raise
    except Exception as error:  # of networks and files
        asked = loaded_name(error)
        for name, file in _initial_files(model):
            if file == asked and (missing := missing_weights(error, f'{key}{name}', file, f'{whole_key}{name}')):
                raise missing from error
        raise


def _initial_files(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Files of ``Pretrained`` initialisations, with the end of their keys."""
    for name, module in model.named_modules():
        for file in _pretrained(module):
            yield f'.{name}.init_cfg.checkpoint'.replace('..', '.'), file


def forget_initial_files(model: nn.Module) -> None:
    """Let modules start with random weights where their ``init_cfg`` names a file."""
    for module in model.modules():
        if _pretrained(module):
            module.init_cfg = None


def _pretrained(module: nn.Module) -> list[str]:
    """Files that a module's own ``init_cfg`` names."""
    given = getattr(module, 'init_cfg', None) or ()
    configs = [given] if isinstance(given, Mapping) else given
    kinds = ('Pretrained', 'PretrainedInit')
    return [str(config.get('checkpoint')) for config in configs if type_name(config.get('type')) in kinds]

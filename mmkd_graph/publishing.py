"""A checkpoint made into a file to pass on: the plain detector, named after its contents, loaded once as a proof."""

from __future__ import annotations

import hashlib
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import nn

from mmkd_graph.checkpoints import damage, is_address
from mmkd_graph.datasets.metainfo import common_metainfo
from mmkd_graph.distillers.provenance import trained_config
from mmkd_graph.distillers.teacher import build_detector
from mmkd_graph.distillers.weights import load_weights, read_checkpoint
from mmkd_graph.export import export_student, needs, student_config
from mmkd_graph.plain import plain
from mmkd_graph.registry import type_name


@dataclass(frozen=True)
class Published:
    """What :func:`publish_student` has written.

    Attributes:
        weights: the file.
        config: the detector's config beside it.
        model: type of the detector.
        distilled: whether it was the student of a distillation.
        parameters: how many numbers it has learned.
        classes: names.
        needs: what it needs beyond mmdet wherever it runs, in words.
    """

    weights: Path
    config: Path
    model: str
    distilled: bool
    parameters: int
    classes: tuple[str, ...]
    needs: list[str] = field(default_factory=list)


def publish_student(checkpoint: str, out: str | Path, config: Config | None = None) -> Published:
    """Write the plain detector of a training's checkpoint; see :func:`~mmkd_graph.export.export_student`.

    The file's name gets the first eight digits of the SHA-256 of its contents, as mmdet's ``publish_model.py`` has it.
    It appears under that name after its weights were read back and loaded, all of them, into the detector of its own
    config. Nothing is published that would not work with ``DetInferencer(weights=…)``.

    Args:
        checkpoint: file or URL of a training, distilled or plain. With averaged weights (``EMAHook``), those.
        out: name to write to: ``student.pth`` becomes ``student-1a2b3c4d.pth``, with ``student-1a2b3c4d.py`` beside.
        config: the training's config; default: the one in the checkpoint.

    Raises:
        FileNotFoundError, ValueError: what is wrong with the checkpoint, its config or ``out``, in one line.
        FileExistsError: if it was published before.
        OSError: if a file cannot be written. Nothing is left then.
    """
    out = Path(out)
    if out.is_dir() or out.suffix == '.py':
        kind = 'a folder' if out.is_dir() else 'the name of a config'
        raise ValueError(f'OUT={str(out)!r} is {kind}; accepted: a name to write to, such as student.pth')
    if not is_address(checkpoint) and zipfile.is_zipfile(checkpoint) and (problem := damage(checkpoint)):
        raise ValueError(f'CHECKPOINT={checkpoint!r}: {problem}')  # torch.load compares no checksums
    _, meta = read_checkpoint(checkpoint, 'CHECKPOINT')
    whole = config if config is not None else _own_config(meta, checkpoint)
    classes = common_metainfo(meta.get('dataset_meta')).get('classes')
    if not classes:
        raise ValueError(
            f'CHECKPOINT={checkpoint!r} has no class names (meta.dataset_meta.classes), and inference would take those '
            'of COCO; accepted: a checkpoint that a training saved'
        )
    try:
        student = Config.fromstring(student_config(whole).pretty_text, '.py')
    except ImportError as error:
        raise ValueError(
            f'custom_imports of the config: {error}; accepted: modules that can be imported here'
        ) from error
    detector = _built(student)
    load_weights(detector, checkpoint, 'CHECKPOINT')  # prefixes and mmdet 2's second set of weights go
    weights = dict(state_dict=detector.state_dict(), meta=meta)

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='.publish-', dir=out.parent) as folder:
        file = Path(folder) / 'student.pth'
        text = export_student(weights, whole, file)
        name = f'{out.name.removesuffix(".pth")}-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.pth'
        final, beside = out.with_name(name), out.with_name(name).with_suffix('.py')
        for path in (final, beside):
            if path.exists():
                raise FileExistsError(f'OUT={str(out)!r}: {str(path)!r} is there already; accepted: another name')
        written = torch.load(file, map_location='cpu', weights_only=True)
        _built(Config.fromstring(written['meta']['cfg'], '.py')).load_state_dict(written['state_dict'], strict=True)
        text.replace(beside)
        try:
            file.replace(final)
        except BaseException:
            beside.unlink()
            raise
    return Published(
        weights=final,
        config=beside,
        model=type_name(student.model.type),
        distilled=type_name(whole.model.get('type')) == 'GraphDistiller',
        parameters=sum(p.numel() for p in detector.parameters()),
        classes=tuple(classes),
        needs=needs(student),
    )


def _own_config(meta: Mapping[str, Any], checkpoint: str) -> Config:
    """The config in a checkpoint, of which nothing is run."""
    found = trained_config(meta)
    unread: list[str] = []
    if found is not None:
        plain(found, 'cfg', unread)
    if found is None or unread:
        has = f'a config that is a program ({unread[0]})' if unread else 'no config'
        raise ValueError(f"CHECKPOINT={checkpoint!r} has {has}; give the training's with --config")
    return Config(found)


def _built(student: Config) -> nn.Module:
    """The detector of a plain config, built in its scope as mmdet's tools and inference build it."""
    with DefaultScope.overwrite_default_scope(student.default_scope):
        return build_detector(student.model, 'model')

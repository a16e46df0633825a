"""All checks of a training in their order: before it, from its config alone, and at its start, inside its runner."""

from __future__ import annotations

import contextlib
import copy
import io
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.logging import MessageHub
from mmengine.runner import Runner, autocast
from torch.nn.parallel import DistributedDataParallel

from mmkd_graph.datasets.coco_files import no_garbage_collection
from mmkd_graph.distillers import GraphDistiller
from mmkd_graph.distillers.initial import forget_initial_files
from mmkd_graph.distillers.missing import MissingWeights
from mmkd_graph.distillers.teacher import model_of
from mmkd_graph.findings import FAIL, OK, WARNING, Finding, agreed, failed, one_line
from mmkd_graph.registry import type_name
from mmkd_graph.unwrapping import unwrapped

from .accuracy import check_accuracy
from .batches import batch_size, metainfo_of, sample_batches
from .classes import check_classes
from .custom_hooks import check_custom_hooks, check_schedule
from .data import LOADERS, check_data, check_ranks
from .labels import check_batch_labels, check_labels
from .losses import check_losses
from .origins import explained, model_error
from .schedulers import check_schedulers
from .step import check_step
from .wiring import check_wiring

BATCHES = 3
"""Training batches that are read."""
_TEACHER = 'model.teacher.checkpoint'


def check_config(
    cfg: Config, batches: int = 16, gpus: int = 1, least: float = 0.05, device: str | None = None
) -> Iterator[Finding]:
    """Everything that can be said of a training before it; a finding comes as soon as it is made.

    Nothing is written. The model, the teacher in it, and each data set are built once.

    Args:
        cfg: a whole config whose model is a distiller.
        batches: validation batches that the teacher is scored on; with 0 it is not.
        gpus: processes that the training will have.
        least: average precision in [0, 1] below which the teacher fails.
        device: default: the accelerator, if there is one.
    """
    findings = list(_guarded('train_dataloader.dataset', check_data, cfg))
    yield from findings
    readable = not failed(findings)
    sampler = type_name(((cfg.get('train_dataloader') or {}).get('sampler') or {}).get('type'))
    if sampler == 'InfiniteSampler' and (cfg.get('train_cfg') or {}).get('max_epochs'):
        found = 'an InfiniteSampler in a training that counts epochs: its first epoch never ends'
        yield Finding(FAIL, 'train_dataloader.sampler', found, 'use DefaultSampler, or max_iters')
    weights = cfg.get('load_from')
    if weights and '://' not in weights and not os.path.isfile(weights):
        yield Finding(FAIL, 'load_from', f'there is no file {weights}', 'correct the path')
    yield from _guarded('custom_hooks', check_custom_hooks, cfg)
    missing: list[Finding] = []
    try:
        model = _build(cfg, device, missing)
    except Exception as error:  # what is wrong with a model has no common base; its messages name the key
        yield from missing
        key, found = model_error(error, cfg)
        yield Finding(FAIL, key, found, 'correct the config; nothing of the model could be looked at')
        return
    yield from missing
    if not isinstance(model, GraphDistiller):
        found = f'it is a {type(model).__name__}, no GraphDistiller'
        yield Finding(WARNING, 'model', found, 'only distillations are looked at')
        return
    untrained = any(finding.key == _TEACHER for finding in missing)
    for finding in _guarded('model', check_wiring, model, cfg):
        if not (untrained and finding.key == _TEACHER):  # its weights are missing, which was said
            yield finding
    if not readable:
        found = 'classes, teacher and losses were not looked at'
        yield Finding(WARNING, 'model.losses', found, 'correct the data first')
        return

    loaders: dict[str, Any] = dict.fromkeys(LOADERS)
    for key in LOADERS:
        try:
            # pycocotools says when it begins and ends
            with no_garbage_collection(), contextlib.redirect_stdout(io.StringIO()):
                loaders[key] = Runner.build_dataloader(cfg[key]) if cfg.get(key) else None
        except Exception as error:  # data sets of any kind
            yield Finding(FAIL, key, explained(error), 'correct the data or the config')
    train, val = loaders.values()
    epoch_length = math.ceil(len(train) / gpus) if train else None
    yield from _guarded('param_scheduler', check_schedulers, cfg, epoch_length)
    labels = list(_guarded('train_dataloader', check_labels, train.dataset, 'train_dataloader')) if train else []
    yield from labels
    if val:
        yield from _guarded('val_dataloader', check_labels, val.dataset, 'val_dataloader', training=False)
    classes = list(_guarded('model.teacher', check_classes, model, metainfo_of(train), metainfo_of(val)))
    yield from classes
    if val and cfg.get('val_evaluator') and batches and not untrained:
        yield from _guarded(_TEACHER, check_accuracy, model, val, cfg.val_evaluator, batches, least)
    elif not val:
        yield Finding(WARNING, 'val_dataloader', 'the teacher was not scored', 'give the config validation data')
    headless = any(finding.level == FAIL and finding.key.startswith('model.student') for finding in classes)
    wrong = 'labels' if failed(labels) else 'student' if headless else ''
    if wrong:
        found = 'losses, memory and time were not looked at'
        yield Finding(WARNING, 'model.losses', found, f'correct the {wrong} first')
    elif train:
        for finding in _guarded('model', _check_batches, model, cfg, train, gpus):
            # with random weights in the place of trained ones the values of losses say nothing
            if not missing or finding.level == FAIL or not finding.key.startswith('model.losses'):
                yield finding


def _build(cfg: Config, device: str | None, missing: list[Finding]) -> Any:
    """The model of a config, a distiller with its initial weights: random ones where those it names are ``missing``.

    Raises:
        Exception: what the model raises for other reasons.
    """

    def say(error: MissingWeights) -> None:
        key, found = model_error(error, cfg)
        missing.append(Finding(FAIL, key, found, 'the rest is looked at with random weights in their place'))

    given = ConfigDict(copy.deepcopy(model_of(cfg)))
    try:
        model = MMDET_MODELS.build(copy.deepcopy(given))
    except MissingWeights as error:
        say(error)
        given.teacher.update(checkpoint=None, strict=False)
        model = MMDET_MODELS.build(copy.deepcopy(given))
    if not isinstance(model, GraphDistiller):
        return model
    try:
        model.init_weights()
    except MissingWeights as error:
        say(error)
        model = MMDET_MODELS.build(copy.deepcopy(given))  # mmengine cannot begin again halfway
        forget_initial_files(model)
        model.init_student = None
        model.init_weights()
    return model.to(device or get_device())


def _guarded(key: str, part: Callable[..., Iterable[Finding]], *args: Any, **options: Any) -> Iterator[Finding]:
    """The findings of a part. What it raises is one of them, so that the other parts are looked at all the same."""
    try:
        yield from part(*args, **options)
    except Exception as error:  # models, losses and data of any kind
        yield Finding(FAIL, key, one_line(error), 'this could not be looked at')


def publish_position(cfg: Config, iteration: int = 0, epoch: int = 0) -> None:
    """Say where a training is, as its runner does: YOLOX reads it for its batch sizes, TOOD for its assigner."""
    length = {name: (cfg.get('train_cfg') or {}).get(name) or 1 for name in ('max_epochs', 'max_iters')}
    MessageHub.get_current_instance().update_info_dict(dict(iter=iteration, epoch=epoch, **length))


def _check_batches(model: GraphDistiller, cfg: Config, train: Any, gpus: int) -> Iterator[Finding]:
    key, size = 'train_dataloader.dataset', batch_size(train)
    publish_position(cfg)
    begin = time.perf_counter()
    try:
        data = list(sample_batches(train, BATCHES)[1])
    except Exception as error:  # pipelines of any kind
        yield Finding(FAIL, key, one_line(error), 'correct the data or the pipeline')
        return
    seconds = (time.perf_counter() - begin) / BATCHES
    images, workers = len(train.dataset), train.num_workers
    found = f'{images} images; one process reads a batch of {size} in {seconds:.2g} s, num_workers={workers}'
    yield Finding(OK, key, found, details=dict(images=images, seconds_per_batch=seconds, workers=workers))
    if wrong := check_batch_labels(data, metainfo_of(train), 'train_dataloader'):
        yield from wrong
        return
    wrapper = cfg.get('optim_wrapper') or {}
    amp = type_name(wrapper.get('type')) == 'AmpOptimWrapper'
    dtype = {None: None, 'float16': torch.float16, 'bfloat16': torch.bfloat16}.get(wrapper.get('dtype'))
    findings = check_losses(model, data, lambda: autocast(enabled=amp, dtype=dtype))
    yield from findings
    if not failed(findings):
        for finding in check_step(model, cfg, data, images, size, gpus):
            yield finding
            step, pace = finding.details.get('seconds_per_step'), seconds / max(workers, 1)
            if step and pace > step:
                found = f'num_workers={workers} gives a batch every {pace:.2g} s, a step takes {step:.2g} s'
                yield Finding(WARNING, 'train_dataloader.num_workers', found, 'the training will wait: use more')


def check_runner(runner: Runner) -> list[Finding]:
    """What is cheap to find out at the start of a training, without a trace in it; the same on all ranks.

    All ranks have to call this. The model and the data sets are those of the runner.
    """
    model = unwrapped(runner.model)
    if not isinstance(model, GraphDistiller):
        return []
    train = runner.train_dataloader
    val = runner.val_dataloader if runner.val_loop is not None else None
    findings = [*check_ranks(runner), *check_wiring(model, runner.cfg)]
    findings += check_classes(model, metainfo_of(train), metainfo_of(val))
    findings += [*check_schedule(runner.cfg), *check_schedulers(runner.cfg, len(train))]
    batches: list[Any] = []
    for key, loader, count in (('train_dataloader', train, BATCHES), ('val_dataloader', val, 1)):
        if loader is None:
            continue
        findings += check_labels(loader.dataset, key, training=loader is train)
        try:
            read = list(sample_batches(loader, count)[1])
        except Exception as error:  # pipelines of any kind
            findings.append(Finding(FAIL, f'{key}.dataset', one_line(error), 'correct the data or the pipeline'))
            continue
        findings.append(Finding(OK, f'{key}.dataset', f'{len(loader.dataset)} images; the first read are in order'))
        findings += check_batch_labels(read, metainfo_of(loader), key)
        batches = batches or read
    # From here on losses may gather: no rank may go on alone.
    findings = agreed(findings)
    if failed(findings):
        return findings
    if model is not runner.model and not isinstance(runner.model, DistributedDataParallel):
        found = f'not looked at, as {type(runner.model).__name__} shares the weights out'
        return [*findings, Finding(WARNING, 'model.losses', found)]
    return agreed(findings + check_losses(model, batches, lambda: runner.optim_wrapper.optim_context(model)))

"""Train a detector, distilled or plain. The options are those of MMDetection's ``tools/train.py``.

A killed training goes on with ``--resume`` as if nothing had happened; see docs/robustness.md.
"""

from __future__ import annotations

import argparse
import errno
import sys
from pathlib import Path

from launch import (
    add_options,
    build_runner,
    check_checkpoint,
    class_name,
    fail,
    is_address,
    is_first_process,
    leave_processes,
    load_config,
    say,
)
from mmengine.config import Config

from mmkd_graph.checking import CheckFailed
from mmkd_graph.checkpoints import find_resume_point, named_checkpoint, read_resume_point
from mmkd_graph.datasets.annotations import ERROR, check_datasets
from mmkd_graph.losses.names import changed_losses, rename_losses

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='folder for logs and checkpoints; default work_dirs/<config name>')
    parser.add_argument('--amp', action='store_true', help='train with automatic mixed precision')
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='scale the learning rate with the batch size, by auto_scale_lr'
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from this checkpoint; without a value, from the last whole one in the work dir, if there is one',
    )
    parser.add_argument(
        '--no-check',
        action='store_true',
        help='start even if the look through the annotations or TrainingCheckHook would stop it',
    )
    add_options(parser)
    return parser.parse_args()


def apply_options(cfg: Config, args: argparse.Namespace) -> None:
    if args.amp:
        if 'optim_wrapper' not in cfg:
            fail('--amp: the config has no optim_wrapper')
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.loss_scale = 'dynamic'
    if args.auto_scale_lr:
        if not {'enable', 'base_batch_size'} <= set(cfg.get('auto_scale_lr', ())):
            fail('--auto-scale-lr: the config lacks auto_scale_lr = dict(enable=…, base_batch_size=…)')
        cfg.auto_scale_lr.enable = True
    if args.resume is not None:
        resume(cfg, args.resume)
    elif cfg.get('resume'):
        resume(cfg, cfg.get('load_from') or 'auto')


def resume(cfg: Config, checkpoint: str) -> None:
    """Let ``cfg`` go on from a checkpoint that was looked through; from the last whole one if it is ``'auto'``."""
    if checkpoint == 'auto' and is_address(named := named_checkpoint(cfg.work_dir)):
        checkpoint = named  # on a remote storage, which is left to mmengine
    if checkpoint != 'auto':
        check_checkpoint(checkpoint, '--resume')
        cfg.resume, cfg.load_from = True, checkpoint
        if is_address(checkpoint) or Path(checkpoint).is_dir():  # a folder: sharded
            return
        try:
            point = read_resume_point(checkpoint)
        except ValueError as error:
            fail(f'--resume: {error}')
    else:
        point, refused = find_resume_point(cfg.work_dir)
        if is_first_process(cfg):
            for reason in refused:
                say(f'--resume: passed over {reason}')
        if point is None and refused:
            fail(
                f'--resume: no whole checkpoint is left in {cfg.work_dir}; accepted: --resume CHECKPOINT with one from '
                'elsewhere, or another --work-dir to start anew'
            )
        # With nothing to go on from, a config's own load_from counts: a requeued job has one command line.
        cfg.resume = point is not None
        if point is None:
            return
        cfg.load_from = str(point.path)
    if is_first_process(cfg):
        for change in changed_losses(point.config):
            say(f'--resume: {change}')
    if point.seed is not None and (cfg.get('randomness') or {}).get('seed') is None:
        # mmengine takes over the seed of a checkpoint only after the data loader has been built with another one
        cfg.randomness = dict(cfg.get('randomness') or {}, seed=point.seed)


def make_resumable(cfg: Config) -> None:
    """Put this package's sampler, checkpoint hook and guards around what the config asks for."""
    loader = cfg.get('train_dataloader') or {}
    # TrackImgSampler gives pairs (video, frame), and its batch sampler asks for that very class
    if loader.get('sampler') and class_name(loader.sampler) not in ('SeededSampler', 'TrackImgSampler'):
        loader.sampler = dict(type='mmkd_graph.SeededSampler', sampler=loader.sampler)
    hooks = dict(cfg.get('default_hooks') or {})
    checkpoint = hooks.get('checkpoint', dict(type='CheckpointHook', interval=1))
    if checkpoint is not None and class_name(checkpoint) == 'CheckpointHook':
        cfg.default_hooks = dict(hooks, checkpoint=dict(checkpoint, type='mmkd_graph.SafeCheckpointHook'))
    custom = list(cfg.get('custom_hooks') or [])
    there = {class_name(hook) for hook in custom if isinstance(hook, dict)}
    wanted = ('IterationSeedHook', 'NonFiniteLossHook')
    cfg.custom_hooks = custom + [dict(type=f'mmkd_graph.{name}') for name in wanted if name not in there]


def check_start(cfg: Config) -> None:
    """Let a distillation be looked at before its first iteration."""
    custom = list(cfg.get('custom_hooks') or [])
    if class_name(cfg.model) == 'GraphDistiller' and 'TrainingCheckHook' not in map(class_name, custom):
        cfg.custom_hooks = [*custom, dict(type='mmkd_graph.TrainingCheckHook')]


def check_data(cfg: Config, fatal: bool) -> None:
    """Say what is wrong with the data sets and what is left out of them; end if they can not be trained on."""
    if not is_first_process(cfg):
        return
    problems = check_datasets(cfg)
    for problem in problems:
        say(f'{problem.severity}: {problem}')
    errors = [problem for problem in problems if problem.severity == ERROR]
    if errors and fatal:
        fail(f'the data sets have {len(errors)} errors, of which the first is: {errors[0]}')


def main() -> None:
    args = parse_args()
    cfg = load_config(args)
    apply_options(cfg, args)
    if class_name(cfg.model) == 'GraphDistiller':
        try:
            rename_losses(cfg.model)
        except ValueError as error:
            fail(str(error))
    make_resumable(cfg)
    check_data(cfg, fatal=not args.no_check)
    if not args.no_check:
        check_start(cfg)
    runner = build_runner(cfg, args)
    try:
        runner.train()
    except CheckFailed as error:
        stop_unstarted(error, cfg)
    except FloatingPointError as error:
        stop(str(error), cfg)
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        stop(f'no space is left on the disk, or it is not allowed: {error}', cfg)
    leave_processes()


def stop_unstarted(error: CheckFailed, cfg: Config) -> None:
    """End with what the check found and exit code 1."""
    if is_first_process(cfg):
        for failure in error.failures:
            say(str(failure))
        say('error: the training was not started; tools/check.py tells more, --no-check starts it all the same')
    sys.exit(1)


def stop(reason: str, cfg: Config) -> None:
    """End with a reason and exit code 1, and say from where ``--resume`` would go on."""
    path = named_checkpoint(cfg.work_dir)
    if not is_address(path):  # a damaged file may be named
        point, _ = find_resume_point(cfg.work_dir)
        path = point.path if point else ''
    rest = f'--resume goes on from {path}' if path else 'there is no checkpoint to go on from yet'
    say(f'error: {reason}; {rest}')
    sys.exit(1)


if __name__ == '__main__':
    main()

"""Test a detector, distilled or plain. The options are those of MMDetection's ``tools/test.py``.

Of a distillation config only the student is built: testing needs no teacher.
"""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path
from typing import Any

try:
    from mmkd_graph.engine.start import start
except ModuleNotFoundError as error:
    sys.exit(
        f'test.py: error: {sys.executable} has no {error.name}; in the root of the checkout: '
        'source .venv/bin/activate if there is a .venv, else make install'
    )

if __name__ == '__main__':
    start()

from mmdet.evaluation import DumpDetResults
from mmengine.config import Config, ConfigDict
from mmengine.dist import is_main_process
from mmengine.hooks import LoggerHook

from mmkd_graph.datasets.annotations import check_evaluators
from mmkd_graph.distillers.weights import read_checkpoint
from mmkd_graph.engine.interrupts import ended_by_signals
from mmkd_graph.engine.launch import add_options, build_runner, config_errors, fail, leave_processes, load_config
from mmkd_graph.export import student_model
from mmkd_graph.findings import FAIL
from mmkd_graph.registry import type_name


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file or address')
    parser.add_argument('--work-dir', help='folder for logs and metrics; default work_dirs/<config name>')
    parser.add_argument('--out', metavar='FILE.pkl', help='write the predictions to this pickle file')
    parser.add_argument('--show', action='store_true', help='show the predictions in a window')
    parser.add_argument('--show-dir', help='write painted predictions to <work dir>/<time>/<show dir>')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds between shown images')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation: tta_model, tta_pipeline, or flips')
    add_options(parser)
    return parser.parse_args()


def check_checkpoint(cfg: Config, path: str) -> None:
    """End the program if a checkpoint cannot be read as weights only, before mmengine reads it in its own way.

    A folder, which a strategy of ``FlexibleRunner`` wrote, is left to that.
    """
    if Path(path).is_dir():
        if 'runner_type' in cfg:
            return
        fail(f'checkpoint={path!r} is a folder; accepted: a file or an address')
    try:
        read_checkpoint(path, 'checkpoint')
    except (FileNotFoundError, ValueError) as error:
        fail(str(error))


def is_ours(kind: Any) -> bool:
    """Whether what a config's ``type`` asks for, by name or as the class itself, is of this package."""
    return (kind.__module__ if isinstance(kind, type) else str(kind)).startswith('mmkd_graph.')


def keep_student(cfg: Config) -> None:
    """Put the student of a distillation config in the place of its model.

    This package's hooks go too: they look after the distiller, which will not be there.
    """
    if type_name(cfg.model.get('type')) == 'GraphDistiller':
        cfg.model = student_model(cfg)
        cfg.custom_hooks = [hook for hook in cfg.get('custom_hooks') or [] if not is_ours(hook.get('type'))]


def turn_on_pictures(cfg: Config, args: argparse.Namespace) -> None:
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        fail('--show and --show-dir: the config lacks default_hooks.visualization = dict(type="DetVisualizationHook")')
    hook.draw = True
    if args.show:
        hook.update(show=True, wait_time=args.wait_time)
    if args.show_dir:
        hook.test_out_dir = args.show_dir


def turn_on_tta(cfg: Config) -> None:
    """Wrap the model for test-time augmentation; without ``tta_*`` in the config, average over a flip."""
    dataset = cfg.test_dataloader.dataset
    inner = dataset
    while 'dataset' in inner:
        inner = inner.dataset
    if 'tta_pipeline' not in cfg:
        meta = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
        flips = [dict(type='mmdet.RandomFlip', prob=prob) for prob in (1.0, 0.0)]
        augment = dict(type='TestTimeAug', transforms=[flips, [dict(type='mmdet.PackDetInputs', meta_keys=meta)]])
        cfg.tta_pipeline = [*copy.deepcopy(inner.pipeline[:-1]), augment]
    if 'tta_model' not in cfg:
        nms = dict(type='nms', iou_threshold=0.5)
        cfg.tta_model = dict(type='DetTTAModel', tta_cfg=dict(nms=nms, max_per_img=100))
    inner.pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)


def main() -> None:
    args = parse_args()
    if args.out and not args.out.endswith(('.pkl', '.pickle')):
        fail(f'--out: {args.out!r} should end in .pkl or .pickle')
    with ended_by_signals():
        test(args)


def test(args: argparse.Namespace) -> None:
    cfg = load_config(args)
    check_checkpoint(cfg, args.checkpoint)
    cfg.load_from, cfg.resume = args.checkpoint, False  # a config that a resumed training left says resume=True
    if 'runner_type' not in cfg or is_ours(cfg.runner_type):  # ours looks after trainings
        cfg.runner_type = 'mmkd_graph.TestingRunner'
    keep_student(cfg)
    for finding in check_evaluators(cfg, ['test_dataloader']):  # before all images are predicted for nothing
        if finding.level == FAIL:
            fail(finding.sentence)
    if args.show or args.show_dir:
        turn_on_pictures(cfg, args)
    if args.tta:
        turn_on_tta(cfg)
    runner = build_runner(cfg, args)
    if args.out:
        runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=args.out))
    for hook in runner.hooks:
        if isinstance(hook, LoggerHook) and not is_main_process():  # mmengine lets all processes write the one file
            hook.after_test_epoch = lambda *_, **__: None
    with config_errors(cfg, args):
        runner.test()
    leave_processes()


if __name__ == '__main__':
    main()

"""Train a detector, distilled or plain. The options are those of MMDetection's ``tools/train.py``."""

from __future__ import annotations

import argparse

from launch import add_options, build_runner, check_checkpoint, fail, load_config
from mmengine.config import Config


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
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
        help='go on from this checkpoint; without a value, from the last one in the work dir',
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
        cfg.resume = True
        cfg.load_from = None
    if args.resume not in (None, 'auto'):
        check_checkpoint(args.resume, '--resume')
        cfg.load_from = args.resume


def main() -> None:
    args = parse_args()
    cfg = load_config(args)
    apply_options(cfg, args)
    build_runner(cfg, args).train()


if __name__ == '__main__':
    main()

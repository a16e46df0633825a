"""Makes the demonstration set.

Example:
    make_shapes.py --root data/shapes
"""

import argparse
import os
import sys
import time
from pathlib import Path

from mmkd_graph.datasets.scene import CLASSES
from mmkd_graph.datasets.shapes import LAYOUTS, generate_shapes, print_progress


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Make the generated demonstration set in COCO and VOC layouts.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('--root', type=Path, default=Path('data/shapes'), help='folder of the set')
    parser.add_argument('--seed', type=int, default=0, help='seed of the whole set')
    parser.add_argument('--train', type=int, default=800, help='images in the training split')
    parser.add_argument('--val', type=int, default=150, help='images in the validation split')
    parser.add_argument('--test', type=int, default=200, help='images in the test split')
    parser.add_argument('--size', type=int, nargs=2, default=(256, 192), metavar=('WIDTH', 'HEIGHT'), help='in pixels')
    parser.add_argument('--layouts', nargs='+', default=LAYOUTS, choices=LAYOUTS, help='annotation layouts')
    parser.add_argument('--workers', type=int, default=min(4, os.cpu_count() or 1), help='rendering processes')
    parser.add_argument('--force', action='store_true', help='replace a set made with other parameters')
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    args = parse_args(arguments)
    begin = time.monotonic()
    try:
        manifest = generate_shapes(
            args.root,
            seed=args.seed,
            num_train=args.train,
            num_val=args.val,
            num_test=args.test,
            image_size=tuple(args.size),
            layouts=args.layouts,
            workers=args.workers,
            force=args.force,
            progress=print_progress,
        )
    except (ValueError, FileExistsError) as error:
        print(f'make_shapes: {error}', file=sys.stderr)
        return 2
    counts = ', '.join(f'{count} {split}' for split, count in manifest['counts'].items())
    print(f'{args.root}: {counts} images of {len(CLASSES)} classes, {time.monotonic() - begin:.1f} s')
    print(f'sha256 {manifest["sha256"]}')
    return 0


if __name__ == '__main__':
    sys.exit(main())

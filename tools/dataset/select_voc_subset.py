"""Select the five-class subset of PASCAL VOC 2007 that configs/voc07_5c/ train on, from the official folder.

It is every image up to 006590 with a bus, car, cat or train, be it only a difficult one, less 005102 and 005638, and in
these the boxes of bus, car, cat, person and train. train, val, trainval and test are the official splits; the test
split is divided by a seed into ``tune`` (400 images), where settings are chosen, and ``report`` (565).

VOC2007 is the folder that VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar leave. OUT gets lists of images,
annotations in COCO's form, where ``iscrowd`` marks difficult boxes, and a link to the images.

Example:
    select_voc_subset.py data/VOCdevkit/VOC2007 data/voc07_5c
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

CLASSES = ('bus', 'car', 'cat', 'person', 'train')
DECISIVE = {'bus', 'car', 'cat', 'train'}
"""An image with persons alone is not part of the subset."""
LAST = '006590'
ABSENT = {'005102', '005638'}
SEED, TUNE = 2007, 400
PUBLISHED = dict(train=(482, 1216), val=(460, 1221), test=(965, 2296))
"""Images and boxes of every split."""


class SelectionError(ValueError):
    """A folder that is not VOC2007's; the message names the file."""


def read_image(folder: Path, name: str) -> dict[str, Any]:
    """An image of VOC2007 by its official id, such as ``'000004'``, with its boxes of the five classes.

    Returns:
        ``name``, ``width``, ``height`` and ``boxes``: (class, x1, y1, x2, y2, difficult), corners in pixels, both
        inclusive, the first pixel of an image being 1.

    Raises:
        SelectionError: if the annotation is missing or broken.
    """
    path = folder / 'Annotations' / f'{name}.xml'
    try:
        root = ElementTree.parse(path).getroot()
        boxes = []
        # not iter(): parts of a person have boxes too
        for thing in root.findall('object'):
            if (kind := thing.findtext('name')) in CLASSES:
                corners = [int(thing.findtext(f'bndbox/{corner}')) for corner in ('xmin', 'ymin', 'xmax', 'ymax')]
                boxes.append((kind, *corners, int(thing.findtext('difficult', '0'))))
        width, height = (int(root.findtext(f'size/{side}')) for side in ('width', 'height'))
    except (OSError, ElementTree.ParseError, TypeError, ValueError) as error:
        raise SelectionError(f'{path}: {error}') from error
    return dict(name=name, width=width, height=height, boxes=boxes)


def select(folder: Path, split: str) -> list[dict[str, Any]]:
    """The images of an official split that belong to the subset, as :func:`read_image` gives them, by id.

    Raises:
        SelectionError: if a list, annotation or image is missing or broken.
    """
    path = folder / 'ImageSets' / 'Main' / f'{split}.txt'
    if not path.is_file():
        raise SelectionError(f'{path}: no such list; accepted: a folder with trainval and test of VOC2007')
    names = sorted(set(path.read_text().split()) - ABSENT)
    images = [read_image(folder, name) for name in names if name <= LAST]
    images = [image for image in images if DECISIVE & {kind for kind, *_ in image['boxes']}]
    for image in images:
        if not (file := folder / 'JPEGImages' / f'{image["name"]}.jpg').is_file():
            raise SelectionError(f'{file}: no such image')
    return images


def divide(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """``tune`` and ``report``: the sorted names of the test split, divided by a seed."""
    if len(names) <= TUNE:
        raise SelectionError(f'test: {len(names)} images; accepted: more than the {TUNE} of tune')
    tune = set(random.Random(SEED).sample(names, TUNE))
    return sorted(tune), sorted(set(names) - tune)


def coco(images: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What a COCO annotation file of some images holds; boxes are (x, y, width, height), the first pixel being 0."""
    annotations = []
    for image in images:
        for kind, x1, y1, x2, y2, difficult in image['boxes']:
            width, height = x2 - x1 + 1, y2 - y1 + 1
            ids = dict(id=len(annotations) + 1, image_id=int(image['name']), category_id=CLASSES.index(kind) + 1)
            box = dict(bbox=[x1 - 1, y1 - 1, width, height], area=width * height, iscrowd=difficult)
            annotations.append(ids | box)
    return dict(
        info=dict(description='PASCAL VOC 2007, five classes; iscrowd marks difficult boxes'),
        licenses=[],
        categories=[dict(id=i, name=name) for i, name in enumerate(CLASSES, 1)],
        images=[
            dict(id=int(x['name']), file_name=f'{x["name"]}.jpg', width=x['width'], height=x['height']) for x in images
        ],
        annotations=annotations,
    )


def write(folder: Path, out: Path) -> dict[str, tuple[int, int]]:
    """Write the subset; returns how many images and boxes every split has.

    Raises:
        SelectionError: before anything is written, as the functions above; or if ``out`` holds other images.
    """
    splits = {split: select(folder, split) for split in ('train', 'val', 'test')}
    splits['trainval'] = sorted(splits['train'] + splits['val'], key=lambda image: image['name'])
    by_name = {image['name']: image for image in splits['test']}
    for split, names in zip(('tune', 'report'), divide(list(by_name)), strict=True):
        splits[split] = [by_name[name] for name in names]
    pictures = (folder / 'JPEGImages').resolve()
    link = out / 'JPEGImages'
    if link.exists() and not link.samefile(pictures):
        raise SelectionError(f'{link} holds other images; accepted: a folder without it, or a link to {pictures}')
    for part in ('annotations', 'ImageSets/Main'):
        (out / part).mkdir(parents=True, exist_ok=True)
    for split, images in splits.items():
        (out / 'annotations' / f'{split}.json').write_text(json.dumps(coco(images)))
        (out / 'ImageSets' / 'Main' / f'{split}.txt').write_text(''.join(f'{x["name"]}\n' for x in images))
    if not link.exists():
        link.symlink_to(pictures, target_is_directory=True)
    return {split: (len(images), sum(len(image['boxes']) for image in images)) for split, images in splits.items()}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path, metavar='VOC2007', help='the official folder, with trainval and test')
    parser.add_argument('out', type=Path, metavar='OUT', help='folder of the subset')
    args = parser.parse_args(arguments)
    try:
        counts = write(args.folder, args.out)
    except (SelectionError, OSError) as error:
        print(f'select_voc_subset: {error}', file=sys.stderr)
        return 2
    print(f'{args.out}: ' + ', '.join(f'{split} {images} images' for split, (images, _) in counts.items()))
    others = {split: published for split, published in PUBLISHED.items() if counts[split] != published}
    for split, (images, boxes) in others.items():
        found = '{} images and {} boxes'.format(*counts[split])
        made_on = f'docs/results.md was made on {images} and {boxes}: its numbers do not compare'
        print(f'select_voc_subset: {split} has {found}, {made_on}', file=sys.stderr)
    return int(bool(others))


if __name__ == '__main__':
    sys.exit(main())

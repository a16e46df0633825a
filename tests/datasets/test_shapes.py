"""The generated demonstration set: its pictures, its two layouts and its files."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmdet.datasets import CocoDataset, VOCDataset, XMLDataset

from mmkd_graph.datasets import CLASSES, Scene, generate_shapes, render_scene
from mmkd_graph.datasets.scene import MIN_DIFFICULT, MIN_SIDE, MIN_VISIBLE

COUNTS = {'num_train': 12, 'num_val': 4, 'num_test': 5}
TOOL = Path(__file__).parents[2] / 'tools' / 'dataset' / 'make_shapes.py'


@pytest.fixture(scope='module')
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('shapes') / 'set'
    generate_shapes(root, seed=3, **COUNTS)
    return root


@pytest.fixture(scope='module')
def scenes() -> list[Scene]:
    return [render_scene(np.random.default_rng(seed)) for seed in range(80)]


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob('*') if path.is_file()}


# --- the pictures ---------------------------------------------------------------------------------------------


def test_equal_generators_give_equal_scenes() -> None:
    first, second, other = (render_scene(np.random.default_rng(seed)) for seed in (1, 1, 2))
    for field in dataclasses.fields(Scene):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(second, field.name))
    assert not np.array_equal(first.image, other.image)


def test_boxes_are_tight_around_the_visible_pixels(scenes: list[Scene]) -> None:
    for scene in scenes:
        for index, (x1, y1, x2, y2) in enumerate(scene.boxes):
            seen = scene.owner == index
            assert seen[y1:y2, x1:x2].sum() == seen.sum() > 0
            for edge in (seen[y1, :], seen[y2 - 1, :], seen[:, x1], seen[:, x2 - 1]):
                assert edge.any()


def test_boxes_meet_the_edges_that_are_in_the_image() -> None:
    # An independent look at the pixels: alone and without noise, an object is where the picture changes.
    quiet = {'num_distractors': (0, 0), 'noise': 0.0}
    compared = 0
    for seed in range(12):
        scene = render_scene(np.random.default_rng(seed), num_objects=(1, 1), **quiet)
        if len(scene.boxes) != 1:
            continue
        x1, y1, x2, y2 = scene.boxes[0]
        edges = np.abs(cv2.Laplacian(scene.image, cv2.CV_32F)).max(axis=2)
        rows, columns = np.nonzero(edges > 0.5 * edges.max())
        assert columns.min() >= x1 - 2 and columns.max() <= x2 + 1
        assert rows.min() >= y1 - 2 and rows.max() <= y2 + 1
        compared += 1
    assert compared >= 10


def test_boxes_are_inside_and_not_degenerate(scenes: list[Scene]) -> None:
    for scene in scenes:
        height, width = scene.owner.shape
        assert scene.image.shape == (height, width, 3) and scene.image.dtype == np.uint8
        assert (scene.boxes >= 0).all() and (scene.boxes[:, [0, 2]] <= width).all()
        assert (scene.boxes[:, [1, 3]] <= height).all()
        assert (scene.boxes[:, 2:] - scene.boxes[:, :2] >= MIN_SIDE).all()


def test_hidden_objects_are_difficult_or_dropped(scenes: list[Scene]) -> None:
    visible = np.concatenate([scene.visible for scene in scenes])
    difficult = np.concatenate([scene.difficult for scene in scenes])
    assert visible.min() >= MIN_DIFFICULT and visible.max() <= 1
    np.testing.assert_array_equal(difficult, visible < MIN_VISIBLE)
    assert 0 < difficult.mean() < 0.2
    # Whole objects count as whole: the analytic area and the counted pixels are of the same thing.
    assert np.median(visible) > 0.9


def test_sizes_span_the_levels_and_classes_are_balanced(scenes: list[Scene]) -> None:
    boxes = np.concatenate([scene.boxes for scene in scenes])
    side = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
    # The demonstration's anchors measure 16 px on P3, 32 on P4 and so on; an octave belongs to each level.
    level = np.clip(np.rint(np.log2(side / 16)) + 3, 3, 7).astype(int)
    share = np.bincount(level, minlength=8)[3:] / len(level)
    assert (share[:4] > 0.03).all(), share
    classes = np.bincount(np.concatenate([scene.labels for scene in scenes]), minlength=len(CLASSES))
    assert classes.min() > 0.5 * classes.mean()


def test_every_shape_comes_in_every_texture() -> None:
    textures, shapes = ({name.split('_')[part] for name in CLASSES} for part in (0, 1))
    assert set(CLASSES) == {f'{texture}_{shape}' for texture in textures for shape in shapes}
    assert len(textures) > 1 and len(shapes) > 1


@pytest.mark.parametrize(
    'wrong', [{'size': (16, 64)}, {'num_objects': (5, 2)}, {'diameter': (-1.0, 9.0)}, {'num_distractors': (3, 1)}]
)
def test_render_scene_refuses(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        render_scene(np.random.default_rng(0), **wrong)


def test_no_objects_make_an_empty_scene() -> None:
    scene = render_scene(np.random.default_rng(0), num_objects=(0, 0), num_distractors=(0, 0))
    assert scene.boxes.shape == (0, 4) and scene.labels.shape == (0,)
    assert (scene.owner == -1).all()


# --- the files ------------------------------------------------------------------------------------------------


def test_equal_seeds_give_equal_bytes_for_any_number_of_workers(shapes: Path, tmp_path: Path) -> None:
    generate_shapes(tmp_path / 'again', seed=3, workers=2, **COUNTS)
    assert contents(tmp_path / 'again') == contents(shapes)


def test_another_seed_gives_other_images(shapes: Path, tmp_path: Path) -> None:
    generate_shapes(tmp_path / 'other', seed=4, **COUNTS)
    ours, other = contents(shapes), contents(tmp_path / 'other')
    assert ours.keys() == other.keys()
    images = [name for name in ours if name.endswith('.jpg')]
    assert not any(ours[name] == other[name] for name in images)


def test_a_larger_set_begins_with_the_smaller(shapes: Path, tmp_path: Path) -> None:
    generate_shapes(tmp_path / 'larger', seed=3, **{**COUNTS, 'num_train': 13})
    ours, larger = contents(shapes), contents(tmp_path / 'larger')
    images = [name for name in ours if name.endswith(('.jpg', '.xml'))]
    assert all(ours[name] == larger[name] for name in images)


def test_splits_are_disjoint(shapes: Path) -> None:
    images = [content for name, content in contents(shapes).items() if name.endswith('.jpg')]
    assert len(images) == len(set(images)) == sum(COUNTS.values())
    main = shapes / 'VOC2007' / 'ImageSets' / 'Main'
    train, val, test, trainval = (
        (main / f'{split}.txt').read_text().split() for split in ('train', 'val', 'test', 'trainval')
    )
    assert [len(train), len(val), len(test)] == list(COUNTS.values())
    assert not set(train) & set(val) and not set(trainval) & set(test)
    assert trainval == train + val


@pytest.mark.parametrize('split', ['train', 'val', 'test'])
def test_layouts_agree_entry_for_entry(shapes: Path, split: str) -> None:
    coco = json.loads((shapes / 'annotations' / f'instances_{split}.json').read_text())
    names = {category['id']: category['name'] for category in coco['categories']}
    listed = (shapes / 'VOC2007' / 'ImageSets' / 'Main' / f'{split}.txt').read_text().split()
    assert [image['file_name'] for image in coco['images']] == [f'{name}.jpg' for name in listed]
    total = 0
    for image, name in zip(coco['images'], listed, strict=True):
        tree = ET.parse(shapes / 'VOC2007' / 'Annotations' / f'{name}.xml')
        assert (image['width'], image['height']) == (
            int(tree.findtext('size/width')),
            int(tree.findtext('size/height')),
        )
        height, width = cv2.imread(str(shapes / 'VOC2007' / 'JPEGImages' / image['file_name'])).shape[:2]
        assert (image['width'], image['height']) == (width, height)
        ours = [entry for entry in coco['annotations'] if entry['image_id'] == image['id']]
        for entry, other in zip(ours, tree.findall('object'), strict=True):
            x1, y1, x2, y2 = (int(other.findtext(f'bndbox/{key}')) for key in ('xmin', 'ymin', 'xmax', 'ymax'))
            assert entry['bbox'] == [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1]
            assert names[entry['category_id']] == other.findtext('name')
            assert entry['iscrowd'] == int(other.findtext('difficult'))
            assert 0 < entry['area'] <= entry['bbox'][2] * entry['bbox'][3]
            total += 1
    assert total == len(coco['annotations']) > 0


def test_mmdet_reads_both_layouts_alike(shapes: Path) -> None:
    metainfo = {'classes': CLASSES}
    coco = CocoDataset(
        data_root=str(shapes),
        ann_file='annotations/instances_train.json',
        data_prefix={'img': 'VOC2007/JPEGImages/'},
        metainfo=metainfo,
    )
    for kind in (VOCDataset, XMLDataset):
        voc = kind(
            data_root=str(shapes),
            ann_file='VOC2007/ImageSets/Main/train.txt',
            data_prefix={'sub_data_root': 'VOC2007/'},
            metainfo=metainfo,
        )
        assert len(coco) == len(voc) == COUNTS['num_train']
        for index in range(len(coco)):
            ours, other = coco.get_data_info(index), voc.get_data_info(index)
            assert Path(ours['img_path']).samefile(other['img_path'])
            assert (ours['height'], ours['width']) == (other['height'], other['width'])
            for one, two in zip(ours['instances'], other['instances'], strict=True):
                x1, y1, x2, y2 = one['bbox']
                # mmdet subtracts one from the inclusive corner too: one pixel less, see the module's docstring.
                assert two['bbox'] == [x1, y1, x2 - 1, y2 - 1]
                assert one['bbox_label'] == two['bbox_label']
                assert one['ignore_flag'] == two['ignore_flag']


def test_one_layout_alone(tmp_path: Path) -> None:
    generate_shapes(tmp_path / 'coco', num_train=1, num_val=1, num_test=1, layouts=('coco',))
    names = set(contents(tmp_path / 'coco'))
    assert 'annotations/instances_train.json' in names and 'VOC2007/JPEGImages/train_00000.jpg' in names
    assert not any(name.endswith('.xml') for name in names)


# --- reuse and refusal ----------------------------------------------------------------------------------------


def test_a_complete_set_is_reused(shapes: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in shapes.rglob('*')}
    manifest = generate_shapes(shapes, seed=3, **COUNTS)
    assert manifest == json.loads((shapes / 'manifest.json').read_text())
    assert manifest['seed'] == 3 and manifest['counts'] == {'train': 12, 'val': 4, 'test': 5}
    assert {path: path.stat().st_mtime_ns for path in shapes.rglob('*')} == before


def test_other_parameters_are_refused_unless_forced(shapes: Path, tmp_path: Path) -> None:
    root = tmp_path / 'set'
    shutil.copytree(shapes, root)
    with pytest.raises(FileExistsError, match=r'seed: found 3, asked 5.*--force'):
        generate_shapes(root, seed=5, **COUNTS)
    assert contents(root) == contents(shapes)
    small = {'num_train': 1, 'num_val': 1, 'num_test': 1}
    assert generate_shapes(root, seed=5, force=True, **small)['seed'] == 5
    assert len(list((root / 'VOC2007' / 'JPEGImages').iterdir())) == 3
    assert [path.name for path in tmp_path.iterdir()] == ['set']


def test_what_is_not_ours_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / 'precious.txt').write_text('mine')
    with pytest.raises(FileExistsError, match='left as it is'):
        generate_shapes(tmp_path, force=True)
    assert (tmp_path / 'precious.txt').read_text() == 'mine'


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_shapes(tmp_path / 'set', progress=interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    'wrong', [{'seed': -1}, {'num_val': 0}, {'layouts': ('yolo',)}, {'layouts': 'coco'}, {'workers': 0}]
)
def test_generate_shapes_refuses(wrong: dict, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        generate_shapes(tmp_path / 'set', **wrong)
    assert list(tmp_path.iterdir()) == []


def test_the_command(tmp_path: Path) -> None:
    command = [sys.executable, str(TOOL), '--root', str(tmp_path / 'set'), '--train', '2', '--val', '1', '--test', '1']
    command += ['--workers', '1']
    environment = {**os.environ, 'PYTHONPATH': str(TOOL.parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert '4/4 images' in done.stdout and 'sha256' in done.stdout
    refused = subprocess.run([*command, '--seed', '1'], capture_output=True, text=True, check=False, env=environment)
    assert refused.returncode == 2 and '--force' in refused.stderr

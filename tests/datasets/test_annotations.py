"""What is wrong with annotation files, by file and entry."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmkd_graph.datasets import CLASSES, generate_shapes
from mmkd_graph.datasets.annotations import check_coco, check_dataset, check_datasets, check_voc

SPLIT = 'annotations/instances_train.json'


@pytest.fixture(scope='module')
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('annotations') / 'data'
    generate_shapes(root, num_train=6, num_val=1, num_test=1)
    return root


@pytest.fixture
def coco(whole: Path) -> dict[str, Any]:
    return json.loads((whole / SPLIT).read_text())


def found(content: Any, whole: Path, tmp_path: Path, classes: tuple = tuple(CLASSES)) -> list[str]:
    file = tmp_path / 'file.json'
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    problems = check_coco(file, classes, whole / 'VOC2007' / 'JPEGImages')
    return [f'{p.severity}: {str(p).removeprefix(str(file)).strip(", :")}' for p in problems]


def test_good_sets_have_no_problems(whole: Path) -> None:
    common = dict(data_root=str(whole), metainfo=dict(classes=tuple(CLASSES)))
    coco = dict(type='CocoDataset', ann_file=SPLIT, data_prefix=dict(img='VOC2007/JPEGImages/'), **common)
    voc = dict(
        type='XMLDataset',
        ann_file='VOC2007/ImageSets/Main/train.txt',
        data_prefix=dict(sub_data_root='VOC2007/'),
        **common,
    )
    several = dict(type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[coco, voc]))
    cfg = dict(train_dataloader=dict(dataset=several), val_dataloader=dict(dataset=voc))
    assert check_datasets(cfg) == []
    coco['data_root'] = '/nowhere'
    voc['ann_file'] = 'missing.txt'
    keys = {problem.key: problem.severity for problem in check_datasets(cfg)}
    prefix = 'train_dataloader.dataset.dataset.datasets'
    assert keys == {f'{prefix}.0.data_root': 'error', f'{prefix}.1.ann_file': 'error'}
    assert check_dataset(dict(type='CocoPanopticDataset', data_root='s3://bucket', ann_file='x')) == []
    evaluator = dict(type='CocoMetric', ann_file=str(whole / 'missing.json'))
    (problem,) = check_datasets(dict(val_dataloader=dict(dataset={}), val_evaluator=evaluator))
    assert problem.key == 'val_evaluator.ann_file'


@pytest.mark.parametrize(
    'changes',
    [
        dict(type='LVISV1Dataset'),
        dict(type='CocoPanopticDataset'),
        dict(type='Objects365V2Dataset'),
        dict(ann_file='s3://bucket/train.json'),
        dict(data_prefix=dict(img='s3://bucket/images/')),
        dict(backend_args=dict(backend='petrel')),
    ],
    ids=str,
)
def test_other_formats_and_storages_are_left_alone(changes: dict, whole: Path) -> None:
    """Nothing is known of them, so nothing may stop a training on them."""
    dataset = dict(type='CocoDataset', ann_file='missing.json', data_root=str(whole))
    assert check_dataset(dataset)
    assert check_dataset(dict(dataset, **changes)) == []


def test_classes_that_only_the_data_set_knows_are_not_compared(whole: Path) -> None:
    assert check_dataset(dict(type='V3DetDataset', ann_file=SPLIT, data_root=str(whole))) == []


def test_images_that_the_pipeline_reads_from_elsewhere_are_not_looked_for(whole: Path) -> None:
    load = dict(type='LoadImageFromFile', backend_args=dict(backend='petrel'))
    dataset = dict(type='CocoDataset', ann_file=SPLIT, data_root=str(whole), metainfo=dict(classes=tuple(CLASSES)))
    assert any('there is no image' in str(problem) for problem in check_dataset(dataset))
    assert check_dataset(dict(dataset, pipeline=[load])) == []
    evaluator = dict(type='CocoMetric', ann_file='missing.json', backend_args=dict(backend='petrel'))
    assert check_datasets(dict(val_dataloader=dict(dataset={}), val_evaluator=evaluator)) == []


@pytest.mark.parametrize(
    ('change', 'wanted'),
    [
        (lambda c: c.pop('annotations'), "error: there is no list 'annotations', which a COCO annotation file has"),
        (lambda c: c['annotations'][3].pop('bbox'), 'error: annotations[3] (id {}): bbox missing'),
        (lambda c: c['annotations'][2].update(bbox=[1, 2, float('nan'), 4]), 'error: annotations[2] (id {}): bbox [1'),
        (lambda c: c['annotations'][2].update(bbox='1,2,3,4'), "error: annotations[2] (id {}): bbox '1,2,3,4'"),
        (lambda c: c['annotations'][1].update(id=c['annotations'][0]['id']), 'the id is there twice'),
        (
            lambda c: c['annotations'][1].update(bbox=[5, 5, 0, 9]),
            'warning: annotations[1] (id {}): bbox [5, 5, 0, 9], area',
        ),
        (lambda c: c['annotations'][1].update(bbox=[900, 5, 9, 9]), 'warning: annotations[1] (id {}): bbox [900'),
        (lambda c: c['annotations'][1].update(category_id=99), 'warning: annotations[1] (id {}): no category has'),
        (lambda c: c['annotations'][1].update(image_id=-1), 'warning: annotations[1] (id {}): no image has the id -1'),
        (lambda c: c['images'][1].update(file_name='x.jpg'), 'error: images[1] (id {}): there is no image'),
        (lambda c: c['images'][1].update(width='12'), "error: images[1] (id {}): width '12'"),
        (lambda c: c['images'].append(c['images'][0]), 'error: images[6] (id {}): the id is there twice'),
        (lambda c: c['categories'].pop(0), "error: categories: the classes ['striped_disc'] are not there"),
        (lambda c: c['categories'].reverse(), 'warning: categories: other order than metainfo.classes'),
        (lambda c: c['annotations'].clear(), 'error: there is no usable box of any of the classes'),
    ],
)
def test_entries_of_coco_files(
    coco: dict, whole: Path, tmp_path: Path, change: Callable[[dict], Any], wanted: str
) -> None:
    ids = [str(entry['id']) for entry in [*coco['annotations'][:4], *coco['images']]]
    change(coco)
    first = found(coco, whole, tmp_path)[0]
    head, _, tail = wanted.partition('(id {})')
    assert head in first and tail in first, first
    if tail:
        assert any(f'(id {i})' in first for i in ids)


def test_files_that_are_no_json(whole: Path, tmp_path: Path) -> None:
    assert found('{"images": "é'.encode('latin-1'), whole, tmp_path) == ['error: byte 12: it is not UTF-8 text']
    (line,) = found(b'{"images": [\n}', whole, tmp_path)
    assert line.startswith('error: line 2, column 1: broken JSON')
    (line,) = found(b'[]', whole, tmp_path)
    assert 'no object with images' in line


def test_other_classes_are_told_once_and_many_problems_counted(coco: dict, whole: Path, tmp_path: Path) -> None:
    (line,) = found(coco, whole, tmp_path, classes=tuple(CLASSES)[:1])
    assert line.startswith('warning: annotations: boxes of classes that the config does not ask for: ')
    for annotation in coco['annotations'][1:]:
        annotation['bbox'] = [0, 0, 0, 0]
    lines = found(coco, whole, tmp_path)
    assert len(lines) == 4 and lines[-1] == f'warning: boxes without a pixel: {len(coco["annotations"]) - 4} more'


OBJECT = '<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>'
SIZE = '<size><width>20</width><height>{}</height></size>'


@pytest.mark.parametrize(
    ('xml', 'place', 'wanted'),
    [
        (f'<a>{SIZE.format(9)}{OBJECT.format("cat", 1)}</a>', '', ''),
        (None, 'line 1', 'error: there is no annotation'),
        ('<a>\n<b></a>', 'line 2, column', 'error: not in the encoding that it declares, or broken XML'),
        ('<?xml version="1.0" encoding="utf-8"?><a>é</a>'.encode('latin-1'), 'line 1, column 42', 'error: not in the'),
        (b'<?xml version="1.0" encoding="klingon"?><a/>', '', 'error: it can not be read: unknown encoding'),
        (f'<a>{SIZE.format("x")}{OBJECT.format("cat", 1)}</a>', 'size.height', "error: 'x': accepted is"),
        (f'<a>{OBJECT.format("cat", "one")}</a>', 'object 1 (cat)', "error: bndbox ['one', '2', '9', '9']"),
        (f'<a>{OBJECT.format("cat", 9)}</a>', 'object 1 (cat)', 'warning: bndbox [9.0, 2.0, 9.0, 9.0] has no area'),
        (
            f'<a>{OBJECT.format("cat", 1)}{OBJECT.format("dog", 1)}</a>',
            'object 2 (dog)',
            "warning: 'dog' is none of the classes: the object is left out",
        ),
        ('<a><object/></a>', 'object 1 (None)', 'error: it has no name'),
        ('<a/>', '', "error: no object of any of the classes ['cat'] in the 1 files"),
    ],
)
def test_voc_files(tmp_path: Path, xml: str | bytes | None, place: str, wanted: str) -> None:
    for name in ('JPEGImages', 'Annotations'):
        (tmp_path / name).mkdir()
    (tmp_path / 'JPEGImages' / 'one.jpg').touch()
    if xml is not None:
        (tmp_path / 'Annotations' / 'one.xml').write_bytes(xml if isinstance(xml, bytes) else xml.encode())
    (tmp_path / 'split.txt').write_text('one\n')
    problems = check_voc(tmp_path / 'split.txt', ['cat'], tmp_path)
    if not wanted:
        assert problems == []
        return
    assert place in problems[0].entry
    assert f'{problems[0].severity}: {problems[0].message}'.startswith(wanted)


def test_voc_images_and_splits(tmp_path: Path) -> None:
    (tmp_path / 'split.txt').write_text('one\ntwo\n')
    messages = [str(problem) for problem in check_voc(tmp_path / 'split.txt', ['cat'], tmp_path)]
    assert any('line 2: there is no image' in message for message in messages)
    (tmp_path / 'split.txt').write_bytes(b'\xff')
    assert 'UTF-8' in str(check_voc(tmp_path / 'split.txt', ['cat'], tmp_path)[0])

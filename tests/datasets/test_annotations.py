"""What is wrong with annotation files, by file and entry."""

from __future__ import annotations

import json
import random
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmcv
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmkd_graph.datasets import CLASSES, generate_shapes
from mmkd_graph.datasets.annotations import check_datasets, check_evaluators
from mmkd_graph.datasets.coco_files import read_coco
from mmkd_graph.datasets.images import Expected, image_size, look_at_images
from mmkd_graph.datasets.problems import Problems
from mmkd_graph.datasets.voc_files import check_voc
from mmkd_graph.findings import FAIL, OK, WARNING, Finding

SPLIT = 'annotations/instances_train.json'


WORDS = {FAIL: 'error', WARNING: 'warning', OK: 'note'}


@pytest.fixture(scope='module')
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('annotations') / 'data'
    generate_shapes(root, num_train=6, num_val=1, num_test=1)
    return root


def check_dataset(dataset: dict[str, Any]) -> list[Finding]:
    return check_datasets(dict(train_dataloader=dict(dataset=dataset)))


@pytest.fixture
def coco(whole: Path) -> dict[str, Any]:
    return json.loads((whole / SPLIT).read_text())


def save_image(path: Path, size: tuple[int, int], orientation: int = 1, **options: Any) -> Path:
    """An image of noise, which does not shrink to nothing."""
    image = Image.frombytes('RGB', size, random.Random(0).randbytes(3 * size[0] * size[1]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif, **options)
    return path


def found(content: Any, whole: Path, tmp_path: Path, classes: tuple = tuple(CLASSES)) -> list[str]:
    file = tmp_path / 'file.json'
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    problems = read_coco(file, classes, whole / 'VOC2007' / 'JPEGImages')[0]
    return [f'{WORDS[p.level]}: {p.sentence.removeprefix(str(file)).strip(", :")}' for p in problems]


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
    keys = {problem.key: WORDS[problem.level] for problem in check_datasets(cfg)}
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
        (lambda c: c['annotations'][2].update(bbox=[1e300, 1, 9, 9]), 'error: annotations[2] (id {}): bbox [1e+300'),
        (lambda c: c['annotations'][2].update(bbox=[0, 0, 9, 9999]), 'error: annotations[2] (id {}): bbox [0, 0, 9, 9'),
        (lambda c: c['annotations'][2].update(area=10**400), 'error: annotations[2] (id {}): bbox ['),
        (lambda c: c['annotations'][2].update(iscrowd='0'), "error: annotations[2] (id {}): iscrowd '0': accepted"),
        (lambda c: c['annotations'][2].update(category_id=[1]), 'error: annotations[2] (id {}): category_id [1]'),
        (lambda c: c['images'][1].update(file_name=None), 'error: images[1] (id {}): id 2, file_name None'),
        (lambda c: c['images'][1].update(id=[[]]), 'error: images[1] (id [[]]): id [[]], file_name'),
        (lambda c: c['categories'][0].update(name=3), 'error: categories[0] (id {}): id 1, name 3'),
        (lambda c: c['categories'].append(dict(c['categories'][0], id=77)), 'is there twice'),
        (lambda c: [a.update(iscrowd=1) for a in c['annotations']], 'error: there is no usable box of any of the cl'),
        (lambda c: [a.update(ignore=1) for a in c['annotations']], 'are iscrowd or ignore)'),
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


def test_what_all_entries_lack_is_one_line(coco: dict, whole: Path, tmp_path: Path) -> None:
    count = len(coco['annotations'])
    for annotation in coco['annotations']:
        del annotation['bbox']
    first, *_ = found(coco, whole, tmp_path)
    assert first.startswith('error: annotations[0] (id ') and first.endswith(f'bbox missing (and {count - 1} more)')
    assert sum('bbox missing' in line for line in found(coco, whole, tmp_path)) == 1


@pytest.mark.parametrize('lacking', ['iscrowd', 'area'])
def test_what_ends_an_evaluation_late_is_said_with_a_command_that_adds_it(
    coco: dict, whole: Path, tmp_path: Path, lacking: str
) -> None:
    for annotation in coco['annotations'][1:]:
        del annotation[lacking]
    file = tmp_path / "it's $a file.json"
    file.write_text(json.dumps(coco))
    common = dict(metainfo=dict(classes=tuple(CLASSES)), data_prefix=dict(img=str(whole / 'VOC2007' / 'JPEGImages')))
    val = dict(type='CocoDataset', ann_file=str(file), test_mode=True, **common)
    metric = dict(type='CocoMetric', ann_file=str(file), metric='bbox')

    def look(evaluator: Any, dataset: dict = val) -> list[Finding]:
        return check_datasets(dict(val_dataloader=dict(dataset=dataset), val_evaluator=evaluator))

    if lacking == 'iscrowd':  # mmdet itself does without it
        for other in (dict(type='VOCMetric'), dict(metric, ann_file=None), dict(metric, format_only=True), None):
            assert look(other) == []
    for evaluator in (metric, [dict(type='DumpDetResults'), metric]):
        (problem,) = look(evaluator)
        count = len(coco['annotations'])
        assert problem.level == FAIL and f'{lacking} missing in {count - 1} of {count}' in problem.found
        assert problem.place == f'{file}, annotations'
    # a file that only the evaluator reads, as tools/test.py looks at it
    (problem,) = look(metric, dict(type='LVISV1Dataset', ann_file='other'))
    assert problem.key == 'val_evaluator.ann_file' and f'{lacking} missing' in problem.found
    assert [x.found for x in check_evaluators(dict(val_evaluator=metric), ['val_dataloader'])] == [problem.found]
    python = shlex.split(problem.found.partition('to add it: ')[2])
    subprocess.run([sys.executable, *python[1:]], check=True)
    assert look(metric) == []
    added = json.loads(file.read_text())['annotations'][1]
    wanted = dict(iscrowd=0, area=added['bbox'][2] * added['bbox'][3])
    assert added[lacking] == wanted[lacking]


def test_masks_that_are_scored_have_to_be_there(coco: dict, whole: Path, tmp_path: Path) -> None:
    (tmp_path / 'file.json').write_text(json.dumps(coco))
    cfg = dict(val_evaluator=dict(type='CocoMetric', ann_file=str(tmp_path / 'file.json'), metric=['bbox', 'segm']))
    lacking = sum('segmentation' not in annotation for annotation in coco['annotations'])
    (problem,) = check_evaluators(cfg, ['val_dataloader'])
    assert lacking and f'segmentation missing in {lacking} of {lacking}' in problem.found
    cfg['val_evaluator']['metric'] = 'bbox'
    assert check_evaluators(cfg, ['val_dataloader']) == []


OBJECT = '<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>'
DIFFICULT = f'<a>{OBJECT.format("cat", 1)}</a>'.replace('</object>', '<difficult>{}</difficult></object>')
SIZE = '<size><width>20</width><height>{}</height></size>'


@pytest.mark.parametrize(
    ('xml', 'place', 'wanted'),
    [
        (f'<a>{SIZE.format(9)}{OBJECT.format("cat", 1)}</a>', '', ''),
        (None, 'line 1', 'error: there is no annotation'),
        ('<a>\n<b></a>', 'line 2, column', 'error: not in the encoding that it declares, or broken XML'),
        ('<?xml version="1.0" encoding="utf-8"?><a>é</a>'.encode('latin-1'), 'line 1, column 42', 'error: not in the'),
        (b'<?xml version="1.0" encoding="klingon"?><a/>', '', 'error: it cannot be read: unknown encoding'),
        (f'<a>{SIZE.format("x")}{OBJECT.format("cat", 1)}</a>', 'size.height', "error: 'x': accepted is"),
        (f'<a>{OBJECT.format("cat", "one")}</a>', 'object 1 (cat)', "error: bndbox ['one', '2', '9', '9']"),
        (f'<a>{OBJECT.format("cat", 9)}</a>', 'object 1 (cat)', 'error: bndbox [9, 2, 9, 9] has no area'),
        (f'<a>{OBJECT.format("cat", 9.2)}</a>', 'object 1 (cat)', 'error: bndbox [9, 2, 9, 9] has no area'),
        (f'<a>{OBJECT.format("cat", 15)}</a>', 'object 1 (cat)', 'error: bndbox [15, 2, 9, 9] has no area'),
        (f'<a>{OBJECT.format("cat", -1e300)}</a>', 'object 1 (cat)', 'error: bndbox [-1e+300, 2.0'),
        (
            f'<a>{OBJECT.format("cat", -500)}</a>',
            'object 1 (cat)',
            'error: bndbox [-500.0, 2.0, 9.0, 9.0] is far',
        ),
        (f'<a>{OBJECT.format("cat", "inf")}</a>', 'object 1 (cat)', "error: bndbox ['inf', '2', '9', '9']: accepted"),
        (DIFFICULT.format(''), 'object 1 (cat)', 'error: difficult None: accepted is an integer'),
        (DIFFICULT.format('yes'), 'object 1 (cat)', "error: difficult 'yes': accepted is an integer"),
        (
            DIFFICULT.format('1'),
            '',
            "error: no object of any of the classes ['cat'] in the 1 files (1 are difficult or too small)",
        ),
        (f'<a>{SIZE.format(18)}{OBJECT.format("cat", 1)}</a>', '', 'error: the image '),
        (
            f'<a>{OBJECT.format("cat", 1)}{OBJECT.format("dog", 1) * 2}</a>',
            'split.txt',
            'warning: boxes of classes that the config does not ask for: dog (2)',
        ),
        ('<a><object/></a>', 'object 1 (None)', 'error: it has no name'),
        ('<a/>', '', "error: no object of any of the classes ['cat'] in the 1 files"),
    ],
)
def test_voc_files(tmp_path: Path, xml: str | bytes | None, place: str, wanted: str) -> None:
    for name in ('JPEGImages', 'Annotations'):
        (tmp_path / name).mkdir()
    save_image(tmp_path / 'JPEGImages' / 'one.jpg', (20, 9))
    if xml is not None:
        (tmp_path / 'Annotations' / 'one.xml').write_bytes(xml if isinstance(xml, bytes) else xml.encode())
    (tmp_path / 'split.txt').write_text('one\n')
    problems = check_voc(tmp_path / 'split.txt', ['cat'], tmp_path)
    if not wanted:
        assert problems == []
        return
    assert place in problems[0].place
    assert f'{WORDS[problems[0].level]}: {problems[0].found}'.startswith(wanted)


def test_a_misspelt_class_of_voc_files_fails(tmp_path: Path) -> None:
    for name in ('JPEGImages', 'Annotations'):
        (tmp_path / name).mkdir()
    save_image(tmp_path / 'JPEGImages' / 'one.jpg', (20, 9))
    objects = ''.join(OBJECT.format(name, 1) for name in ('RBC', 'Platelets', 'Platelets'))
    (tmp_path / 'Annotations' / 'one.xml').write_text(f'<a>{objects}</a>')
    (tmp_path / 'split.txt').write_text('one\n')

    def look(*classes: str, **options: Any) -> list[str]:
        problems = check_voc(tmp_path / 'split.txt', classes, tmp_path, **options)
        return [f'{WORDS[problem.level]}: {problem.found}' for problem in problems]

    assert look('RBC', 'Platelets', 'WBC') == []
    (line,) = look('RBC', 'platelet', 'WBC')
    assert line.startswith(
        "error: no object of the classes 'platelet' (did you mean 'Platelets'?) of metainfo.classes; the files have"
    )
    assert line.endswith('Platelets (2)')
    told = 'warning: boxes of classes that the config does not ask for: '
    assert look('RBC', 'platelet', test_mode=True) == look('RBC', 'Thrombocyte') == [f'{told}Platelets (2)']
    assert look('WBC', 'Platelets') == [f'{told}RBC (1)'], 'names of three letters are not alike'


def test_voc_images_and_splits(tmp_path: Path) -> None:
    (tmp_path / 'split.txt').write_text('one\ntwo\n')
    messages = [problem.sentence for problem in check_voc(tmp_path / 'split.txt', ['cat'], tmp_path)]
    assert any('line 2: there is no image' in message for message in messages)
    (tmp_path / 'split.txt').write_bytes(b'\xff')
    assert 'UTF-8' in str(check_voc(tmp_path / 'split.txt', ['cat'], tmp_path)[0])


@pytest.mark.parametrize('difficult', ['0', '1'])
def test_what_a_voc_set_ignores_is_its_settings(tmp_path: Path, difficult: str) -> None:
    for name in ('JPEGImages', 'Annotations'):
        (tmp_path / name).mkdir()
    save_image(tmp_path / 'JPEGImages' / 'one.jpg', (20, 9))
    (tmp_path / 'Annotations' / 'one.xml').write_text(DIFFICULT.format(difficult))
    (tmp_path / 'split.txt').write_text('one\n')

    def errors(**options: Any) -> list[str]:
        problems = check_voc(tmp_path / 'split.txt', ['cat'], tmp_path, **options)
        return [problem.found for problem in problems if problem.level == FAIL]

    assert bool(errors()) == (difficult == '1')
    assert errors(bbox_min_size=8) and not errors(test_mode=True, bbox_min_size=8)
    flat = f'<a>{OBJECT.format("cat", 9)}{OBJECT.format("cat", 1)}</a>'
    (tmp_path / 'Annotations' / 'one.xml').write_text(flat)
    assert errors() and not errors(bbox_min_size=1) and not errors(test_mode=True)


@pytest.mark.parametrize('suffix', ['jpg', 'png'])
def test_broken_images_and_other_sizes_are_named(tmp_path: Path, suffix: str) -> None:
    path = save_image(tmp_path / f'one.{suffix}', (40, 30))
    whole = path.read_bytes()

    def look(size: tuple[int, int] | None = (40, 30), **options: Any) -> list[str]:
        findings = Problems('some.json', 'key')
        look_at_images([Expected(str(path), size, 'images[7]')], findings, **options)
        return [problem.sentence.partition(str(path))[2] for problem in findings.all() if problem.level == FAIL]

    assert look() == look(None) == look((41, 30)) == []
    for size in ((20, 15), (80, 60), (30, 40), (1, 1)):
        assert look(size) == [f' is 40x30 pixels, its annotation says {size[0]}x{size[1]}']
    path.write_bytes(whole + b'more')  # cameras put a preview there
    assert look() == []
    path.write_bytes(whole[: len(whole) // 2])
    assert look() == look(None) == [' is truncated']
    path.write_bytes(b'')
    assert look() == [' has 0 bytes']
    path.write_bytes(b'<html>404</html>')
    assert look() == [' is no image, or a broken one']
    path.unlink()
    path.mkdir()
    assert look() == [' cannot be read (Is a directory)']


def test_the_size_is_the_one_that_mmdet_sees(tmp_path: Path) -> None:
    """A photograph in portrait format is stored in landscape format, and turned when it is read."""
    path = save_image(tmp_path / 'one.jpg', (40, 30), orientation=6)
    seen = mmcv.imread(str(path), backend='cv2').shape
    assert image_size(path) == (seen[1], seen[0]) == (30, 40)
    assert image_size(path, turned=False) == (40, 30)
    findings = Problems('some.json', '')
    look_at_images([Expected(str(path), (40, 30), '')], findings)
    assert 'is 30x40 pixels, its annotation says 40x30 (its EXIF orientation turns it)' in str(findings.all()[0])
    bitmap = save_image(tmp_path / 'one.bmp', (40, 30))
    assert image_size(bitmap) == (40, 30)


def test_images_are_compared_as_far_as_their_pipeline_reads_them(coco: dict, whole: Path, tmp_path: Path) -> None:
    coco['images'][2]['width'] *= 2
    (tmp_path / 'file.json').write_text(json.dumps(coco))
    load = dict(type='mmdet.LoadImageFromFile')
    dataset = dict(
        type='CocoDataset',
        ann_file=str(tmp_path / 'file.json'),
        data_prefix=dict(img=str(whole / 'VOC2007' / 'JPEGImages')),
        metainfo=dict(classes=tuple(CLASSES)),
        pipeline=[load],
    )
    (problem,) = check_dataset(dataset)
    assert problem.level == FAIL and 'its annotation says' in problem.found and 'images[2]' in problem.place
    for other in (dict(type='LoadFeatures'), dict(load, imdecode_backend='tifffile')):
        assert check_dataset(dict(dataset, pipeline=[other])) == []


def test_the_look_at_images_ends_in_time_and_says_how_many_it_saw(tmp_path: Path, monkeypatch) -> None:
    path = save_image(tmp_path / 'one.jpg', (4, 3))
    monkeypatch.setattr('mmkd_graph.datasets.images.image_size', lambda *_: time.sleep(0.001))
    findings = Problems('some.json', '')
    look_at_images([Expected(str(path), (4, 3), '')] * 3000, findings, seconds=0.01)
    (note,) = findings.all()
    assert note.level == OK and note.found.endswith('of 3000 images were looked at, evenly spread, in 0.01 s')
    assert 0 < int(note.found.split()[0]) < 3000


@pytest.mark.parametrize('kind', ['CocoDataset', 'LVISV1Dataset', 'XMLDataset'])
@pytest.mark.parametrize(
    ('classes', 'wanted'),
    [
        ('cat', "write classes=('cat',)"),
        ('cat, dog', "write classes=('cat', 'dog')"),
        (('cat', 'cat'), "['cat'] are there twice"),
        ((1, 2), '(1, 2); accepted: a tuple of names'),
        ({'cat': 1}, "{'cat': 1}; accepted: a tuple of names"),
    ],
)
def test_classes_that_mmdet_takes_for_something_else(kind: str, classes: Any, wanted: str) -> None:
    inner = dict(type=kind, metainfo=dict(classes=classes))
    cfg = dict(train_dataloader=dict(dataset=dict(type='RepeatDataset', times=2, dataset=inner)))
    (problem,) = check_datasets(cfg)
    assert problem.level == FAIL and wanted in problem.found
    assert problem.sentence.startswith('train_dataloader.dataset.dataset.metainfo.classes: ')


def test_a_string_that_is_a_file_holds_the_classes(whole: Path, tmp_path: Path) -> None:
    file = tmp_path / 'classes.txt'
    file.write_text('\n'.join(CLASSES) + '\n')
    prefix = dict(img='VOC2007/JPEGImages/')
    dataset = dict(type='CocoDataset', data_root=str(whole), ann_file=SPLIT, data_prefix=prefix)
    assert check_dataset(dict(dataset, metainfo=dict(classes=str(file)))) == []
    file.write_bytes(b'\xff')
    assert 'cannot be read' in check_dataset(dict(dataset, metainfo=dict(classes=str(file))))[0].found


def test_two_files_that_number_their_classes_differently(coco: dict, whole: Path, tmp_path: Path) -> None:
    """mmdet labels in the order of the file: a label of one would be another class in the other."""
    coco['categories'].reverse()
    (tmp_path / 'other.json').write_text(json.dumps(coco))
    common = dict(type='CocoDataset', data_root=str(whole), metainfo=dict(classes=tuple(CLASSES)))
    common['data_prefix'] = dict(img='VOC2007/JPEGImages/')
    one, two = dict(common, ann_file=SPLIT), dict(common, ann_file=str(tmp_path / 'other.json'))
    problem = check_datasets(dict(train_dataloader=dict(dataset=one), val_dataloader=dict(dataset=two)))[0]
    assert (problem.level, problem.key) == (FAIL, 'val_dataloader.dataset.ann_file')
    assert 'in another order than those of annotations/instances_train.json' in problem.found
    alone = check_datasets(dict(train_dataloader=dict(dataset=two)))
    assert {problem.level for problem in alone} == {WARNING}


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_nothing_in_a_coco_file_breaks_the_look_through_it(tmp_path_factory, data: st.DataObject) -> None:
    content: Any = dict(
        images=[dict(id=1, file_name='a.jpg', width=9, height=9)],
        categories=[dict(id=1, name='cat')],
        annotations=[dict(id=1, image_id=1, category_id=1, bbox=[1, 1, 5, 5], area=25, iscrowd=0)],
    )
    for _ in range(data.draw(st.integers(1, 3))):
        part = content[data.draw(st.sampled_from(sorted(content)))]
        entry = part[0] if isinstance(part, list) and part and isinstance(part[0], dict) else content
        entry[data.draw(st.sampled_from(sorted(entry)))] = data.draw(ANYTHING)
    file = tmp_path_factory.getbasetemp() / 'fuzzed.json'
    file.write_text(json.dumps(content))
    for problem in read_coco(file, ['cat'], file.parent)[0]:
        assert str(problem).encode()


@pytest.mark.parametrize('content', ['[' * 100_000, '{"images": ' + '1' * 5000 + '}'], ids=['deep', 'long number'])
def test_json_that_python_refuses(content: str, whole: Path, tmp_path: Path) -> None:
    (line,) = found(content.encode(), whole, tmp_path)
    assert line.startswith('error: it cannot be read: ')
    nested: Any = []
    for _ in range(200):
        nested = [nested]
    file = dict(images=[dict(id=nested)], categories=nested, annotations=[dict(bbox=nested)])
    assert found(file, whole, tmp_path)

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pytest
from conftest import import_tool
from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS
from PIL import Image

ROOT = Path(__file__).parents[2]
BOX = (
    '<object><name>{}</name>{}<bndbox><xmin>11</xmin><ymin>21</ymin><xmax>60</xmax><ymax>40</ymax></bndbox>'
    '<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part></object>'
)
PICTURES = dict(
    train={'000001': ['person', 'cat'], '000002': ['person'], '000003': ['dog']},
    val={'000004': ['!bus', 'dog'], '006591': ['cat'], '005102': ['cat']},
    test={'000005': ['car'], '000006': ['train'], '000007': ['cat', 'bus', '!person'], '000008': ['sofa']},
)
"""Classes in every image, difficult ones with a mark."""


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch):
    tool = import_tool('dataset/select_voc_subset')
    monkeypatch.setattr(tool, 'TUNE', 1)
    return tool


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    folder = tmp_path / 'VOC2007'
    for part in ('JPEGImages', 'Annotations', 'ImageSets/Main'):
        (folder / part).mkdir(parents=True)
    for split, images in PICTURES.items():
        (folder / f'ImageSets/Main/{split}.txt').write_text(''.join(f'{name}\n' for name in images))
        for name, kinds in images.items():
            objects = ''.join(
                BOX.format(kind.strip('!'), f'<difficult>{int(kind[0] == "!")}</difficult>') for kind in kinds
            )
            size = '<size><width>100</width><height>80</height><depth>3</depth></size>'
            (folder / f'Annotations/{name}.xml').write_text(f'<annotation>{size}{objects}</annotation>')
            Image.fromarray(np.zeros((80, 100, 3), np.uint8)).save(folder / f'JPEGImages/{name}.jpg')
    return folder


def names(out: Path, split: str) -> list[str]:
    return (out / f'ImageSets/Main/{split}.txt').read_text().split()


def test_the_subset_has_the_decisive_classes_and_every_box_of_the_five(tool, voc: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / 'out'
    assert tool.main([str(voc), str(out)]) == 1
    assert 'train has 1 images and 2 boxes, docs/results.md was made on 482 and 1216' in capsys.readouterr().err
    assert names(out, 'train') == ['000001'] and names(out, 'val') == ['000004']
    assert names(out, 'trainval') == ['000001', '000004'] and names(out, 'test') == ['000005', '000006', '000007']
    assert sorted(names(out, 'tune') + names(out, 'report')) == names(out, 'test') and len(names(out, 'tune')) == 1
    for split in ('train', 'val', 'trainval', 'test', 'tune', 'report'):
        content = json.loads((out / f'annotations/{split}.json').read_text())
        assert [image['file_name'] for image in content['images']] == [f'{x}.jpg' for x in names(out, split)]
        assert {x['image_id'] for x in content['annotations']} == {int(x) for x in names(out, split)}
    content = json.loads((out / 'annotations/test.json').read_text())
    assert [x['name'] for x in content['categories']] == ['bus', 'car', 'cat', 'person', 'train']
    assert [(x['category_id'], x['iscrowd']) for x in content['annotations']] == [
        (2, 0),
        (5, 0),
        (3, 0),
        (1, 0),
        (4, 1),
    ]
    assert [x['id'] for x in content['annotations']] == [1, 2, 3, 4, 5]
    assert content['annotations'][0]['bbox'] == [10, 20, 50, 20] and content['annotations'][0]['area'] == 1000
    assert tool.main([str(voc), str(out)]) == 1, 'a second time'


def test_whole_sets_pass_in_silence(tool, voc: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(tool, 'PUBLISHED', dict(train=(1, 2), val=(1, 1), test=(3, 5)))
    assert tool.main([str(voc), str(tmp_path / 'out')]) == 0
    assert not capsys.readouterr().err


def test_the_division_is_the_published_one() -> None:
    """``random`` promises to stay the same for ``random()`` alone."""
    drawn = random.Random(2007).sample(range(965), 400)
    assert hashlib.sha256(str(sorted(drawn)).encode()).hexdigest()[:16] == 'b5e4cfa8517ee54e'


def damage_list(voc: Path) -> None:
    (voc / 'ImageSets/Main/test.txt').unlink()


def damage_annotation(voc: Path) -> None:
    (voc / 'Annotations/000005.xml').write_text('<annotation>')


def damage_box(voc: Path) -> None:
    path = voc / 'Annotations/000005.xml'
    path.write_text(path.read_text().replace('<xmax>60</xmax>', ''))


def damage_image(voc: Path) -> None:
    (voc / 'JPEGImages/000005.jpg').unlink()


@pytest.mark.parametrize(
    ('damage', 'file'),
    [
        (damage_list, 'test.txt: no such list'),
        (damage_annotation, '000005.xml: '),
        (damage_box, '000005.xml: '),
        (damage_image, '000005.jpg: no such image'),
    ],
)
def test_what_is_missing_is_named_before_anything_is_written(tool, voc, tmp_path, capsys, damage, file) -> None:
    damage(voc)
    assert tool.main([str(voc), str(tmp_path / 'out')]) == 2
    assert file in capsys.readouterr().err and not (tmp_path / 'out').exists()


def test_images_of_another_set_are_not_mixed_in(tool, voc: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / 'out' / 'JPEGImages').mkdir(parents=True)
    assert tool.main([str(voc), str(tmp_path / 'out')]) == 2
    assert 'holds other images' in capsys.readouterr().err


@pytest.mark.parametrize('model', ['lite0', 'lite2'])
def test_the_configs_load_it(tool, voc: Path, tmp_path: Path, model: str) -> None:
    """Difficult boxes train nothing; the ground truth keeps the coordinates of the image."""
    tool.main([str(voc), str(tmp_path / 'out')])
    config = Config.fromfile(ROOT / f'configs/voc07_5c/retinanet_{model}_fpn-64_voc07-5c.py')
    for split, part in (('train', 'trainval'), ('val', 'tune'), ('test', 'report')):
        loader = config[f'{split}_dataloader']
        assert loader.dataset.ann_file == f'annotations/{part}.json'
        if split != 'train':
            assert config[f'{split}_evaluator'].ann_file == f'data/voc07_5c/annotations/{part}.json'
        dataset = DATASETS.build(ConfigDict({**loader.dataset, 'data_root': str(tmp_path / 'out')}))
        assert len(dataset) == len(names(tmp_path / 'out', part))
        item = dataset[len(dataset) - 1]
        assert max(item['inputs'].shape[1:]) == 256 or (model, split) == ('lite2', 'train')
        sample = item['data_samples']
        if split == 'train':
            assert sample.gt_instances.labels.tolist() == [] and sample.ignored_instances.labels.tolist() == [0]
        else:
            assert sample.gt_instances.bboxes.tensor[0].tolist() == [10, 20, 60, 40]

"""Own data are found in folders and read from configs, or it is said what is wrong with them."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS
from PIL import Image

from mmkd_graph.datasets import CLASSES, generate_shapes
from mmkd_graph.datasets.annotations import check_datasets
from mmkd_graph.datasets.own import NAMES, find_data

ROOT = Path(__file__).resolve().parents[2]
CUSTOM = ROOT / 'configs/_base_/datasets'


@pytest.fixture(scope='module')
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('data') / 'shapes'
    generate_shapes(root, num_train=8, num_val=2, num_test=2)
    return root


def head(kind: str, root: Path, classes: tuple[str, ...] = CLASSES) -> str:
    """A copy of custom_<kind>.py whose first lines name the generated set."""
    text = (CUSTOM / f'custom_{kind}.py').read_text()
    text = text.replace("'data/pets'", repr(str(root if kind == 'coco' else root / 'VOC2007')))
    text = text.replace("('cat', 'dog')", repr(classes)).replace("'images/'", "'VOC2007/JPEGImages/'")
    return re.sub(r"'annotations/(\w+)\.json'", r"'annotations/instances_\1.json'", text)


@pytest.mark.parametrize('kind', ['coco', 'voc'])
def test_six_lines_of_a_custom_config_change_all_that_reads_data(shapes, tmp_path, kind):
    (tmp_path / 'mine.py').write_text(head(kind, shapes))
    cfg = Config.fromfile(tmp_path / 'mine.py')
    assert 'data/pets' not in cfg.pretty_text.replace(str(shapes), '')
    assert not check_datasets(cfg, ('train_dataloader', 'val_dataloader', 'test_dataloader'))
    sizes = []
    for split in ('train', 'val', 'test'):
        dataset = DATASETS.build(ConfigDict(cfg[f'{split}_dataloader'].dataset))
        assert tuple(dataset.metainfo['classes']) == CLASSES
        sizes.append(len(dataset))
    assert sizes == [8, 2, 2]
    sample = dataset[0]['data_samples']
    assert ('instances' in sample.metainfo_keys()) == (kind == 'voc'), 'CocoMetric would have no ground truth'


@pytest.mark.parametrize('kind', ['coco', 'voc'])
def test_folder_and_custom_config_say_the_same(shapes, tmp_path, kind):
    (tmp_path / 'mine.py').write_text(head(kind, shapes, tuple(sorted(CLASSES)) if kind == 'voc' else CLASSES))
    root = shapes if kind == 'coco' else shapes / 'VOC2007'
    folder, config = find_data(root), find_data(tmp_path / 'mine.py')
    for name in ('type', 'root', 'classes', 'splits', 'is_coco'):
        assert getattr(folder, name) == getattr(config, name), name
    assert not config.is_base, 'it has loaders too'


def test_the_lines_alone_are_a_base(shapes, tmp_path):
    lines = head('coco', shapes).splitlines(keepends=True)
    (tmp_path / 'lines.py').write_text(''.join(x for x in lines if x.startswith('own_')))
    assert find_data(tmp_path / 'lines.py').is_base
    (tmp_path / 'few.py').write_text("own_root = 'data'\n")
    with pytest.raises(ValueError, match='lacks own_type, own_classes, own_train'):
        find_data(tmp_path / 'few.py')


def test_loaders_of_any_config_are_read():
    found = find_data(CUSTOM / 'bccd.py')
    assert found.type == 'XMLDataset' and found.classes == ('RBC', 'WBC', 'Platelets')
    assert found.splits['test'] == dict(ann_file='ImageSets/Main/test.txt', data_prefix=dict(sub_data_root=''))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ("own_type = 'CityscapesDataset2'", "type='CityscapesDataset2'; accepted: 'CocoDataset' and 'XMLDataset'"),
        ("own_classes = ('cat')", r"classes are 'cat'; accepted: a tuple of names, as \('cat',\)"),
        ('own_val = dict()', 'own_val has no ann_file'),
    ],
)
def test_wrong_lines_are_refused(shapes, tmp_path, change, message):
    lines = [line for line in head('coco', shapes).splitlines() if line.startswith('own_')]
    lines = [line for line in lines if line.split()[0] != change.split()[0]]
    (tmp_path / 'lines.py').write_text('\n'.join([*lines, change]))
    with pytest.raises(ValueError, match=message):
        find_data(tmp_path / 'lines.py')


def coco(
    root: Path, file: str, images: str, names: tuple[str, ...] = ('cells', 'RBC', 'WBC'), prefix: str = 'x'
) -> None:
    """A COCO file of two images with a box of the second and of the third class, and the images."""
    folder = root / images
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(2):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / f'{prefix}{i}.jpg')
    content = dict(
        images=[dict(id=i, file_name=f'{prefix}{i}.jpg', width=8, height=8) for i in range(2)],
        categories=[dict(id=i, name=name) for i, name in enumerate(('cells', 'RBC', 'WBC'))],
        annotations=[dict(id=i, image_id=0, category_id=i, bbox=[0, 0, 4, 4], area=16, iscrowd=0) for i in (1, 2)],
    )
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(json.dumps(content))


def test_images_beside_each_annotation_file(tmp_path):
    """As Roboflow exports sets, with a category of no boxes at the beginning."""
    for split in ('train', 'valid'):
        coco(tmp_path, f'{split}/_annotations.coco.json', split)
    found = find_data(tmp_path)
    assert found.classes == ('RBC', 'WBC')
    assert found.splits['val'] == dict(ann_file='valid/_annotations.coco.json', data_prefix=dict(img='valid/'))
    assert found.splits['test'] == found.splits['val']
    notes = ' '.join(map(str, found.notes))
    assert "['cells'] have no box" in notes and 'no test split' in notes
    assert '1 images without a box, which are not trained on' in notes


def test_folders_of_coco_itself(tmp_path):
    for split in ('train2017', 'val2017'):
        coco(tmp_path, f'annotations/instances_{split}.json', split, prefix=split)
        shutil.copy(tmp_path / f'annotations/instances_{split}.json', tmp_path / f'annotations/captions_{split}.json')
    assert find_data(tmp_path).splits['train']['data_prefix'] == dict(img='train2017/')
    assert not find_data(tmp_path).has_masks()


def test_voc_names_with_blanks(tmp_path):
    for folder in ('ImageSets/Main', 'Annotations'):
        (tmp_path / folder).mkdir(parents=True)
    for split in ('train', 'val'):
        (tmp_path / f'ImageSets/Main/{split}.txt').write_text(f'{split} 1\n')
        (tmp_path / f'Annotations/{split} 1.xml').write_text('<a><object><name>big cat</name></object></a>')
    assert find_data(tmp_path).classes == ('big cat',)


@pytest.mark.parametrize(
    ('files', 'message'),
    [
        (['train.json', 'train_2.json', 'val.json'], 'several annotation files could be meant'),
        (['train.json'], 'no JSON file has val in its name or folder'),
        (['a.json'], "holds neither COCO's JSON files"),
    ],
)
def test_folders_that_could_mean_several_things_or_nothing_are_refused(tmp_path, files, message):
    for file in files:
        coco(tmp_path, file, 'images')
    with pytest.raises(ValueError, match=message) as error:
        find_data(tmp_path)
    assert 'custom_coco.py' in str(error.value), 'what to do instead is not said'


def test_missing_images_and_missing_sources_are_refused(tmp_path):
    for split in ('train', 'val'):
        coco(tmp_path, f'{split}.json', 'images')
    shutil.rmtree(tmp_path / 'images')
    with pytest.raises(ValueError, match=r"its images, as 'x0.jpg', are in no folder below"):
        find_data(tmp_path)
    with pytest.raises(FileNotFoundError, match='neither a folder nor a config file'):
        find_data(tmp_path / 'nothing')
    assert len(NAMES) == 6, 'the documents say six lines'

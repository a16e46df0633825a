"""Every config under configs/ can be read, and what it promises about its teacher is true."""

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mmdet
import numpy as np
import pytest
import torch
import yaml
from mmdet.datasets import CocoDataset
from mmengine.config import Config, ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS
from PIL import Image
from torch import nn

from mmkd_graph.losses import HeadLoss, HeadSpec, PyramidSpec
from mmkd_graph.packaged import read_config
from mmkd_graph.registry import MODELS as KD_MODELS

ROOT = Path(__file__).parents[2]
PATHS = [path.relative_to(ROOT) for path in (ROOT / 'configs').rglob('*.py')]
CONFIGS = sorted(str(path) for path in PATHS if path.parts[1] not in ('_base_', 'own'))
METAFILES = Path(mmdet.__file__).parent / '.mim/configs'
PUBLIC = 'https://'


def is_distilled(config: Config) -> bool:
    return config.model.type == 'mmkd_graph.GraphDistiller'


DISTILLED = [path for path in CONFIGS if is_distilled(Config.fromfile(ROOT / path))]


@pytest.fixture(autouse=True)
def _at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Configs name local files as seen from the root of the repository."""
    monkeypatch.chdir(ROOT)


@functools.cache
def read(source: str) -> Config:
    """A config by path or ``mmdet::`` name, read once: every look into mmdet scans all its metafiles."""
    return read_config(source)


def teacher_config(config: Config) -> Config:
    return read(config.model.teacher.config)


def find(tree: Any, key: str) -> Iterator[Any]:
    """All values of ``key`` in a nest of dicts and lists."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            if name == key:
                yield value
            yield from find(value, key)
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            yield from find(value, key)


def class_names(config: Config) -> list:
    """What a config says of its classes; of COCO's and VOC's own it says nothing."""
    return sorted(set(map(tuple, find(config.train_dataloader.to_dict(), 'classes'))))


def without_weights(model: ConfigDict) -> ConfigDict:
    """A copy of a model config that loads nothing when it is built or initialised."""
    model = model.copy()
    model.backbone = ConfigDict({**model.backbone, 'init_cfg': None})
    model.pop('pretrained', None)
    return model


def test_there_are_configs():
    assert len(DISTILLED) >= 10


@pytest.mark.parametrize('path', CONFIGS)
def test_config_reads_and_its_header_names_its_own_command(path):
    config = read(path)
    assert config.model.type
    assert config.default_scope == 'mmdet'
    header = ''.join(re.findall(r'(?m)\A(?:#.*\n)+', Path(path).read_text()))
    assert re.search(rf'(?m)^# .*(python tools/|make ).*{re.escape(path)}', header)
    named = set(re.findall(r'configs/[\w/.-]+\.py', header))
    assert all(Path(name).exists() for name in named)


@pytest.mark.parametrize('path', DISTILLED)
def test_teacher_exists_and_shares_the_label_space_if_it_must(path):
    config = read(path)
    teacher = teacher_config(config)
    classes = [set(find(model, 'num_classes')) for model in (config.model.student, teacher.model)]
    assert len(classes[0]) == len(classes[1]) == 1
    matching = [loss for loss in config.model.losses.values() if loss.type.endswith('REFILLEDLoss')]
    assert all({loss.num_classes} == classes[0] for loss in matching)
    if len(matching) < len(config.model.losses):
        assert classes[0] == classes[1]
        assert class_names(config) == class_names(teacher)


@pytest.mark.parametrize('path', DISTILLED)
def test_teacher_checkpoint_belongs_to_its_config(path):
    teacher = read(path).model.teacher
    if teacher.checkpoint.startswith(PUBLIC):
        name = teacher.config.removeprefix('mmdet::')
        metafile = yaml.safe_load((METAFILES / name).with_name('metafile.yml').read_text())
        weights = {model['Config']: model.get('Weights') for model in metafile['Models']}
        assert teacher.checkpoint == weights[f'configs/{name}']
        return
    # No public weights: the file that the teacher's own config leaves in its default work_dir.
    config = read(teacher.config)
    loop = config.train_cfg
    last = f'iter_{loop.max_iters}.pth' if 'max_iters' in loop else f'epoch_{loop.max_epochs}.pth'
    assert Path(teacher.checkpoint).name == last
    assert Path(teacher.checkpoint).parent.name == Path(teacher.config).stem
    assert f'{teacher.checkpoint}' in Path('configs', teacher.config.removeprefix('mmkd_graph::')).read_text()


@pytest.mark.parametrize('path', DISTILLED)
def test_student_is_the_plain_detector(path):
    """Distillation changes nothing of the student: taking it out gives back the config it was made from."""
    plain, source = read(path), path
    while is_distilled(plain):
        bases = re.search(r'_base_ = ([^\n\[]+|\[[^\]]+\])', Path(source).read_text()).group(1)
        names = re.findall(r"'([^']+\.py)'", bases)
        paths = [n if '::' in n else str((Path(source).parent / n).resolve().relative_to(ROOT)) for n in names]
        ((source, plain),) = [
            (name, base) for name, base in zip(paths, map(read, paths), strict=True) if 'model' in base
        ]
    student, alone = read(path).model.student.to_dict(), plain.model.to_dict()
    for model in (student, alone):
        model.pop('_scope_', None)
    assert student == alone


@pytest.mark.parametrize(
    'path',
    [
        'configs/crg/retinanet_r18-w8_fpn-64_crg-w32_bccd.py',
        'configs/crg/retinanet_r50_fpn_crg-mask-rcnn-swin-s_1x_coco.py',
        'configs/crg/faster-rcnn_r50_fpn_crg-r101_1x_voc0712.py',
        'configs/crg/gfl_r50_fpn_crg-r101_1x_coco.py',
        'configs/refilled/retinanet_r50_fpn_refilled-coco-r101_1x_voc0712.py',
        'configs/lfcc/retinanet_r50_fpn_lfcc-pvtv2-b2_1x_coco.py',
        'configs/lfcc/retinanet_r50_fpn_lfcc-swin-t_1x_voc0712.py',
    ],
)
def test_student_and_teacher_can_be_built(path):
    config = read(path)
    for model in (config.model.student, teacher_config(config).model):
        detector = MODELS.build(without_weights(model))
        assert detector.with_neck


@pytest.mark.parametrize('path', DISTILLED)
def test_losses_can_be_built(path):
    for name, loss in read(path).model.losses.items():
        loss = KD_MODELS.build({key: value for key, value in loss.items() if key != 'loss_weight'})
        if isinstance(loss, HeadLoss):
            loss.bind(HeadSpec((8, 16), num_classes=80, sigmoid=True, bins=17, name=name))
        else:
            loss.bind(PyramidSpec((8, 16), (64, 64), (64, 64), name))


@pytest.mark.parametrize('path', [path for path in DISTILLED if path.startswith('configs/heads/')])
def test_heads_of_student_and_teacher_fit(path):
    """The whole model, with an untrained teacher in place of the downloaded one."""
    config = read(path)
    student, teacher = without_weights(config.model.student), without_weights(teacher_config(config).model)
    model = {**config.model, 'student': student, 'teacher': dict(config=teacher, strict=False)}
    assert MODELS.build(model).distill.heads


@pytest.fixture
def blood_cells(tmp_path: Path) -> Path:
    """Two images in the layout of BCCD; in each a good box and one without area, as the real set has them."""
    for folder in ('JPEGImages', 'Annotations', 'ImageSets/Main'):
        (tmp_path / folder).mkdir(parents=True)
    box = '<object><name>{}</name><difficult>0</difficult><bndbox>{}</bndbox></object>'
    good = '<xmin>101</xmin><ymin>101</ymin><xmax>201</xmax><ymax>181</ymax>'
    flat = '<xmin>504</xmin><ymin>337</ymin><xmax>504</xmax><ymax>337</ymax>'
    size = '<size><width>640</width><height>480</height><depth>3</depth></size>'
    for name in ('a', 'b'):
        Image.fromarray(np.zeros((480, 640, 3), np.uint8)).save(tmp_path / f'JPEGImages/{name}.jpg')
        objects = box.format('WBC', good) + box.format('Platelets', flat)
        (tmp_path / f'Annotations/{name}.xml').write_text(f'<annotation>{size}{objects}</annotation>')
    for split in ('train', 'val', 'test'):
        (tmp_path / f'ImageSets/Main/{split}.txt').write_text('a\nb\n')
    return tmp_path


@pytest.mark.parametrize('split', ['train', 'val', 'test'])
def test_bccd_loads_its_split_and_survives_boxes_without_area(blood_cells, split):
    config = read('configs/bccd/retinanet_r18-w8_fpn-64_bccd.py')
    loader = config[f'{split}_dataloader']
    assert loader.dataset.ann_file == f'ImageSets/Main/{split}.txt'
    dataset = DATASETS.build(ConfigDict({**loader.dataset, 'data_root': str(blood_cells)}))
    assert len(dataset) == 2
    item = dataset[0]
    assert tuple(item['inputs'].shape) == (3, *reversed(config.image_scale))
    sample = item['data_samples']
    if split == 'train':
        assert sample.gt_instances.labels.tolist() == [1]
        assert sample.ignored_instances.labels.tolist() == [2]
    else:
        assert sample.gt_instances.bboxes.tensor[0].tolist() == [100, 100, 200, 180]
        assert sample.instances[0]['bbox_label'] == 1


@pytest.mark.parametrize('model', ['lite0', 'lite2'])
def test_pretrained_backbones_of_voc07_5c_learn_at_a_tenth_with_frozen_norms_and_early_stages(model):
    config = read(f'configs/voc07_5c/retinanet_{model}_fpn-64_voc07-5c.py')
    assert config.model.backbone.init_cfg.checkpoint == f'data/weights/efficientnet_{model}.pth'
    detector = MODELS.build(without_weights(config.model)).train()
    image = torch.full((3, 170, 256), 127, dtype=torch.uint8)
    batch = detector.data_preprocessor(dict(inputs=[image]))['inputs']
    assert batch.shape == (1, 3, 256, 256) and not batch.any(), 'padded with something else than the mean'
    assert [level.shape[1:] for level in detector.extract_feat(batch)] == [(64, n, n) for n in (32, 16, 8, 4)]
    assert not any(m.training for m in detector.backbone.modules() if isinstance(m, nn.BatchNorm2d))
    groups = build_optim_wrapper(detector, config.optim_wrapper).param_groups
    rates = {id(parameter): group['lr'] for group in groups for parameter in group['params']}
    for name, parameter in detector.named_parameters():
        backbone = name.startswith('backbone.')
        early = name.startswith(('backbone.layers.0.', 'backbone.layers.1.', 'backbone.layers.2.'))
        assert parameter.requires_grad != (early or (backbone and '.bn.' in name))
        if parameter.requires_grad:
            assert rates[id(parameter)] == pytest.approx(config.optim_wrapper.optimizer.lr * (0.1 if backbone else 1))


def test_subsets_of_coco_are_its_own_classes_disjoint_and_half_shared():
    names = CocoDataset.METAINFO['classes']
    subsets = Config.fromfile('configs/_base_/datasets/coco_subsets.py')
    assert subsets.first_40 == names[:40] and subsets.last_40 == names[40:] and subsets.middle_40 == names[20:60]
    folder = 'configs/coco_subsets'
    for path in sorted(Path(folder).glob('*.py')):
        config = read(str(path))
        (wanted,) = (v for k, v in subsets.items() if k.replace('_', '-') == path.stem.split('coco-')[1])
        for split in ('train', 'val', 'test'):
            assert tuple(config[f'{split}_dataloader'].dataset.metainfo.classes) == wanted
        assert set(find(config.model, 'num_classes')) == {40}


def test_a_subset_of_coco_loads_its_classes_alone(tmp_path):
    names = CocoDataset.METAINFO['classes']
    categories = [dict(id=i, name=name) for i, name in enumerate(names)]
    boxes = [
        dict(id=i, image_id=image, category_id=names.index(name), bbox=[1, 1, 9, 9], area=81, iscrowd=0)
        for i, (image, name) in enumerate(((0, 'person'), (1, 'person'), (1, 'tv')))
    ]
    images = [dict(id=i, file_name=f'{i}.jpg', width=64, height=64) for i in range(2)]
    (tmp_path / 'truth.json').write_text(json.dumps(dict(images=images, annotations=boxes, categories=categories)))
    dataset = read('configs/coco_subsets/retinanet_r50_fpn_1x_coco-last-40.py').train_dataloader.dataset
    built = DATASETS.build(
        ConfigDict({**dataset, 'data_root': '', 'ann_file': str(tmp_path / 'truth.json'), 'data_prefix': dict(img='')})
    )
    assert len(built) == 1, 'the image with a person alone should be left out'
    assert [x['bbox_label'] for x in built.get_data_info(0)['instances']] == [dataset.metainfo.classes.index('tv')]


def metafiles() -> list[dict[str, Any]]:
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    assert sorted(index['Import']) == sorted(str(p.relative_to(ROOT)) for p in ROOT.glob('configs/*/metafile.yml'))
    return [dict(path=path, **yaml.safe_load((ROOT / path).read_text())) for path in index['Import']]


def test_metafiles_cover_every_config_once():
    files = metafiles()
    models = [(file['path'], model) for file in files for model in file['Models']]
    assert sorted(model['Config'] for _, model in models) == CONFIGS
    collections = [collection for file in files for collection in file['Collections']]
    names = [collection['Name'] for collection in collections]
    assert len(names) == len({*names})
    for path, model in models:
        assert model['In Collection'] in names
        assert model['Name'] == Path(model['Config']).stem and Path(model['Config']).parent == Path(path).parent
        assert not {'Results', 'Weights'} & model.keys(), 'nothing has been trained to the end'
    readmes = [collection['README'] for collection in collections if 'Paper' in collection]
    assert len(readmes) >= 10 and all((ROOT / readme).is_file() for readme in readmes)


def test_metafiles_say_what_the_configs_do():
    for entry in (model for file in metafiles() for model in file['Models']):
        config, said = read(entry['Config']), entry['Metadata']
        loop = config.train_cfg
        length = {'Epochs': loop.max_epochs} if 'max_epochs' in loop else {'Iterations': loop.max_iters}
        assert {key: said.get(key) for key in length} == length, entry['Name']
        teacher = config.model.get('teacher')
        assert said.get('Teacher') == (teacher and dict(Config=teacher.config, Weights=teacher.checkpoint))

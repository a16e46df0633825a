"""Configs that are written for pairs of detectors: what they say once mmengine has read them."""

import functools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mmengine.config.utils
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, HOOKS

from mmkd_graph.datasets import CLASSES, generate_shapes
from mmkd_graph.datasets.reading import leaves
from mmkd_graph.distillers.teacher import read_config
from mmkd_graph.findings import FAIL
from mmkd_graph.writing import check_written, write_configs
from mmkd_graph.writing.configs import _name

RETINA = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
RETINA_101 = 'mmdet::retinanet/retinanet_r101_fpn_2x_coco.py'
STUDENTS = {
    RETINA: 1,
    'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py': 1,
    'mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py': 3,
    'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py': 1,
    'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py': 1,
    'mmdet::detr/detr_r50_8xb2-150e_coco.py': 1,
    'mmdet::ssd/ssd300_coco.py': 1,
    'mmdet::pascal_voc/retinanet_r50_fpn_1x_voc0712.py': 1,
}
"""Config, and how many of its heads have classes."""


@pytest.fixture(scope='module')
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('data') / 'shapes'
    generate_shapes(root, num_train=8, num_val=2, num_test=2)
    return root


DATA_LINES = dict(
    type='CocoDataset',
    classes=CLASSES,
    **{
        split: dict(ann_file=f'annotations/instances_{split}.json', data_prefix=dict(img='VOC2007/JPEGImages/'))
        for split in ('train', 'val', 'test')
    },
)

CACHED = functools.cache(mmengine.fileio.load)


@pytest.fixture(autouse=True)
def read_metafiles_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """mmengine parses the hundred metafiles of mmdet for every config that it looks up."""
    monkeypatch.setattr(mmengine.config.utils, 'load', CACHED)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def counts(node: Any) -> list[int]:
    """Every ``num_classes`` below a head, but not of proposals."""
    if isinstance(node, dict):
        own = [value for key, value in node.items() if key == 'num_classes']
        return own + [n for key, value in node.items() if key != 'rpn_head' for n in counts(value)]
    return [n for item in node for n in counts(item)] if isinstance(node, (list, tuple)) else []


CASES = [(student, 'coco') for student in STUDENTS]
CASES += [(student, 'voc') for student in STUDENTS if any(x in student for x in ('faster', 'rtmdet', 'yolox', 'voc'))]


@pytest.mark.parametrize(('student', 'kind'), CASES)
def test_any_student_on_own_data(shapes, student, kind):
    data = shapes if kind == 'coco' else shapes / 'VOC2007'
    written = write_configs(student, RETINA_101, str(data), losses=['crg', 'PKDLoss'])
    cfg, before = Config.fromfile(written.distillation), read_config(student, '')
    assert [what for _, what, _ in written.files][1:] == ['the student alone', 'the teacher alone', 'the distillation']
    assert counts(cfg.model.student) == [6] * STUDENTS[student]
    assert [*cfg.model.losses] == ['crg', 'pkd']
    teacher = Config.fromfile(cfg.model.teacher.config)
    assert counts(teacher.model) == [6]
    assert cfg.model.teacher.checkpoint == f'work_dirs/{Path(cfg.model.teacher.config).stem}/epoch_24.pth'
    assert written.trains_teacher and written.commands()[0].split()[4] == cfg.model.teacher.config

    hooks = [hook['type'] for hook in before.get('custom_hooks') or []]
    assert [hook['type'] for hook in cfg.custom_hooks] == [*hooks, 'mmkd_graph.StudentExportHook']
    for hook in cfg.custom_hooks:
        HOOKS.build({key: value for key, value in hook.items() if key != 'priority'})
    assert cfg.train_cfg.max_epochs == before.train_cfg.max_epochs
    assert cfg.train_dataloader.batch_size == before.train_dataloader.batch_size

    for config in (cfg, teacher):
        for split, images in (('train', 8), ('val', 2), ('test', 2)):
            loader = config[f'{split}_dataloader']
            inner = [leaf for _, leaf in leaves(loader.dataset)]
            assert [leaf.type for leaf in inner] == ['CocoDataset' if kind == 'coco' else 'XMLDataset']
            assert inner[0].get('test_mode', False) == (split != 'train')
            built = DATASETS.build(ConfigDict(inner[0], serialize_data=False))
            assert {*built.metainfo['classes']} == {*CLASSES} and len(built) == images
            if split != 'train' and kind == 'voc':
                assert 'instances' in built[0]['data_samples'].metainfo_keys()
        evaluator = config.val_evaluator
        assert evaluator.type == 'CocoMetric' and evaluator.metric == 'bbox'
        file = f'{shapes}/annotations/instances_val.json' if kind == 'coco' else None
        assert evaluator.get('ann_file') == file


@pytest.mark.parametrize('student', [x for x in STUDENTS if 'yolox' in x or 'rtmdet' in x])
def test_mosaic_reads_own_images(shapes, student):
    written = write_configs(student, RETINA_101, str(shapes))
    cfg, before = Config.fromfile(written.distillation), read_config(student, '')
    built = DATASETS.build(ConfigDict(cfg.train_dataloader.dataset))
    kinds = [step['type'] for _, leaf in leaves(before.train_dataloader.dataset) for step in leaf.pipeline]
    assert [step['type'] for _, leaf in leaves(cfg.train_dataloader.dataset) for step in leaf.pipeline] == kinds
    assert built[0]['data_samples'].gt_instances.labels.max() < 6


def test_a_change_of_the_data_file_reaches_student_and_teacher(shapes):
    written = write_configs(RETINA, RETINA_101, str(shapes), out='mine/kd.py')
    data = written.files[0][0]
    text = data.read_text()
    data.write_text(text.replace(repr(str(shapes)), "'data/else'").replace(", 'checked_star'", ''))
    for config in (Config.fromfile(written.distillation), Config.fromfile(written.teacher)):
        assert config.train_dataloader.dataset.data_root == 'data/else'
        assert len(config.val_dataloader.dataset.metainfo.classes) == 5
        assert config.val_evaluator.ann_file == 'data/else/annotations/instances_val.json'
    assert counts(Config.fromfile(written.distillation).model.student) == [5]
    # which is refused from the folder, and works from the file that was changed
    with pytest.raises(FileExistsError, match=r'mine/shapes.py is there already, with other settings \(') as refused:
        write_configs(RETINA, RETINA_101, str(shapes), losses=['pkd'], out='mine/other.py')
    said = str(refused.value)
    assert f"(mine/shapes.py has own_root: 'data/else', not '{shapes}'; own_classes: (" in said
    assert said.endswith(')); accepted: --force, which overwrites, or another --out')
    assert not Path('mine/other.py').exists(), 'a part was written'
    again = write_configs(RETINA, RETINA_101, str(data), losses=['pkd'], out='mine/other.py')
    assert [(str(path), was_there) for path, _, was_there in again.files] == [
        ('mine/retinanet_r50_fpn_1x_shapes.py', True),
        ('mine/retinanet_r101_fpn_2x_shapes.py', True),
        ('mine/other.py', False),
    ]
    write_configs(RETINA, RETINA_101, str(shapes), out='mine/kd.py', force=True)
    assert data.read_text() == text


def test_files_that_are_read_are_not_written_over(shapes):
    Path('mine').mkdir()
    lines = [f'own_{name} = {value!r}' for name, value in DATA_LINES.items()]
    Path('mine/pets.py').write_text('\n'.join([*lines, f'own_root = {str(shapes)!r}', 'more = 1']))
    Path('mine/tiny_pets.py').write_text(f"_base_ = '{RETINA}'\n")
    written = write_configs(RETINA, RETINA, 'mine/pets.py', out='mine/kd.py', force=True)
    assert str(written.files[0][0]) == 'mine/pets_data.py' and 'more = 1' in Path('mine/pets.py').read_text()
    assert Config.fromfile(written.distillation).train_dataloader.dataset.data_root == str(shapes)
    Path('mine/retinanet_r50_fpn_1x_pets.py').rename('mine/tiny.py')
    for student, out in (('mine/tiny.py', 'mine/tiny.py'), ('mine/tiny_pets.py', 'mine/tiny_pets.py')):
        before = Path(student).read_text()
        with pytest.raises(ValueError, match=f'{out} would be written over, which is read here'):
            write_configs(student, RETINA, 'mine/pets_data.py', out=out, force=True)
        assert Path(student).read_text() == before


def test_without_data_the_published_teacher_is_used():
    written = write_configs(RETINA, RETINA_101)
    assert [str(path) for path, *_ in written.files] == ['configs/own/retinanet_r50_fpn_1x_coco_crg.py']
    cfg = Config.fromfile(written.distillation)
    assert cfg.model.teacher.config == RETINA_101 and 'retinanet_r101_fpn_2x_coco_' in cfg.model.teacher.checkpoint
    assert not written.trains_teacher
    assert cfg.model.student.bbox_head.num_classes == 80
    assert cfg.train_dataloader.dataset.ann_file == 'annotations/instances_train2017.json'


def test_own_checkpoint_leaves_the_teacher_alone(shapes, tmp_path):
    (tmp_path / 'best.pth').touch()
    written = write_configs(RETINA, RETINA_101, str(shapes), ['refilled'], teacher_checkpoint='best.pth')
    assert len(written.files) == 3  # data, student, distillation
    assert written.teacher == RETINA_101 and not written.trains_teacher
    assert Config.fromfile(written.distillation).model.losses.refilled.num_classes == 6


def test_local_configs_are_bases_too(shapes, tmp_path):
    Path('mine').mkdir()
    Path('mine/tiny.py').write_text(f"_base_ = '{RETINA}'\ntrain_cfg = dict(max_epochs=3)\n")
    written = write_configs('mine/tiny.py', 'mine/tiny.py', str(shapes))
    assert [what for _, what, _ in written.files][1:] == ['student and teacher alone', 'the distillation']
    assert written.checkpoint == 'work_dirs/tiny_shapes/epoch_3.pth'
    assert "_base_ = ['../../mine/tiny.py', './shapes.py']" in Path('configs/own/tiny_shapes.py').read_text()
    assert Config.fromfile(written.distillation).train_cfg.max_epochs == 3


@pytest.mark.parametrize('data', ['.', '../shapes', 'annotations/..'])
def test_the_folder_names_the_files_however_it_is_given(data, monkeypatch):
    root = Path('data/shapes')
    (root / 'annotations').mkdir(parents=True)
    monkeypatch.chdir(root)
    assert _name(SimpleNamespace(source=data)) == 'shapes'


def test_configs_of_this_package_and_paths_with_blanks(tmp_path):
    Path('best of all.pth').touch()
    names = [f'mmkd_graph::demo/retinanet_{one}_shapes.py' for one in ('student', 'teacher')]
    written = write_configs(*names, teacher_checkpoint='best of all.pth', out='my configs/kd.py')
    assert written.commands()[0] == "python -m mmkd_graph train 'my configs/kd.py'"
    with pytest.raises(ValueError, match=r'--teacher-checkpoint is missing: .* has no weights'):
        write_configs(*names)


def test_weights_that_are_missing_are_named_in_the_file_of_the_detector(shapes):
    Path('mine').mkdir()
    for role in ('student', 'teacher'):
        Path(f'mine/{role}.py').write_text(
            f"_base_ = 'mmkd_graph::demo/retinanet_{role}_shapes.py'\n"
            f"model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='{role}_backbone.pth')))\n"
        )
    written = write_configs('mine/student.py', 'mine/teacher.py', str(shapes))
    failures = [finding for finding in check_written(written, device='cpu') if finding.level == FAIL]
    assert [(one.key, one.place) for one in failures] == [
        ('model.backbone.init_cfg.checkpoint', 'configs/own/teacher_shapes.py'),
        ('model.backbone.init_cfg.checkpoint', 'configs/own/student_shapes.py'),
    ]
    for role, failure in zip(('teacher', 'student'), failures, strict=True):
        assert failure.found.startswith(f"'{role}_backbone.pth': no such file")
    for role in ('student', 'teacher'):
        torch.save(dict(state_dict={}, more=SimpleNamespace()), f'{role}_backbone.pth')
    failures = [finding for finding in check_written(written, device='cpu') if finding.level == FAIL]
    assert [one.place for one in failures] == ['configs/own/teacher_shapes.py', 'configs/own/student_shapes.py']
    assert all('can run code that is in it' in one.found for one in failures)


def test_masks(shapes, tmp_path):
    mask = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
    with pytest.raises(ValueError, match=r'STUDENT=.* is trained on masks \(train_dataloader.dataset.pipeline\[1\]\)'):
        write_configs(mask, RETINA_101, str(shapes))
    Path('masks/annotations').mkdir(parents=True)
    Path('masks/images').symlink_to(shapes / 'VOC2007/JPEGImages')
    for split in ('train', 'val'):
        content = json.loads((shapes / f'annotations/instances_{split}.json').read_text())
        for entry in content['annotations']:
            entry['segmentation'] = [[0, 0, 9, 0, 9, 9]]
        Path(f'masks/annotations/{split}.json').write_text(json.dumps(content))
    cfg = Config.fromfile(write_configs(mask, RETINA_101, 'masks').distillation)
    assert counts(cfg.model.student) == [6, 6] and cfg.val_evaluator.metric == ['bbox', 'segm']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (
            dict(student='mmdet::retinanet/retinanet_r50_fpn_1x_coc.py'),
            f"STUDENT='.*_1x_coc.py': mmdet has no such config; did you mean '{RETINA}'",
        ),
        (dict(teacher='retinanet_r50_fpn_1x_coco.py'), f"TEACHER=.*: no such file .*; did you mean '{RETINA}'"),
        (dict(teacher='what.py'), "no such file .*; accepted: a path, or 'mmdet::family/name.py'"),
        (dict(losses=['crk']), "'crk' is unknown; accepted: crg, .*; did you mean 'crg'"),
        (dict(out='kd'), r"--out: 'kd'; accepted: a name that ends in .py"),
        (dict(teacher_checkpoint='gone.pth'), "--teacher-checkpoint: there is no file 'gone.pth'"),
        (dict(teacher='mmdet::rpn/rpn_r50_fpn_1x_coco.py', data=True), 'TEACHER=.*which num_classes .* is not known'),
        (
            dict(student='mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py', data=True),
            'num_things_classes=80 cannot be',
        ),
        (dict(student='pure.py'), "STUDENT='pure.py' is a pure Python config"),
        (dict(student='open.py'), "STUDENT='open.py' could not be read: SyntaxError: "),
        (dict(student='kd.py'), "STUDENT='kd.py' is a distillation; accepted: the config of its student alone"),
        (dict(teacher='tagless.py', data=None), "TEACHER='tagless.py' does not say after how many epochs"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(shapes, arguments, message):
    Path('pure.py').write_text('from mmengine.config import read_base\nfrom torch import nn\nmodel = dict()\n')
    Path('open.py').write_text('model = dict(\n')
    Path('kd.py').write_text("model = dict(type='mmkd_graph.GraphDistiller')\n")
    Path('tagless.py').write_text("model = dict(type='RetinaNet')\n")
    if arguments.get('data'):
        arguments = {**arguments, 'data': str(shapes)}
    with pytest.raises((FileNotFoundError, ValueError), match=message) as error:
        write_configs(**{'student': RETINA, 'teacher': RETINA_101, **arguments})
    assert '\n' not in str(error.value) and not Path('configs').exists()

"""What ``tools/check.py`` says of good and bad configs; in one process, as most of a run is imports."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from conftest import import_tool
from mmdet.models import RetinaHead, RetinaNet
from mmdet.registry import MODELS
from mmengine.logging import MessageHub
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from mmkd_graph.checking import training
from mmkd_graph.datasets import CLASSES, generate_shapes
from mmkd_graph.distillers import FrozenTeacher
from mmkd_graph.engine.start import without_optional_parts
from mmkd_graph.losses import PyramidLoss
from mmkd_graph.testing import save_weights, tiny_retinanet

ROOT = Path(__file__).resolve().parents[2]

COMMON = """
default_scope = 'mmdet'
read = dict(type='LoadImageFromFile')
boxes = dict(type='LoadAnnotations', with_bbox=True)
small = dict(type='Resize', scale=(96, 64), keep_ratio=False)
pack = dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
pipelines = dict(train=[read, boxes, small, pack], val=[read, small, boxes, pack])
def loader(split):
    training = split == 'train'
    return dict(
        batch_size=2, num_workers=0, drop_last=False,
        sampler=dict(type='DefaultSampler', shuffle=training),
        dataset=dict(
            type='CocoDataset', data_root={data!r}, metainfo=dict(classes={classes!r}),
            ann_file=f'annotations/instances_{{split}}.json', data_prefix=dict(img='VOC2007/JPEGImages/'),
            test_mode=not training, pipeline=pipelines[split]))
train_dataloader, val_dataloader = loader('train'), loader('val')
val_evaluator = dict(type='CocoMetric', ann_file={data!r} + 'annotations/instances_val.json', metric='bbox')
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=10)
val_cfg = dict(type='ValLoop')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
randomness = dict(seed=0)
del loader, pipelines
"""


@MODELS.register_module(force=True)
class KnowingRetinaNet(RetinaNet):
    """Predicts the ground truth in the order of classes that its weights hold, of images that are normalised."""

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.register_buffer('order', torch.arange(len(CLASSES)))

    def predict(self, inputs: torch.Tensor, samples: list, rescale: bool = True) -> list:
        for sample in samples:
            truth = sample.gt_instances
            boxes = truth.bboxes.tensor if hasattr(truth.bboxes, 'tensor') else truth.bboxes
            boxes = boxes if inputs.abs().mean() < 5 else boxes[:0]
            labels = self.order[truth.labels[: len(boxes)]]
            sample.pred_instances = InstanceData(
                bboxes=boxes.clone(),
                labels=labels,
                scores=torch.full((len(boxes),), 0.9),
            )
        return samples


@pytest.fixture(scope='module')
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a teacher that knows everything, and the config of a distillation."""
    init_default_scope('mmdet')
    folder = tmp_path_factory.mktemp('check')
    generate_shapes(folder / 'data', seed=0, num_train=7, num_val=4, num_test=1, layouts=('coco',))
    common = COMMON.format(data=f'{folder / "data"}/', classes=tuple(CLASSES))
    teacher = tiny_retinanet(base_channels=16, fpn_channels=32, num_classes=len(CLASSES))
    for name, kind in (('teacher', 'KnowingRetinaNet'), ('plain', 'RetinaNet')):
        (folder / f'{name}.py').write_text(f'{common}\nmodel = {dict(teacher, type=kind)!r}\n')
    (folder / 'student.py').write_text(f'{common}\nmodel = {tiny_retinanet(num_classes=len(CLASSES))!r}\n')
    save(folder, 'teacher')
    torch.save(dict(state_dict=MODELS.build(teacher).state_dict()), folder / 'plain.pth')
    loss = dict(type='mmkd_graph.CRGLoss', loss_weight=0.1)
    for name in ('teacher', 'plain'):
        (folder / ('distilled.py' if name == 'teacher' else 'distilled_plain.py')).write_text(
            f"""_base_ = './student.py'
model = dict(
    _delete_=True,
    type='mmkd_graph.GraphDistiller',
    student={{{{_base_.model}}}},
    teacher=dict(config={str(folder / f'{name}.py')!r}, checkpoint={str(folder / f'{name}.pth')!r}),
    losses=dict(crg={loss!r}))
"""
        )
    return folder


def save(folder: Path, name: str, order: list[int] | None = None, classes: tuple[str, ...] | None = CLASSES) -> str:
    """A checkpoint of the teacher, with its own order of classes, and the names that it gives them."""
    model = tiny_retinanet(base_channels=16, fpn_channels=32, num_classes=len(CLASSES))
    path = folder / f'{name}.pth'
    save_weights(dict(model, type='KnowingRetinaNet'), path)
    content = torch.load(path)
    if order:
        content['state_dict']['order'] = torch.tensor(order)
    if classes:
        content['meta'] = dict(dataset_meta=dict(classes=tuple(classes)))
    torch.save(content, path)
    return str(path)


Check = Callable[..., tuple[int, str]]


@pytest.fixture
def check(job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path) -> Check:
    """Run the tool in an empty folder; returns exit code and output."""
    monkeypatch.chdir(tmp_path)

    def run(*options: str, config: str = 'distilled.py', **values: object) -> tuple[int, str]:
        settings = ['--cfg-options', *(f'{k}={v}' for k, v in values.items())] if values else []
        monkeypatch.setattr(sys, 'argv', ['check.py', str(job / config), '--device', 'cpu', *options, *settings])
        code = import_tool('check').main()
        output, told = capsys.readouterr()
        assert 'loading annotations' not in told, 'it would be among the lines on a terminal'
        return code, output

    return run


def lines(output: str, key: str) -> list[str]:
    return [line for line in output.splitlines() if line.split(' ', 1)[1:] and f' {key}:' in line]


def test_a_config_without_a_scope(check: Check) -> None:
    code, output = check('--batches', '1', default_scope=None)
    assert code == 0 and '0 FAIL' in output


def test_models_that_ask_where_the_training_is(check: Check, job: Path, tmp_path: Path) -> None:
    """As YOLOX, which resizes its batches every ten iterations."""
    MessageHub.get_current_instance().runtime_info.clear()  # what other tests of this process left
    resize = dict(type='BatchSyncRandomResize', random_size_range=(64, 96), size_divisor=32)
    (tmp_path / 'resizing.py').write_text(
        f"""_base_ = {str(job / 'distilled.py')!r}
model = dict(student=dict(data_preprocessor=dict(batch_augments=[{resize!r}])))
"""
    )
    code, output = check('--batches', '1', config=str(tmp_path / 'resizing.py'))
    assert code == 0 and lines(output, 'model.losses.crg')


def test_a_config_of_pure_python(check: Check, job: Path) -> None:
    """Types are classes that the config imports, and mmdet's base configs of that kind have no scope."""
    common = COMMON.format(data=f'{job / "data"}/', classes=tuple(CLASSES)).replace("scope = 'mmdet'", 'scope = None')
    for name in ('LoadImageFromFile', 'LoadAnnotations', 'Resize', 'PackDetInputs', 'CocoDataset', 'DefaultSampler'):
        common = common.replace(f"'{name}'", name)
    (job / 'pure_student.py').write_text(
        f"""from mmcv.transforms import LoadImageFromFile
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, Resize
from mmdet.models import RetinaNet
from mmengine.dataset import DefaultSampler
{common.replace("'CocoMetric'", "'mmdet.CocoMetric'")}
model = dict({dict(tiny_retinanet(num_classes=len(CLASSES)))!r}, type=RetinaNet)
"""
    )
    (job / 'pure.py').write_text(
        f"""from mmengine.config import read_base
with read_base():
    from .pure_student import *
from mmkd_graph.distillers import GraphDistiller
from mmkd_graph.losses import CRGLoss
model = dict(
    type=GraphDistiller,
    student=model,
    teacher=dict(config={str(job / 'teacher.py')!r}, checkpoint={str(job / 'teacher.pth')!r}),
    losses=dict(crg=dict(type=CRGLoss, loss_weight=0.1)))
"""
    )
    code, output = check('--batches', '1', config='pure.py')
    assert code == 0 and '0 FAIL' in output
    assert lines(output, 'model.losses.crg')


def test_a_good_config(check: Check, job: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    built = []
    initialise = FrozenTeacher.__init__
    monkeypatch.setattr(
        FrozenTeacher, '__init__', lambda *args, **more: (built.append(1), initialise(*args, **more))[0]
    )
    before = {path: path.stat().st_mtime_ns for path in job.rglob('*')}
    code, output = check('--gpus', '2')
    assert code == 0 and 'FAIL' not in output.splitlines()[-1].replace('0 FAIL', '')
    assert 'mAP 1.000 on 4 validation images' in output
    assert 'the 6 classes of the data in the same order (says its checkpoint)' in output
    assert 'strides 8, 16, 32, 64, 128 are paired, none skipped' in output
    assert 'adapters at 5 of 5 levels' in output
    (loss,) = lines(output, 'model.losses.crg')
    assert all(f'{term} ' in loss for term in ('vertex', 'edge', 'spectral')) and 'x task' in loss
    # 7 images on 2 processes: 4 each, in 2 batches of 2, 10 times
    assert '20 iterations on 2 processes' in output
    assert len(built) == 1, 'the teacher is built once'
    assert {path: path.stat().st_mtime_ns for path in job.rglob('*')} == before and not any(tmp_path.iterdir())


def test_json_says_the_same(check: Check) -> None:
    code, output = check('--json', '--batches', '1')
    content = json.loads(output)
    assert code == 0 and content['ok'] is True
    found = {finding['key']: finding for finding in content['findings']}
    assert found['model.losses.crg']['details']['values'].keys() == {'vertex', 'edge', 'spectral'}
    assert found['model.teacher']['details']['teacher'] == found['model.teacher']['details']['dataset'] == [*CLASSES]
    assert found['train_cfg']['details']['iterations'] == 40
    assert found['model.teacher.checkpoint']['details']['images'] == 2
    assert all({'level', 'key', 'found', 'advice', 'details', 'place'} == set(x) for x in content['findings'])


def test_a_teacher_with_its_classes_in_another_order(check: Check, job: Path, tmp_path: Path) -> None:
    order = [1, 2, 3, 4, 5, 0]
    code, output = check(**{'model.teacher.checkpoint': save(tmp_path, 'silent', order)})
    assert code == 1 and 'FAIL     model.teacher.checkpoint: the teacher reaches coco/bbox_mAP 0.000' in output
    assert 'finds 100% of the boxes and names 0% of these rightly' in output
    assert 'its classes are in another order' in output
    # one that gives all things the same name has no order
    code, output = check(**{'model.teacher.checkpoint': save(tmp_path, 'alike', [1] * 6)})
    (line,) = (x for x in lines(output, 'model.teacher.checkpoint') if not x.startswith('ok'))
    assert code == 1 and 'of these rightly; is it the checkpoint of this config' in line
    # where the checkpoint says so, its labels are understood, and only the order is told
    moved = [CLASSES[order.index(i)] for i in range(len(CLASSES))]
    code, output = check(**{'model.teacher.checkpoint': save(tmp_path, 'open', order, moved)})
    assert code == 0 and 'mAP 1.000' in output
    (line,) = lines(output, 'model.teacher')
    assert line.startswith('warning') and f'0 is {moved[0]}, in the data {CLASSES[0]}' in line
    assert sum(line.startswith('differs') for line in output.splitlines()) == len(CLASSES)


def test_weights_that_are_not_the_teachers(check: Check, job: Path) -> None:
    code, output = check(config='distilled_plain.py')  # untrained
    assert code == 1 and 'FAIL     model.teacher.checkpoint: the teacher reaches' in output
    assert 'is it the checkpoint of this config' in output
    other = save_weights(tiny_retinanet(num_classes=6), job / 'narrow.pth')
    code, output = check(**{'model.teacher.checkpoint': other})
    assert code == 1 and len(lines(output, 'model.teacher.checkpoint')) == 1
    assert 'FAIL     model.teacher.checkpoint: ' in output and 'other shape' in output
    code, output = check(**{'model.teacher.checkpoint': other, 'model.teacher.strict': False})
    assert code == 1 and '0% of the values of backbone and neck would be loaded' in output
    three = tiny_retinanet(base_channels=16, fpn_channels=32, num_classes=3)
    other = save_weights(three, job / 'three.pth')
    code, output = check(**{'model.teacher.checkpoint': other, 'model.teacher.strict': False})
    assert any(line.startswith('warning') and 'does not match' in line for line in output.splitlines())


def test_missing_weights_fail_and_the_rest_is_looked_at(
    check: Check, job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise URLError(OSError(-2, 'Name or service not known'))

    monkeypatch.setattr('torch.hub.urlopen', refuse)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    url = 'https://weights.example/backbone.pth'
    options = {
        'model.teacher.checkpoint': job / 'iter_9.pth',
        'model.student.backbone.init_cfg.type': 'Pretrained',
        'model.student.backbone.init_cfg.checkpoint': url,
    }
    code, output = check('--batches', '1', **options)
    failures = [line for line in output.splitlines() if line.startswith('FAIL')]
    assert code == 1 and len(failures) == 2
    assert failures[0].startswith(f"FAIL     model.teacher.checkpoint: '{job}/iter_9.pth': no such file")
    assert f'; there is: {newest(job)}; to train it: python' in failures[0]
    assert f'train {job}/teacher.py' in failures[0].replace('train.py', 'train')
    assert failures[1].startswith(f"FAIL     model.student.backbone.init_cfg.checkpoint: '{url}': no connection to wei")
    assert all(line.endswith('looked at with random weights in their place') for line in failures)
    for key in ('model.taps', 'model.teacher', 'train_dataloader.dataset', 'train_cfg'):
        assert lines(output, key), f'{key} was not looked at'
    assert not lines(output, 'model.losses.crg') and 'untrained' not in output and 'mAP' not in output
    # the training says the same of the first
    run = [str(job / 'distilled.py'), '--work-dir', str(tmp_path / 'run'), '--cfg-options']
    for name in ('model.teacher.checkpoint', 'model.student.backbone.init_cfg.checkpoint'):
        given = [f'{k}={v}' for k, v in options.items() if name.split('.')[1] == k.split('.')[1]]
        monkeypatch.setattr(sys, 'argv', ['train.py', *run, *given])
        with pytest.raises(SystemExit) as stopped:
            import_tool('train').main()
        told = [x for x in capsys.readouterr().err.splitlines() if x.startswith('train.py: error: ')]
        assert stopped.value.code == 2 and len(told) == 1 and told[0].startswith(f'train.py: error: {name}=')


def newest(folder: Path) -> str:
    return max(folder.glob('*.pth'), key=lambda path: path.stat().st_mtime).name


def test_a_teacher_that_is_shown_images_as_it_never_saw_them(check: Check, job: Path, tmp_path: Path) -> None:
    wrong = tmp_path / 'wrong.py'
    wrong.write_text(
        f'_base_ = {str(job / "teacher.py")!r}\nmodel = dict(data_preprocessor=dict(mean=[0, 0, 0], std=[1, 1, 1]))\n'
    )
    code, output = check(**{'model.teacher.config': wrong})
    (line,) = (line for line in lines(output, 'model.teacher.checkpoint') if not line.startswith('ok'))
    assert code == 1 and line.startswith('FAIL')
    assert 'normalised by the mean and std of ImageNet, RGB, 1.000 instead of 0.000 on 4 of them' in line
    assert "teacher.config's data_preprocessor is not what it was trained with" in line


def test_other_classes(check: Check, tmp_path: Path) -> None:
    names = (*CLASSES[:4], 'cat', 'dog')
    other = save(tmp_path, 'pets', classes=names)
    code, output = check(**{'model.teacher.checkpoint': other})
    (line,) = lines(output, 'model.teacher')
    assert code == 0 and line.startswith('warning') and '4 in common' in line and 'it alone has cat, dog' in line
    assert 'of 6 classes it knows 4' in output

    code, output = check(**{'model.student.bbox_head.num_classes': 3})
    assert code == 1 and 'FAIL     model.student.bbox_head.num_classes: bbox_head has 3 classes' in output
    code, output = check(**{'val_dataloader.dataset.metainfo.classes': ','.join(reversed(CLASSES))})
    assert code == 1 and any(
        line.startswith('FAIL') for line in lines(output, 'val_dataloader.dataset.metainfo.classes')
    )


def test_data_that_is_not_there(check: Check, job: Path) -> None:
    code, output = check(**{'train_dataloader.dataset.data_root': '/nowhere/'})
    assert code == 1 and 'FAIL     train_dataloader.dataset.data_root: /nowhere/: there is no such folder' in output
    assert 'all 145 weights of the teacher' in output, 'the model is looked at all the same'
    code, output = check('--batches', '1', **{'train_dataloader.sampler.type': 'InfiniteSampler'})
    assert code == 1 and 'its first epoch never ends' in output
    code, output = check(**{'val_dataloader.dataset.ann_file': 'annotations/instances_none.json'})
    assert code == 1 and 'FAIL     val_dataloader.dataset.ann_file' in output


@MODELS.register_module(force=True)
class OwnLoss(PyramidLoss):
    """A loss as its author got it wrong."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, student: tuple, teacher: tuple, context: Any) -> Any:
        if self.kind == 'raises':
            return student[0] @ teacher[-1]
        return dict(tensor=student[0].mean(), map=dict(mse=student[0] - teacher[0]))[self.kind]


def test_own_losses_that_do_not_work(check: Check, caplog: pytest.LogCaptureFixture) -> None:
    """Each is a finding, and what there is to say of the others is said."""
    own = {f'model.losses.{kind}.{k}': v for kind in WRONG for k, v in (('type', 'OwnLoss'), ('kind', kind))}
    code, output = check('--batches', '1', '--traceback', **own)
    assert code == 1
    for kind, words in WRONG.items():
        (line,) = lines(output, f'model.losses.{kind}')
        assert line.startswith('FAIL') and words in line
    (line,) = lines(output, 'model.losses.crg')
    assert not line.startswith('FAIL') and 'spectral' in line
    assert any(line.startswith('ok') for line in lines(output, 'model.student'))
    assert 'return student[0] @ teacher[-1]' in caplog.text, 'where it was raised is in none of the tracebacks'


WRONG = dict(
    tensor='forward returned a tensor of shape (); accepted: named scalar tensors',
    map="forward returned 'mse': a tensor of shape (2, 32, ",
    raises='RuntimeError: ',
)


def test_a_part_that_cannot_be_looked_at_does_not_end_the_check(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> list:
        raise AttributeError('no such thing')

    monkeypatch.setattr(training, 'check_classes', broken)
    monkeypatch.setattr(RetinaHead, 'loss_by_feat', broken)
    code, output = check('--batches', '1')
    assert code == 1
    for key in ('model.teacher', 'model.student'):
        assert f'FAIL     {key}: AttributeError: no such thing' in output
    assert 'all 145 weights of the teacher' in output and 'mAP' in output


def test_slips_are_one_line_in_check_and_train(
    check: Check, job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    train = import_tool('train')
    for option, words in (
        ('model.losses.crg.window=0', 'got 0, accepted is an integer >= 1'),
        ('model.student.backbone.depht=18', "unexpected keyword argument 'depht' (did you mean 'depth'?)"),
    ):
        key, _, value = option.partition('=')
        code, output = check(**{key: value})
        (line,) = lines(output, key)
        assert code == 1 and line.startswith('FAIL') and words in line
        run = [str(job / 'distilled.py'), '--work-dir', str(tmp_path / 'run'), '--cfg-options', option]
        monkeypatch.setattr(sys, 'argv', ['train.py', *run])
        with pytest.raises(SystemExit) as stopped:
            train.main()
        assert stopped.value.code == 2
        (line,) = (x for x in capsys.readouterr().err.splitlines() if x.startswith('train.py: error: '))
        assert line.startswith(f'train.py: error: {key}: ') and words in line and '--traceback' in line
        monkeypatch.setattr(sys, 'argv', ['train.py', *run, '--traceback'])
        with pytest.raises(ValueError, match=r'^model\.'):
            train.main()


def test_a_second_base_with_data_is_told_the_way(
    check: Check, job: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / 'two.py').write_text(f'_base_ = [{str(job / "student.py")!r}, {str(job / "teacher.py")!r}]')
    with pytest.raises(SystemExit):
        check(config=str(tmp_path / 'two.py'))
    told = capsys.readouterr().err
    assert 'Duplicate key' in told and 'write the other file' in told and 'docs/own_data.md' in told


def test_imports_leave_out_what_nobody_needs(capsys: pytest.CaptureFixture) -> None:
    with without_optional_parts():
        print('Could not import OneDL. Skipping OneDL datasets.')
        print('no licence')
    assert capsys.readouterr().out == 'no licence\n'


def test_nothing_but_json_is_printed(job: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / 'tools/check.py'), str(job / 'distilled_plain.py'), '--json', '--cfg-options']
    done = subprocess.run(
        [*command, 'train_dataloader.dataset.data_root=/nowhere/'],
        capture_output=True,
        text=True,
        timeout=200,
        cwd=ROOT,
    )
    assert done.returncode == 1 and json.loads(done.stdout)['ok'] is False
    for words in ('Traceback', 'OneDL', 'faster_coco_eval', 'loading annotations', 'index created'):
        assert words not in done.stderr


def test_train_stops_with_the_same_words(
    check: Check, job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    content = torch.load(job / 'plain.pth')
    torch.save(dict(content, meta=dict(CLASSES=('a', 'b', 'c', 'd', 'e', 'f'))), tmp_path / 'letters.pth')
    option = {'model.teacher.checkpoint': tmp_path / 'letters.pth', 'train_cfg.max_epochs': 1}
    option['model.init_student'] = 'teacher'
    _, output = check('--batches', '1', config='distilled_plain.py', **option)
    (line,) = lines(output, 'model.teacher')
    assert line.startswith('FAIL') and '0 in common' in line
    train = import_tool('train')
    run = [str(job / 'distilled_plain.py'), '--work-dir', str(tmp_path / 'run')]
    run += ['--cfg-options', *(f'{k}={v}' for k, v in option.items())]
    monkeypatch.setattr(sys, 'argv', ['train.py', *run])
    with pytest.raises(SystemExit) as stopped:
        train.main()
    told = capsys.readouterr().err
    assert stopped.value.code == 1 and f'train.py: {" ".join(line.split())}' in told and '--no-check' in told
    (log,) = (tmp_path / 'run').glob('*/*.log')
    assert line in log.read_text()
    assert not list((tmp_path / 'run').glob('*.pth'))
    monkeypatch.setattr(sys, 'argv', ['train.py', *run, '--no-check'])
    train.main()
    assert list((tmp_path / 'run').glob('epoch_1.pth'))
    told = ''.join(path.read_text() for path in (tmp_path / 'run').glob('*/*.log'))
    assert 'Saving checkpoint' in told and 'will be deprecated' not in told

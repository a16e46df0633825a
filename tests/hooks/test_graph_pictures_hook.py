"""The hook leaves pictures and numbers, and no trace in the training."""

import json
import random
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.distributed
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.hooks import EMAHook
from mmengine.model import BaseDataPreprocessor, BaseModel, MMDistributedDataParallel
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from mmengine.visualization import BaseVisBackend, Visualizer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mmkd_graph.hooks import GraphPicturesHook
from mmkd_graph.registry import HOOKS

# What is drawn is tested in tests/visualization; here most tests look at the numbers and need no pixels.
quickly = pytest.mark.usefixtures('without_pixels')
PICTURES = ('affinity.png', 'losses.png', 'spectra.png')


SAMPLE = BaseDataElement(metainfo={'img_shape': (64, 64)})
"""Of every image: 8 × 8 cells of stride 8."""


class NoisyImages(Dataset):
    """Eight images whose pipeline draws from every generator there is."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = torch.linspace(0, index + 1, 3 * 8 * 8).sin().reshape(3, 8, 8)
        noise = random.random() + np.random.rand() + torch.rand(3, 8, 8)
        return {'inputs': image + 0.1 * noise, 'data_samples': SAMPLE}


class Preprocessor(BaseDataPreprocessor):
    """Stacks the images."""

    def forward(self, data: dict, training: bool = False) -> dict:
        data = self.cast_data(data)
        return {'inputs': torch.stack(data['inputs']), 'data_samples': data['data_samples']}


class Detector(BaseModel):
    """A convolution with BatchNorm and dropout, and two losses: anything a hook could disturb."""

    def __init__(self) -> None:
        super().__init__(data_preprocessor=Preprocessor())
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Dropout(0.2))

    def forward(self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor') -> Any:
        features = self.body(inputs)
        if mode == 'loss':
            return {'loss_cls': features.square().mean(), 'acc': features.detach().mean()}
        return features


class Distiller(Detector):
    """A detector that offers pyramids of two levels, as ``GraphDistiller`` does."""

    strides = (8, 16)

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, 'teacher', nn.Conv2d(3, 6, 3, padding=1).requires_grad_(False))
        self.asked = 0

    def forward(self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor') -> Any:
        outputs = super().forward(inputs, data_samples, mode)
        if mode == 'loss':
            distance = (self.body(inputs) - self.teacher(inputs)).square().mean()
            outputs['loss_kd.crg.vertex'] = 3 * distance
        return outputs

    def compared_features(self, inputs: Tensor, data_samples: list) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        self.asked += 1
        training = self.training
        self.eval()
        student, teacher = self.body(inputs), self.teacher(inputs)
        self.train(training)
        pool = nn.functional.avg_pool2d
        return (student, pool(student, 2)), (teacher, pool(teacher, 2))


@pytest.fixture
def without_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    pixel = cv2.imencode('.png', np.zeros((1, 1, 3), np.uint8))[1].tobytes()
    monkeypatch.setattr(Figure, 'savefig', lambda figure, path: Path(path).write_bytes(pixel))


def train(work_dir: Path, hooks: list, model: type[Detector] = Distiller, iters: int = 12, **options: Any) -> Runner:
    torch.manual_seed(0)
    detector = model()
    loader = {
        'dataset': NoisyImages(),
        'sampler': {'type': 'InfiniteSampler', 'shuffle': True},
        'collate_fn': {'type': 'pseudo_collate'},
        'batch_size': 2,
        'num_workers': 0,
    }
    runner = Runner(
        model=detector,
        work_dir=str(work_dir),
        train_dataloader=loader,
        train_cfg={'type': 'IterBasedTrainLoop', 'max_iters': iters},
        optim_wrapper={'optimizer': {'type': 'SGD', 'lr': 0.05, 'momentum': 0.9}},
        default_hooks={'checkpoint': {'type': 'CheckpointHook', 'interval': 6, 'by_epoch': False}},
        custom_hooks=hooks,
        randomness={'seed': 3},
        log_level='WARNING',
        experiment_name=uuid.uuid4().hex,
        default_scope='mmengine',
        **options,
    )
    runner.train()
    return runner


def weights(runner: Runner) -> dict[str, Tensor]:
    return runner.model.state_dict()


def history(work_dir: Path) -> dict[str, list]:
    return json.loads((work_dir / 'pictures/losses.json').read_text())


def test_pictures_and_numbers_are_left(tmp_path):
    runner = train(tmp_path, [GraphPicturesHook(interval=5, num_images=3)])
    folder = tmp_path / 'pictures'
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        (*PICTURES, 'before.npz', 'after.npz', 'losses.json')
    )
    assert all((folder / name).read_bytes().startswith(b'\x89PNG') for name in PICTURES)
    curves = history(tmp_path)
    assert set(curves) == {'loss', 'loss_cls', 'acc', 'loss_kd.crg.vertex'}
    assert all([int(x) for x, _ in points] == [1, 5, 10] for points in curves.values())
    before, after = (np.load(folder / f'{name}.npz') for name in ('before', 'after'))
    assert (int(before['iteration']), int(after['iteration'])) == (0, 12)
    assert (int(before['stride']), int(before['num_images'])) == (8, 3)
    np.testing.assert_array_equal(before['teacher'], after['teacher'])
    assert np.abs(before['student'] - after['student']).max() > 1e-3
    assert runner.model.asked == 2


@quickly
def test_level_counts_from_the_end_too(tmp_path):
    train(tmp_path, [GraphPicturesHook(level=-1)], iters=1)
    assert int(np.load(tmp_path / 'pictures/before.npz')['stride']) == 16


@quickly
@pytest.mark.parametrize('ema', [False, True])
def test_training_is_the_same_to_the_last_bit_with_and_without(tmp_path, ema):
    others = [{'type': 'EMAHook'}] if ema else []
    plain = weights(train(tmp_path / 'without', others))
    seen = weights(train(tmp_path / 'with', [*others, GraphPicturesHook(picture_interval=5)]))
    assert plain.keys() == seen.keys()
    assert all(torch.equal(plain[name], seen[name]) for name in plain)


@quickly
def test_after_shows_the_averaged_weights(tmp_path):
    runner = train(tmp_path, [{'type': 'EMAHook', 'momentum': 0.3}, GraphPicturesHook()])
    (ema,) = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
    hook = GraphPicturesHook()
    current = hook._graphs(runner).student
    runner.model.load_state_dict(ema.ema_model.module.state_dict())
    averaged = hook._graphs(runner).student
    drawn = np.load(tmp_path / 'pictures/after.npz')['student']
    assert np.abs(current - averaged).max() > 1e-5
    np.testing.assert_allclose(drawn, averaged, atol=1e-6)


@quickly
def test_a_resumed_run_keeps_before_and_goes_on_with_the_curves(tmp_path):
    train(tmp_path / 'whole', [GraphPicturesHook(interval=2)])
    train(tmp_path / 'parts', [GraphPicturesHook(interval=2)], iters=6)
    # An iteration after the last checkpoint that an interruption would have lost:
    path = tmp_path / 'parts/pictures/losses.json'
    path.write_text(json.dumps({**history(tmp_path / 'parts'), 'loss': [[1, 9.0], [2, 9.0], [8, 9.0]]}))
    train(tmp_path / 'parts', [GraphPicturesHook(interval=2)], resume=True)
    before = [np.load(tmp_path / part / 'pictures/before.npz') for part in ('whole', 'parts')]
    np.testing.assert_array_equal(before[0]['student'], before[1]['student'])
    assert int(before[1]['iteration']) == 0
    assert int(np.load(tmp_path / 'parts/pictures/after.npz')['iteration']) == 12
    curves = history(tmp_path / 'parts')
    assert [int(x) for x, _ in curves['loss_cls']] == [1, 2, 4, 6, 8, 10, 12]
    assert [int(x) for x, _ in curves['loss']] == [1, 2, 8, 10, 12]
    assert curves['loss'][2][1] != 9.0
    assert curves['loss_cls'][:4] == history(tmp_path / 'whole')['loss_cls'][:4]


@quickly
def test_a_new_run_in_an_old_folder_starts_anew(tmp_path):
    train(tmp_path, [GraphPicturesHook(level=1)], iters=2)
    train(tmp_path, [GraphPicturesHook(level=0)], iters=1)
    assert int(np.load(tmp_path / 'pictures/before.npz')['stride']) == 8
    assert len(history(tmp_path)['loss']) == 1


@quickly
def test_a_resumed_run_with_another_level_takes_a_new_before(tmp_path):
    train(tmp_path, [GraphPicturesHook(level=1)], iters=6)
    train(tmp_path, [GraphPicturesHook(level=0)], resume=True)
    before = np.load(tmp_path / 'pictures/before.npz')
    assert (int(before['stride']), int(before['iteration'])) == (8, 6)


def test_a_plain_detector_gets_its_losses_only(tmp_path):
    train(tmp_path, [GraphPicturesHook()], model=Detector)
    assert sorted(path.name for path in (tmp_path / 'pictures').iterdir()) == ['losses.json', 'losses.png']


@quickly
def test_features_that_are_not_finite_do_not_stop_the_run(tmp_path):
    class Diverging(Distiller):
        def compared_features(self, inputs, data_samples):
            student, teacher = super().compared_features(inputs, data_samples)
            return tuple(level / 0 if self.asked > 1 else level for level in student), teacher

    train(tmp_path, [GraphPicturesHook()], model=Diverging, iters=1)
    assert (tmp_path / 'pictures/losses.png').exists()
    assert not (tmp_path / 'pictures/affinity.png').exists()


class Unequal(Distiller):
    """Its teacher has another width."""

    forward = Detector.forward

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, 'teacher', nn.Conv2d(3, 4, 3, padding=1))


@quickly
def test_graphs_of_different_widths_are_saved_and_not_drawn(tmp_path):
    train(tmp_path, [GraphPicturesHook(interval=1)], Unequal)
    assert {path.name for path in (tmp_path / 'pictures').glob('*.png')} == {'losses.png'}
    with np.load(tmp_path / 'pictures/after.npz') as archive:
        assert archive['student'].shape == (6, 6) and archive['teacher'].shape == (4, 4)


def test_wrong_arguments_are_named(tmp_path):
    with pytest.raises(ValueError, match='num_images must be at least 1, got 0'):
        GraphPicturesHook(num_images=0)
    with pytest.raises(ValueError, match='interval must be at least 1, got -5'):
        GraphPicturesHook(interval=-5)
    with pytest.raises(ValueError, match='picture_interval must be at least 1, got 0'):
        GraphPicturesHook(picture_interval=0)
    with pytest.raises(ValueError, match=r'level=2, but student and teacher share 2 levels, of strides \(8, 16\)'):
        train(tmp_path, [GraphPicturesHook(level=2)], iters=1)


def test_a_config_line_builds_it():
    assert isinstance(HOOKS.build({'type': 'mmkd_graph.GraphPicturesHook', 'level': 1}), GraphPicturesHook)
    assert Config.fromfile('configs/_base_/pictures.py').custom_hooks[0].type == 'mmkd_graph.GraphPicturesHook'


@pytest.fixture
def process_group() -> Iterator[None]:
    torch.distributed.init_process_group('gloo', store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@quickly
def test_the_model_may_be_wrapped_for_distributed_training(tmp_path, process_group):
    model = Distiller()
    loader = DataLoader(NoisyImages(), batch_size=2, collate_fn=pseudo_collate)
    runner = SimpleNamespace(
        model=MMDistributedDataParallel(model),
        iter=0,
        work_dir=str(tmp_path),
        hooks=[],
        val_loop=None,
        train_dataloader=loader,
        visualizer=Visualizer(),
    )
    modes = [module.training for module in model.modules()]
    hook = GraphPicturesHook(num_images=2)
    hook.before_train(runner)
    hook.after_train_iter(runner, 0, outputs={'loss': torch.tensor(1.5), 'names': 'x', 'many': torch.ones(3)})
    hook.after_train(runner)
    assert history(tmp_path) == {'loss': [[1, 1.5]]}
    assert modes == [module.training for module in model.modules()]
    before = np.load(tmp_path / 'pictures/before.npz')
    assert before['student'].shape == (6, 6)


@quickly
def test_a_before_of_another_version_counts_as_missing(tmp_path):
    train(tmp_path, [GraphPicturesHook()], iters=6)
    path = tmp_path / 'pictures/before.npz'
    with np.load(path) as archive:
        np.savez(path, **{name: archive[name] for name in archive.files if not name.endswith('_spectrum')})
    train(tmp_path, [GraphPicturesHook()], resume=True)
    before = np.load(path)
    assert int(before['iteration']) == 6 and 'student_spectrum' in before.files


def test_graphs_are_means_over_the_windows_that_hold_cells_of_the_probe_images(tmp_path):
    height = 40  # of 64 pixels: 5 of 8 rows of cells

    class Fixed(NoisyImages):
        def __getitem__(self, index: int) -> dict[str, Any]:
            sample = BaseDataElement(metainfo={'img_shape': (height if index else 24, 64)})
            return {'inputs': torch.linspace(0, index + 1, 192).sin().reshape(3, 8, 8), 'data_samples': sample}

    model = Distiller().eval()
    loader = DataLoader(Fixed(), collate_fn=pseudo_collate)
    runner = SimpleNamespace(model=model, iter=0, val_loop=object(), val_dataloader=loader)
    graphs = GraphPicturesHook(num_images=2)._graphs(runner)
    with torch.no_grad():
        features = model.teacher(torch.stack([Fixed()[index]['inputs'] for index in range(2)])).double().numpy()
    parts = [features[0][:, :3, :4], features[0][:, :3, 4:], features[1][:, :4, :4], features[1][:, :4, 4:]]
    parts += [features[1][:, 4:5, :4], features[1][:, 4:5, 4:]]
    affinities, spectra = [], []
    for part in parts:
        rows = part.reshape(6, -1)
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        affinities.append(rows @ rows.T)
        weights = (1 + affinities[-1]) / 2
        root = np.sqrt(weights.sum(1))
        spectra.append(np.linalg.eigvalsh(np.eye(6) - weights / root[:, None] / root))
    np.testing.assert_allclose(graphs.teacher, np.mean(affinities, axis=0), atol=1e-5)
    np.testing.assert_allclose(graphs.teacher_spectrum, np.mean(spectra, axis=0), atol=1e-5)


class Seen(BaseVisBackend):
    """Keeps the images it is given."""

    def __init__(self) -> None:
        super().__init__('')
        self.images: list[tuple[str, int, np.ndarray]] = []

    experiment = property(lambda self: self)

    def _init_env(self) -> None:
        pass

    def add_image(self, name: str, image: np.ndarray, step: int = 0, **others: Any) -> None:
        self.images.append((name, step, image))


def test_pictures_go_to_the_visualizer_during_training_as_rgb(tmp_path):
    seen = Seen()
    visualizer = Visualizer(name=uuid.uuid4().hex, vis_backends=[seen])
    train(tmp_path, [GraphPicturesHook(picture_interval=1)], iters=2, visualizer=visualizer)
    assert [(name, step) for name, step, _ in seen.images] == [
        (f'graph_{name}', step) for step in (1, 2) for name in ('affinity', 'spectra')
    ]
    for name, _, image in seen.images[2:]:
        path = tmp_path / 'pictures' / f'{name.removeprefix("graph_")}.png'
        assert image.dtype == np.uint8 and image.shape[2] == 3
        assert np.array_equal(image, cv2.imread(str(path))[..., ::-1])
    assert int(np.load(tmp_path / 'pictures/after.npz')['iteration']) == 2


@quickly
def test_local_files_of_the_visualizer_keep_every_picture(tmp_path):
    train(tmp_path, [GraphPicturesHook(picture_interval=5)])
    (folder,) = tmp_path.glob('*/vis_data/vis_image')
    steps = [5, 10, 12]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f'graph_{name}_{step}.png' for name in ('affinity', 'spectra') for step in steps
    )

"""The page of a distillation: what it shows, what it says is missing, and that a browser shows all of it."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import SHAPES_RUN, import_tool
from jobs import run
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmkd_graph.datasets import CLASSES, generate_shapes
from mmkd_graph.hooks.tensorboard_layout_hook import layout
from mmkd_graph.testing import save_weights, tiny_retinanet

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)

TRAINING = """
val_dataloader = test_dataloader
val_evaluator = test_evaluator
val_cfg = dict(type='ValLoop')
train_cfg = dict(type='IterBasedTrainLoop', max_iters=2, val_interval=1)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=1),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2))
model = {model!r}
"""


@pytest.fixture(scope='module')
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work dirs of a distillation of two iterations, and of a student and a teacher as trainings would leave them."""
    init_default_scope('mmdet')
    folder = tmp_path_factory.mktemp('report')
    generate_shapes(folder / 'data', seed=0, num_train=4, num_val=1, num_test=3)
    common = SHAPES_RUN.format(data=f'{folder / "data"}/', classes=tuple(CLASSES))
    models = {
        'student': tiny_retinanet(num_classes=len(CLASSES)),
        'teacher': tiny_retinanet(base_channels=16, num_classes=len(CLASSES)),
    }
    # as YOLOX has it: it asks at which iteration the training is
    resize = dict(type='BatchSyncRandomResize', random_size_range=(64, 128), interval=10)
    models['student']['data_preprocessor'].update(batch_augments=[resize])
    rows = [dict(loss=2.0, iter=1, step=1), {'coco/bbox_mAP': 0.25, 'coco/bbox_mAP_50': 0.5, 'step': 0}]
    for name, model in models.items():
        model['test_cfg'].update(score_thr=0.0)  # untrained: scores are low
        log = folder / name / '1' / 'vis_data' / 'scalars.json'
        log.parent.mkdir(parents=True)
        log.write_text(''.join(json.dumps(row) + '\n' for row in rows))
        log.with_name('config.py').write_text(common + TRAINING.format(model=model))
        save_weights(model, folder / name / 'iter_2.pth')
    backends = ['LocalVisBackend', 'TensorboardVisBackend']
    config = folder / 'distilled.py'
    config.write_text(
        f"""_base_ = {str(folder / 'student/1/vis_data/config.py')!r}
model = dict(
    _delete_=True,
    type='mmkd_graph.GraphDistiller',
    student={{{{_base_.model}}}},
    teacher=dict(
        config={str(folder / 'teacher/1/vis_data/config.py')!r}, checkpoint={str(folder / 'teacher/iter_2.pth')!r}),
    losses=dict(
        crg=dict(type='mmkd_graph.CRGLoss', loss_weight=dict(type='mmkd_graph.GradientRatio', ratio=2, iterations=1)),
        pkd=dict(type='mmkd_graph.PKDLoss', loss_weight=0)))
custom_hooks = [dict(type='mmkd_graph.GraphPicturesHook', interval=1, picture_interval=1)]
log_processor = dict(
    custom_cfg=[
        dict(data_src='loss_kd.crg.vertex', log_name='loss_kd.crg/vertex', method_name='mean', window_size=50)])
visualizer = dict(
    type='DetLocalVisualizer', name='visualizer', vis_backends=[dict(type=name) for name in {backends}])
"""
    )
    run('train.py', config, '--work-dir', folder / 'distilled', log=folder / 'train.log')
    return folder


class Links(html.parser.HTMLParser):
    """Everything that a page refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.found += [(tag, value) for name, value in attrs if name in ('src', 'href', 'srcset', 'action', 'data')]
        assert tag not in ('script', 'iframe', 'object')


@pytest.fixture(scope='module')
def page(work: Path) -> Path:
    out = work / 'report.html'
    folders = [str(work / name) for name in ('distilled', 'student', 'teacher')]
    assert import_tool('analysis/report').main([*folders, '--out', str(out), '--device', 'cpu']) == 0
    return out


def visible(text: str) -> str:
    """The words of a page, without its tags."""
    return re.sub(r'\s+', ' ', re.sub(r'<[^>]+>', ' ', text[text.index('<body>') :]))


def test_the_page_shows_everything_and_loads_nothing(work, page):
    text = page.read_text()
    words = visible(text)
    missing = re.findall('class="missing">([^<]*)<', text)
    assert len(missing) == 3 and all(
        re.match(r'No detection of the .* above 0.3; the highest was 0\.[012]', x) for x in missing
    )
    pictures = [source for tag, source in Links(text).found if tag == 'img']
    # metrics, losses, measured and final gradient shares, two of graphs, gains, and three images four times
    assert len(pictures) == 7 + 3 * 4 and all(source.startswith('data:image/') for source in pictures)
    others = [link for tag, link in Links(text).found if tag != 'img']
    assert all(link.startswith('#') or link == 'data:,' for link in others)
    for part in ('ground truth (', 'teacher: ', 'student alone: ', 'distilled student: ', 'IoU is at least 0.5'):
        assert part in words
    for key in ('model.losses.crg.loss_weight.ratio', 'model.losses.pkd.type', 'custom_hooks.GraphPicturesHook.type'):
        assert key in words
    assert 'model.backbone' not in words and 'optim_wrapper' not in words, 'these are the same in both configs'
    assert words.count('python tools/analysis/report.py') == 1 and 'torch 2.' in words
    assert page.stat().st_size < 5e6


def test_accuracies_are_those_of_the_validation(work, page, capsys):
    rows = [json.loads(x) for x in next((work / 'distilled').glob('*/vis_data/scalars.json')).read_text().splitlines()]
    logged = [row['coco/bbox_mAP'] for row in rows if 'coco/bbox_mAP' in row]
    assert len(logged) == 2
    table = re.search(r'<td>distilled student</td><td class="n">([\d.]+)</td>', page.read_text())
    assert float(table[1]) == pytest.approx(100 * logged[-1], abs=0.051)


def test_a_distillation_alone_says_what_is_missing(work, tmp_path, capsys):
    tool, out = import_tool('analysis/report'), tmp_path / 'alone.html'
    assert tool.main([str(work / 'distilled'), '--out', str(out), '--images', '1', '--show', '1']) == 0
    text = out.read_text()
    assert text.count('No work dir of the student alone was given') == 1
    assert f'python tools/compare.py {work}/distilled/distilled.py --seeds 0' in text
    assert f'report.py {work}/distilled work_dirs/compare/distilled/student-0' in text and 'gains' not in visible(text)
    assert len([1 for tag, _ in Links(text).found if tag == 'img']) == 6 + 3  # without gains; two models and the truth
    assert tool.main([str(work / 'distilled'), '--out', str(out), '--images', '0']) == 0
    assert 'No model was run.' in out.read_text()


def error(arguments: list, capsys: pytest.CaptureFixture) -> str:
    with pytest.raises(SystemExit) as ended:
        import_tool('analysis/report').main([str(x) for x in arguments])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    return line


def test_wrong_input_is_one_line(work, tmp_path, capsys):
    assert 'gone does not exist' in error([tmp_path / 'gone'], capsys)
    assert 'has no <time>/vis_data/scalars.json' in error([tmp_path], capsys)
    assert 'student is of a RetinaNet; accepted: that of a distillation' in error([work / 'student'], capsys)
    assert '--device: gpu: ' in error([work / 'distilled', '--device', 'gpu'], capsys)
    assert '--images: -1 is below 0' in error([work / 'distilled', '--images', '-1'], capsys)
    shutil.copytree(work / 'distilled', tmp_path / 'copy', ignore=shutil.ignore_patterns('*.pth'))
    said = error([tmp_path / 'copy'], capsys)
    assert 'copy has no checkpoint (best_*.pth, iter_*.pth, epoch_*.pth); accepted' in said
    (tmp_path / 'copy/iter_2.pth').write_bytes((work / 'distilled/iter_2.pth').read_bytes()[:5000])
    assert 'copy/iter_2.pth: it is cut off or no checkpoint (5000 bytes)' in error([tmp_path / 'copy'], capsys)


def test_a_teacher_that_has_gone_is_said_and_does_not_stop_the_page(work, tmp_path, capsys):
    copy = tmp_path / 'copy'
    shutil.copytree(work / 'distilled', copy)
    path = next(copy.glob('*/vis_data/config.py'))
    config = Config.fromfile(path)
    config.model.teacher.checkpoint = 'gone.pth'
    config.dump(path)
    assert import_tool('analysis/report').main([str(copy), '--images', '1', '--show', '1']) == 0
    text = (copy / 'report.html').read_text()
    assert 'The teacher was not run: ' in text and 'no such file' in text and 'at the end could not be measured' in text


# ---------------------------------------------------------------- in a browser

PROBE = """<script>
let violations = [];
addEventListener('securitypolicyviolation', event => violations.push(event.blockedURI));
addEventListener('error', event => violations.push(String(event.message)), true);
addEventListener('load', () => {
  const images = [...document.images];
  document.documentElement.dataset.probe = JSON.stringify({
    images: images.length,
    broken: images.filter(one => !one.complete || one.naturalWidth === 0).length,
    requests: performance.getEntriesByType('resource').map(one => one.name).filter(one => !one.startsWith('data:')),
    width: [document.documentElement.scrollWidth, document.documentElement.clientWidth, innerWidth],
    violations});
});
</script></head>"""


@pytest.mark.skipif(CHROMIUM is None, reason='no chromium in PATH (Debian: apt-get install chromium)')
def test_a_browser_shows_all_pictures_without_requests_errors_or_a_horizontal_scroll_bar(page, tmp_path):
    probed = tmp_path / 'probed.html'
    text = page.read_text().replace("default-src 'none'", "default-src 'none'; script-src 'unsafe-inline'", 1)
    probed.write_text(text.replace('</head>', PROBE, 1))
    options = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-background-networking']
    options += ['--window-size=1280,900', '--enable-logging=stderr', '--virtual-time-budget=10000']
    options += [f'--user-data-dir={tmp_path / "profile"}']
    command = [CHROMIUM, *options, '--dump-dom', probed.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert 'CONSOLE' not in done.stderr, re.findall('.*CONSOLE.*', done.stderr)
    seen = json.loads(html.unescape(re.search('data-probe="(.*?)"', done.stdout)[1]))
    assert seen['images'] == 19 and seen['broken'] == 0
    assert seen['requests'] == [] and seen['violations'] == []
    content, window, browser = seen['width']
    assert content == window and browser == 1280


# ---------------------------------------------------------------- TensorBoard


def keys(work: Path) -> set[str]:
    rows = next((work / 'distilled').glob('*/vis_data/scalars.json')).read_text().splitlines()
    return {key for row in rows for key in json.loads(row)}


def test_a_name_with_a_slash_is_logged_beside_the_own_one(work):
    rows = next((work / 'distilled').glob('*/vis_data/scalars.json')).read_text().splitlines()
    first = json.loads(rows[0])
    assert first['loss_kd.crg/vertex'] == pytest.approx(first['loss_kd.crg.vertex'])


def test_charts_hold_the_terms_that_are_logged(work):
    charts = {title: chart[1][0] for group in layout(['crg', 'pkd']).values() for title, chart in group.items()}
    held = {title: {key for key in keys(work) if re.match(regex, key)} for title, regex in charts.items()}
    assert held == {
        'crg, as weighted in the sum': {f'loss_kd.crg.{term}' for term in ('vertex', 'edge', 'spectral')},
        'crg, logged alone: gradient ratio, factor, terms of weight 0': {'kd.crg.gradient_ratio'},
        'pkd, as weighted in the sum': set(),
        'pkd, logged alone: gradient ratio, factor, terms of weight 0': {'kd.pkd.pearson'},
        'task losses, and the sum of all terms': {'loss', 'loss_cls', 'loss_bbox'},
        'average precision': {key for key in keys(work) if 'mAP' in key},
    }


def test_tensorboard_gets_the_log_unchanged_the_layout_and_the_pictures(work):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = next((work / 'distilled').glob('*/vis_data'))
    events = EventAccumulator(str(log), size_guidance=dict(images=0))
    events.Reload()
    assert set(events.Tags()['scalars']) == keys(work) - {'step'}
    assert 'custom_scalars__config__' in events.Tags()['tensors']
    assert set(events.Tags()['images']) == {'graph_affinity', 'graph_spectra'}
    import cv2

    for name in ('affinity', 'spectra'):
        images = events.Images(f'graph_{name}')
        assert [image.step for image in images] == [1, 2]
        shown = cv2.imdecode(np.frombuffer(images[-1].encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
        wanted = cv2.imread(str(work / 'distilled' / 'pictures' / f'{name}.png'))
        assert np.array_equal(shown, wanted), 'another shape, or red and blue exchanged'

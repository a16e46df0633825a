"""The commands of docs/get_started.md on a small stand-in for BCCD: from annotations to a tested student file."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from jobs import run
from mmengine.config import Config

from mmkd_graph.datasets import CLASSES, generate_shapes

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / 'docs/get_started.md').read_text()
SHORT = ['train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'train_dataloader.num_workers=0']
SHORT += ['train_dataloader.persistent_workers=False', 'custom_hooks.0.momentum=0.5']
LENGTHS = {'w32_fpn': 1500, 'crg': 400}


def block(language: str, start: str) -> str:
    return re.search(rf'```{language}\n({start}.+?)```', PAGE, flags=re.DOTALL)[1]


def joined(text: str) -> list[str]:
    return text.replace('\\\n', '').splitlines()


def commands() -> list[list[str]]:
    """Arguments of the tools that the page calls, in its order, up to the tested student."""
    lines = [line for text in re.findall(r'```bash\n(.+?)```', PAGE, flags=re.DOTALL) for line in joined(text)]
    calls = [shlex.split(line.removeprefix('python tools/')) for line in lines if line.startswith('python tools/')]
    return [call for call in calls if call[0] not in ('analysis/report.py', 'compare.py')]


@pytest.fixture
def blood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with BCCD's configs, and a generated set in its layout and with its classes."""
    monkeypatch.chdir(tmp_path)
    generate_shapes('made', num_train=4, num_val=2, num_test=2, layouts=['voc'])
    shutil.copytree('made/VOC2007', 'data/bccd')
    for file in Path('data/bccd/Annotations').iterdir():
        text = file.read_text()
        for i, name in enumerate(CLASSES):
            text = text.replace(f'>{name}<', f'>{("RBC", "WBC", "Platelets")[i % 3]}<')
        file.write_text(text)
    Path('tools').symlink_to(ROOT / 'tools')  # commands are printed as in the root of the checkout
    Path('configs').mkdir()
    for folder in ('bccd', '_base_'):
        shutil.copytree(ROOT / 'configs' / folder, f'configs/{folder}')
    data = Path('configs/_base_/datasets/bccd.py')
    data.write_text(data.read_text().replace('(256, 192)', '(128, 96)'))
    model = Path('configs/_base_/models/retinanet_r18-w8_fpn-64_gn.py')
    model.write_text(model.read_text().replace('score_thr=0.05', 'score_thr=0'))  # after two iterations nothing is sure
    return tmp_path


def test_the_page_from_data_to_a_tested_student(blood: Path) -> None:
    exec(block('python', '# to_coco.py'), {})
    here = f'import os; os.chdir({str(blood)!r})'
    outputs = []
    for i, (tool, *arguments) in enumerate(commands()):
        short = ['--cfg-options', *SHORT] if tool == 'train.py' else []
        short = ['--min-ap', '0', '--batches', '1'] if tool == 'check.py' else short
        outputs.append(run(tool, *arguments, *short, log=blood / f'{i}.log', before=here))
        for name, end in LENGTHS.items():
            if tool == 'train.py' and name in arguments[0]:
                folder = Path('work_dirs') / Path(arguments[0]).stem
                (folder / 'iter_2.pth').rename(folder / f'iter_{end}.pth')
    assert [tool for tool, *_ in commands()] == ['new_config.py', 'train.py', 'check.py', 'train.py', *['test.py'] * 2]
    first = outputs[0]
    for line in re.findall(r'^(?:written .+|  python tools/.+)$', PAGE, flags=re.MULTILINE):
        assert line in first, 'the page shows another output'
    assert 'is not there yet: the teacher was not scored' in first and 'FAIL' not in first
    own = Path('configs/own')
    assert block('python', "own_type = 'CocoDataset'") in (own / 'bccd_coco.py').read_text()
    for line in block('python', r"_base_ = './retina").splitlines():
        assert line in (own / 'retinanet_r18-w8_fpn-64_crg_bccd_coco.py').read_text().splitlines()
    metrics = [re.search(r'coco/bbox_mAP: (\S+)', text)[1] for text in outputs[-2:]]
    assert metrics[0] == metrics[1], 'the exported student is another one'
    plain = Config.fromfile('work_dirs/retinanet_r18-w8_fpn-64_crg_bccd_coco/student.py')
    assert plain.model.type == 'RetinaNet' and 'mmkd_graph' not in plain.pretty_text


def test_a_typo_ends_in_one_line(tmp_path: Path) -> None:
    arguments = ('mmdet::retinanet/retinanet_r50_fpn_1x_coc.py', 'mmdet::retinanet/retinanet_r101_fpn_2x_coco.py')
    output = run(
        'new_config.py', *arguments, log=tmp_path / 'log', code=2, before=f'import os; os.chdir({str(tmp_path)!r})'
    )
    (line,) = output.splitlines()
    assert line.startswith("new_config.py: error: STUDENT='mmdet::retinanet/retinanet_r50_fpn_1x_coc.py'")
    assert "did you mean 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'" in line
    assert not (tmp_path / 'configs').exists()

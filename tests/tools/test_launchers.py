"""The launch scripts and what ``train.py`` and ``test.py`` say to wrong input."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import SHAPES_RUN, TOOLS

from mmkd_graph.datasets import CLASSES, generate_shapes
from mmkd_graph.testing import save_weights, tiny_retinanet

CONFIG = (
    SHAPES_RUN
    + """
model = {model!r}
train_cfg = dict(type='IterBasedTrainLoop', max_iters=3)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1e-3))
default_hooks = dict(logger=dict(type='LoggerHook', interval=1), checkpoint=dict(type='CheckpointHook', by_epoch=False))
env_cfg = dict(dist_cfg=dict(backend='nccl', timeout=120))
"""
)


def run(*command: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command on the CPU with this Python first on the PATH."""
    path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    settings = {**os.environ, 'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': '1', 'PATH': path, **environment}
    command = tuple(map(str, command))
    return subprocess.run(command, cwd=cwd, env=settings, capture_output=True, text=True, timeout=240)


def test_a_cache_of_yapf_that_is_just_written_is_read_again(tmp_path: Path) -> None:
    """As mmengine's formatter imports it, its cache being whole at the third attempt, or never."""
    (tmp_path / 'yapf.py').write_text(
        f"""import sys
from pathlib import Path
count = Path({str(tmp_path / 'count')!r})
count.write_text(count.read_text() + 'i' if count.exists() else 'i')
if len(count.read_text()) < 3:
    raise EOFError('Ran out of input')
sys.path.remove({str(tmp_path)!r})
del sys.modules['yapf']
import yapf
"""
    )
    code = 'from mmkd_graph.engine.start import start; start()'
    path = os.pathsep.join([str(tmp_path), str(TOOLS.parent)])
    done = run(sys.executable, '-c', code, PYTHONPATH=path)
    assert done.returncode == 0 and (tmp_path / 'count').read_text() == 'iii', done.stderr
    (tmp_path / 'yapf.py').write_text("raise EOFError('Ran out of input')")
    done = run(sys.executable, '-c', f'import time; time.sleep = lambda _: None; {code}', PYTHONPATH=path)
    assert done.returncode == 1 and 'EOFError: Ran out of input' in done.stderr


@pytest.mark.parametrize('script', ['train.py', 'test.py', 'check.py'])
def test_a_tool_of_a_checkout_that_is_not_installed_says_what_to_do(script: str) -> None:
    done = run(sys.executable, '-S', TOOLS / script, 'config.py', PYTHONPATH='')
    assert done.returncode == 1
    assert done.stderr.startswith(f'{script}: error: {sys.executable} has no mmkd_graph; in the root of the checkout: ')
    assert 'source .venv/bin/activate' in done.stderr and done.stderr.endswith('make install\n')


def test_a_python_without_mmdet_is_named(tmp_path: Path) -> None:
    (tmp_path / 'mmdet.py').write_text("raise ModuleNotFoundError(\"No module named 'mmdet'\", name='mmdet')")
    path = os.pathsep.join([str(tmp_path), str(TOOLS.parent)])
    done = run(sys.executable, TOOLS / 'check.py', 'config.py', PYTHONPATH=path)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and line.startswith(f'check.py: error: {sys.executable} has no mmdet; ')
    assert 'make install' in line or 'activate' in line


def free_port() -> str:
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        return str(server.getsockname()[1])


@pytest.fixture(scope='module')
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Config of a tiny RetinaNet over a generated set, all in one folder whose name has a blank."""
    folder = tmp_path_factory.mktemp('two words')
    generate_shapes(folder / 'data', num_train=4, num_val=1, num_test=3, layouts=['coco', 'voc'])
    path = folder / 'tiny.py'
    model = tiny_retinanet(num_classes=len(CLASSES))
    path.write_text(CONFIG.format(model=model, data=f'{folder / "data"}/', classes=tuple(CLASSES)))
    return path


def test_two_processes_train_and_test_without_cuda(config: Path) -> None:
    work_dir = config.parent / 'work dir'
    done = run(TOOLS / 'dist_train.sh', config, 2, '--work-dir', work_dir, cwd=config.parent, PORT=free_port())
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'Distributed training: True' in done.stdout and 'GPU number: 2' in done.stdout
    assert '[3/3]' in done.stdout
    state = torch.load(work_dir / 'iter_3.pth', weights_only=False)['state_dict']
    assert not any(name.startswith('module.') for name in state)

    options = ['--work-dir', work_dir / 'test', '--out', work_dir / 'predictions.pkl']
    done = run(
        TOOLS / 'dist_test.sh', config, work_dir / 'iter_3.pth', 2, *options, cwd=config.parent, PORT=free_port()
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (log,) = (work_dir / 'test').glob('*/[0-9]*.json')
    assert 'coco/bbox_mAP' in json.loads(log.read_text())
    assert (work_dir / 'predictions.pkl').exists()


@pytest.mark.parametrize(
    'script, arguments',
    [
        ('dist_train.sh', ['config.py']),
        ('dist_train.sh', ['2', 'config.py']),
        ('dist_train.sh', ['config.py', '2']),
        ('dist_test.sh', ['config.py', 'checkpoint.pth']),
        ('dist_test.sh', ['config.py', '2', 'checkpoint.pth']),
        ('dist_test.sh', ['config.py', 'checkpoint.pth', '2']),
        ('slurm_train.sh', ['partition', 'job', 'config.py']),
        ('slurm_test.sh', ['partition', 'job', 'config.py']),
    ],
)
def test_wrong_arguments_end_a_script_with_2_and_a_reason(script: str, arguments: list[str]) -> None:
    done = run(TOOLS / script, *arguments)
    assert done.returncode == 2
    assert f'usage: {script}' in done.stderr or "no config file 'config.py'" in done.stderr


@pytest.fixture
def srun(tmp_path: Path) -> dict[str, str]:
    """Environment with an ``srun`` that writes down its arguments, one a line."""
    script = tmp_path / 'srun'
    script.write_text(f'#!/usr/bin/env bash\nprintf "%s\\n" "$@" > "{tmp_path}/arguments"\n')
    script.chmod(0o755)
    return dict(PATH=f'{tmp_path}{os.pathsep}{os.environ["PATH"]}', GPUS='4', GPUS_PER_NODE='2')


def test_slurm_train_asks_for_gpus_and_keeps_words_whole(tmp_path: Path, srun: dict[str, str]) -> None:
    options = ['--resume', '--cfg-options', 'a.b=two words']
    srun['SRUN_ARGS'] = '--time=1 --exclusive'
    done = run(TOOLS / 'slurm_train.sh', 'part', 'name', 'a config.py', 'a dir', *options, **srun)
    assert done.returncode == 0, done.stderr
    arguments = (tmp_path / 'arguments').read_text().splitlines()
    at = arguments.index('python')
    assert arguments[:3] == ['-p', 'part', '--job-name=name']
    assert set(arguments[3:at]) == {
        '--gres=gpu:2', '--ntasks-per-node=2', '--ntasks=4', '--cpus-per-task=5', '--kill-on-bad-exit=1',
        '--time=1', '--exclusive',
    }  # fmt: skip
    train = [str(TOOLS / 'train.py'), 'a config.py', '--work-dir=a dir', '--launcher=slurm', *options]
    assert arguments[at + 1 :] == ['-u', *train]


def test_slurm_test_without_gpus_asks_for_none(tmp_path: Path, srun: dict[str, str]) -> None:
    srun['GPUS_PER_NODE'] = '0'
    done = run(TOOLS / 'slurm_test.sh', 'part', 'name', 'config.py', 'model.pth', '--tta', **srun)
    assert done.returncode == 0, done.stderr
    arguments = (tmp_path / 'arguments').read_text().splitlines()
    assert '--ntasks=4' in arguments and not any('gpu' in a or 'per-node' in a for a in arguments)
    assert arguments[-5:] == [str(TOOLS / 'test.py'), 'config.py', 'model.pth', '--launcher=slurm', '--tta']


def test_a_slurm_step_on_cpus_meets_over_gloo(tmp_path: Path) -> None:
    """One task as ``srun`` would start it; ``scontrol`` names the node it meets the others on."""
    scontrol = tmp_path / 'scontrol'
    scontrol.write_text('#!/usr/bin/env bash\n[[ $* == "show hostnames node[1-2]" ]] && echo 127.0.0.1 node2\n')
    scontrol.chmod(0o755)
    task = dict(SLURM_PROCID='0', SLURM_NTASKS='1', SLURM_LOCALID='3', SLURM_NODELIST='node[1-2]')
    program = """
import os
from mmkd_graph.engine.launch import Config, dist, join_processes
cfg = Config(dict(launcher='slurm', find_unused_parameters=True, env_cfg=dict(dist_cfg=dict(timeout=9))))
join_processes(cfg)
assert (dist.get_backend(), dist.get_rank(), dist.get_world_size()) == ('gloo', 0, 1)
assert (os.environ['MASTER_ADDR'], os.environ['LOCAL_RANK']) == ('127.0.0.1', '3')
assert cfg.model_wrapper_cfg.find_unused_parameters and cfg.model_wrapper_cfg.device_ids is None
"""
    path = f'{tmp_path}{os.pathsep}{os.environ["PATH"]}'
    done = run(sys.executable, '-c', program, PATH=path, MASTER_PORT=free_port(), **task)
    assert done.returncode == 0, done.stderr


def test_wrong_input_ends_in_one_line(config: Path, tmp_path: Path) -> None:
    """In one process, since starting Python takes longer than all the rest."""
    broken, unknown, empty = (tmp_path / name for name in ('broken.py', 'unknown.py', 'empty.py'))
    broken.write_text('model = dict(')
    unknown.write_text(f'_base_ = {str(config)!r}\nstudent = {{{{_base_.modell}}}}\n')
    empty.write_text('data = 1\n')
    weights = save_weights(tiny_retinanet(num_classes=len(CLASSES)), tmp_path / 'weights.pth')
    cases = [
        ('train.py', ['missing.py'], "no config file 'missing.py'"),
        ('train.py', [broken], 'cannot be read'),
        ('train.py', [unknown], 'modell'),
        ('train.py', [empty], 'has no model'),
        ('train.py', [config, '--resume', 'missing.pth'], "--resume: no checkpoint file 'missing.pth'"),
        ('train.py', [config, '--auto-scale-lr'], '--auto-scale-lr: the config lacks auto_scale_lr'),
        ('train.py', [config, '--cfg-options', 'load.9.type=Resize'], '--cfg-options do not fit'),
        ('train.py', [config, '--launcher', 'pytorch'], 'RANK'),
        ('test.py', [config, 'missing.pth'], "checkpoint='missing.pth': no such file"),
        ('test.py', [config, weights, '--out', 'predictions.json'], '--out'),
        ('test.py', [config, weights, '--show-dir', 'pictures'], 'default_hooks.visualization'),
    ]
    program = (
        'import json, runpy, sys\n'
        '_, tools, jobs = sys.argv\n'
        'for script, arguments in json.loads(jobs):\n'
        '    sys.argv = [script, *arguments]\n'
        '    try:\n'
        '        runpy.run_path(tools + "/" + script, run_name="__main__")\n'
        '    except SystemExit as end:\n'
        '        print(f"exit {end.code}", file=sys.stderr)\n'
    )
    jobs = json.dumps([(script, list(map(str, arguments))) for script, arguments, _ in cases])
    done = run(sys.executable, '-W', 'ignore', '-c', program, TOOLS, jobs)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if ': error: ' in line or line.startswith('exit')]
    assert len(lines) == 2 * len(cases), done.stderr
    for (script, _, words), message, end in zip(cases, lines[::2], lines[1::2], strict=True):
        assert message.startswith(f'{script}: error: ') and words in message
        assert end == 'exit 2'

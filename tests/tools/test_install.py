"""Which torchvision ``tools/install.sh`` installs, with a Python whose pip only notes what it is asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = """#!/bin/bash
if [[ $1 == -m && $2 == pip ]]; then
    echo "${{@:3}}" >>'{log}'
    [[ $* != *'pip install'*torchvision* ]] || {{ {installed}; exit; }}
    [[ $* != *'pip install'*torch==* ]] || echo '__version__ = "2.13.0"' >'{modules}/torch.py'
    exit 0
fi
PYTHONPATH='{modules}' exec '{python}' -S "$@"
"""
TORCHVISION = "ops = __import__('types').SimpleNamespace(nms=lambda *arguments: None)"


class Install:
    """The script in an environment of stand-ins; ``torch`` is the version there, none if it is empty."""

    def __init__(self, folder: Path, torch: str, installed: str) -> None:
        self.modules = folder / 'modules'
        for name in ('mmcv', 'mmcv/ops', 'mmdet', 'mmengine', 'yapf'):
            (self.modules / name).mkdir(parents=True)
            (self.modules / name / '__init__.py').write_text("__version__ = '9.9'")
        common = 'class cuda:\n    is_available = lambda: False\nzeros = lambda *shape: 0\n'
        (self.modules / 'torch.py').write_text(f'{common}__version__ = {torch!r}')
        self.log, self.lock = folder / 'pip.log', folder / 'lock.txt'
        self.lock.write_text('setuptools==80.9.0\nwheel==0.48.0\nmmcv==9.9\n')
        python = folder / 'venv/bin/python'
        python.parent.mkdir(parents=True)
        made = installed.format(modules=self.modules)
        python.write_text(PYTHON.format(log=self.log, installed=made, modules=self.modules, python=sys.executable))
        python.chmod(0o755)
        self.environment = dict(
            os.environ, PYTHON=str(python), PYTHON_GIVEN='', TORCH='torch==2.13.0', TORCH_GIVEN='', CORES='1'
        )
        self.environment |= dict(VENV=str(folder / 'venv'), WHEELS=str(folder / 'wheels'), LOCK=str(self.lock))
        self.environment |= dict(https_proxy='http://127.0.0.1:9', HTTPS_PROXY='http://127.0.0.1:9')  # reaches nobody

    def run(self) -> tuple[str, list[str]]:
        """What it says, and what it asked pip for of torchvision."""
        done = subprocess.run(
            ['bash', str(ROOT / 'tools/install.sh')], env=self.environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout, [line for line in self.log.read_text().splitlines() if 'torchvision' in line]


WORKS = f'echo "{TORCHVISION}" >\'{{modules}}/torchvision.py\''
BROKEN = "echo 'raise RuntimeError' >'{modules}/torchvision.py'"


@pytest.mark.parametrize(
    ('torch', 'wanted'),
    [('2.13.0', '>=0.28,<=0.28.0'), ('2.9.1+cpu', '>=0.24,<=0.24.1'), ('2.10.0a0+b4e4ee8', '>=0.25,<=0.25.0')],
)
def test_torchvision_fits_torch_and_leaves_it(torch: str, wanted: str, tmp_path: Path) -> None:
    install = Install(tmp_path, torch, WORKS)
    output, (asked,) = install.run()
    assert asked.startswith('install') and asked.endswith(f' torchvision{wanted}') and ' --no-deps ' in asked
    assert 'warning' not in output
    assert 'torch==' not in install.log.read_text(), 'the torch that is there was replaced'
    assert install.run()[1] == [asked], 'installed again, though it works'


@pytest.mark.parametrize('installed', ['exit 1', BROKEN])
def test_without_one_that_works_the_rest_is_installed(installed: str, tmp_path: Path) -> None:
    output, asked = Install(tmp_path, '2.13.0+cpu', installed).run()
    assert 'warning: no torchvision was found that works with torch 2.13.0+cpu.' in output
    assert asked[-1].startswith('uninstall ') and '==> ready: ' in output


def test_of_an_unknown_torch_nothing_is_guessed(tmp_path: Path) -> None:
    output, asked = Install(tmp_path, '3.0.0', WORKS).run()
    assert 'warning: no torchvision' in output and not any(line.startswith('install') for line in asked)

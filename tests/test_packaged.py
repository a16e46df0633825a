"""What travels with the package, and ``python -m mmkd_graph``; what a wheel holds."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE

from mmkd_graph import packaged
from mmkd_graph.__main__ import main, programs
from mmkd_graph.distillers.teacher import resolve_model_config
from mmkd_graph.packaged import TOOLS, command, read_config, shipped

ROOT = Path(__file__).parents[1]
CRG = 'mmkd_graph::crg/retinanet_r50_fpn_crg-r101_1x_coco.py'


def build(kind: str, source: Path, out: Path) -> Path:
    """A wheel or an sdist, as pip and build make them, without the network."""
    program = (
        'import os, sys; from setuptools import build_meta; os.chdir(sys.argv[1]);'
        f'print(build_meta.__legacy__.build_{kind}(sys.argv[2]))'
    )
    out.mkdir()
    done = subprocess.run([sys.executable, '-c', program, str(source), str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (made,) = out.iterdir()
    return made


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob('*') if '__pycache__' not in path.parts}


@pytest.fixture(scope='module')
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what setup.py reads; the links stay links."""
    folder = tmp_path_factory.mktemp('checkout')
    for name in ('mmkd_graph', 'configs', 'tools', 'requirements'):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('setup.py', 'MANIFEST.in', 'model-index.yml', 'README.md', 'LICENSE'):
        shutil.copy(ROOT / name, folder)
    return folder


def test_a_wheel_has_configs_and_tools_where_mmengine_and_mim_look_and_leaves_nothing(
    checkout: Path, tmp_path: Path
) -> None:
    before = tree(checkout)
    wheel = build('wheel', checkout, tmp_path / 'wheel')
    assert tree(checkout) == before
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith('/')}
    mim = {name.removeprefix('mmkd_graph/.mim/') for name in names if name.startswith('mmkd_graph/.mim/')}
    kept = {
        str(path.relative_to(ROOT))
        for folder in ('configs', 'tools')
        for path in (ROOT / folder).rglob('*.*')
        if path.suffix in ('.py', '.yml', '.sh') and path.name != 'install.sh'
    }
    assert mim == {*kept, 'model-index.yml'}
    code = {str(path.relative_to(ROOT)) for path in (ROOT / 'mmkd_graph').rglob('*.py') if '.mim' not in path.parts}
    assert {name for name in names if name.endswith('.py')} - {f'mmkd_graph/.mim/{name}' for name in mim} == code
    # an sdist makes the same wheel
    sdist = build('sdist', checkout, tmp_path / 'sdist')
    assert tree(checkout) == before
    with tarfile.open(sdist) as archive:
        assert not [member.name for member in archive.getmembers() if member.issym()]
        archive.extractall(tmp_path / 'unpacked', filter='data')
    (unpacked,) = (tmp_path / 'unpacked').iterdir()
    again = build('wheel', unpacked, tmp_path / 'again')
    assert {name for name in zipfile.ZipFile(again).namelist() if not name.endswith('/')} == names


def test_a_config_of_the_package_is_a_base_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In mmdet's scope: what is written without a prefix in the package's configs is mmdet's."""
    (tmp_path / 'base.py').write_text(f"_base_ = '{CRG}'\nmodel = dict(taps='backbone')\n")
    monkeypatch.chdir(tmp_path)
    config = read_config('base.py')
    assert config.model.type == 'mmkd_graph.GraphDistiller' and config.model.taps == 'backbone'
    assert config.model.student.type == 'RetinaNet'
    assert "_scope_='mmkd_graph'" not in config.pretty_text


def test_a_teacher_is_named_so_too_and_mmengine_is_left_as_it_was() -> None:
    find = Config._get_cfg_path
    teacher = resolve_model_config('mmkd_graph::bccd/retinanet_r18-w32_fpn-64_bccd.py', 'teacher.config')
    assert teacher.backbone.base_channels == 32
    with pytest.raises(FileNotFoundError, match=r"teacher\.config='mmkd_graph::bccd/none\.py': no such config"):
        resolve_model_config('mmkd_graph::bccd/none.py', 'teacher.config')
    assert Config._get_cfg_path is find and 'mmkd_graph' not in MODULE2PACKAGE
    assert read_config('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py').model.type == 'RetinaNet'


def test_paths_of_suites_are_those_of_the_package_where_there_is_no_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    suite = 'tools/benchmark/suites/bccd.py'
    assert shipped(suite) == suite
    monkeypatch.chdir(tmp_path)
    assert shipped('nowhere.py') == 'nowhere.py'
    assert Path(shipped(suite)).samefile(ROOT / suite)


def test_commands_are_those_that_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert command('analysis/report.py', 'a dir') == "python tools/analysis/report.py 'a dir'"
    monkeypatch.chdir(tmp_path)
    assert command('analysis/report.py', 'a dir') == "python -m mmkd_graph analysis/report 'a dir'"
    (tmp_path / 'tools').mkdir()  # those of another repository, mmdet's
    shutil.copy(ROOT / 'tools' / 'train.py', tmp_path / 'tools')
    assert command('train.py') == 'python -m mmkd_graph train'


def test_no_program_prints_a_path_that_a_wheel_does_not_have() -> None:
    """``command`` writes commands, ``shipped`` finds suites; the help of a tool calls it by its name."""
    path = re.compile(r'(?<!`)\btools/(?!benchmark/suites/)[\w/]+\.(py|sh)')
    for file in [*(ROOT / 'mmkd_graph').rglob('*.py'), *(ROOT / 'tools').glob('*.py')]:
        parsed = ast.parse(file.read_text(encoding='utf-8'))
        not_printed = {id(node.value) for node in ast.walk(parsed) if isinstance(node, ast.Expr)}
        if file.parent.name == 'tools':
            not_printed.discard(id(parsed.body[0].value))  # its help
        for node in ast.walk(parsed):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in not_printed:
                assert not path.search(node.value), f'{file}:{node.lineno}'


def test_every_tool_is_listed_with_a_line(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, 'argv', ['mmkd_graph'])
    main()
    rows = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines() if line.startswith('  '))
    assert {'train', 'test', 'check', 'compare', 'publish_student', 'dist_train', 'benchmark/zoo'} <= rows.keys()
    assert not [name for name in rows if 'suites' in name or 'install' in name]
    assert all(len(line) > 20 and '<<' not in line for line in rows.values())
    files = {path for path in (ROOT / 'tools').rglob('*.[ps][yh]') if 'suites' not in path.parts}
    assert len(rows) == len(files) - 1


def test_a_tool_runs_under_its_own_name(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'one').mkdir()
    (tmp_path / 'one' / 'print_it.py').write_text('"""Print it."""\nimport sys\nprint(__name__, sys.argv)\n')
    monkeypatch.setattr('mmkd_graph.__main__.TOOLS', tmp_path)
    assert {*programs()} == {'one/print_it'}
    monkeypatch.setattr(sys, 'argv', ['mmkd_graph', 'one/print_it', '--a', 'b c'])
    main()
    assert capsys.readouterr().out == f'__main__ {[str(tmp_path / "one" / "print_it.py"), "--a", "b c"]}\n'


@pytest.mark.parametrize(
    'given, said', [('trian', r"'trian' \(did you mean train\?\); accepted: check"), ('x', "'x'; ")]
)
def test_an_unknown_tool_is_one_line(
    given: str, said: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, 'argv', ['mmkd_graph', given])
    with pytest.raises(SystemExit, match='2'):
        main()
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(said, line), line


def test_it_starts_as_fast_as_the_standard_library_allows() -> None:
    """Signals are handled by the tool, before anything slow is imported."""
    program = 'import sys, mmkd_graph.__main__; print({"torch", "mmengine", "numpy"} & {*sys.modules})'
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    done = subprocess.run([sys.executable, '-c', program], env=environment, capture_output=True, text=True)
    assert done.stdout == 'set()\n', done.stderr


def test_links_of_the_checkout_lead_to_it() -> None:
    assert TOOLS.samefile(ROOT / 'tools') and (packaged._MIM / 'configs').samefile(ROOT / 'configs')
    assert (packaged._MIM / 'model-index.yml').samefile(ROOT / 'model-index.yml')


def test_configs_are_read_in_several_threads() -> None:
    """As those of a comparison are; mmengine finds its own configs afterwards as it did before."""
    before, interval = Config._get_cfg_path, sys.getswitchinterval()

    def enter(_: int) -> bool:
        with packaged.own_configs():
            time.sleep(0)
            return Config._get_cfg_path('mmkd_graph::x.py', '')[1] is None

    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(enter, range(400)))
    finally:
        sys.setswitchinterval(interval)
    assert Config._get_cfg_path is before

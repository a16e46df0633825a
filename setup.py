import re
import shutil
import tempfile
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


class BuildWithConfigs(build_py):
    """Put configs and tools where mmengine and mim look for them in an installed package: ``mmkd_graph/.mim``.

    A checkout has links there; they serve editable installations.
    """

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        mim = Path(self.build_lib) / 'mmkd_graph' / '.mim'
        for name in ('configs', 'tools'):
            ignored = shutil.ignore_patterns('__pycache__', 'install.sh')
            shutil.copytree(ROOT / name, mim / name, ignore=ignored, dirs_exist_ok=True)
        shutil.copy(ROOT / 'model-index.yml', mim)


def requirements(name: str) -> list[str]:
    """Lines of ``requirements/<name>.txt`` without the comments."""
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text(encoding='utf-8').splitlines()
    return [line for line in map(str.strip, lines) if line and not line.startswith('#')]


version = re.search(r"__version__ = '(.+)'", (ROOT / 'mmkd_graph' / '__init__.py').read_text(encoding='utf-8'))
readme = ROOT / 'README.md'

# Nothing is left in the checkout: files in build/ that are gone from it would be in the next wheel.
with tempfile.TemporaryDirectory() as scratch:
    setup(
        name='mmkd-graph',
        version=version.group(1),
        description='Channel-graph and spectral-embedding distillation for MMDetection 3.x',
        long_description=readme.read_text(encoding='utf-8') if readme.exists() else '',
        long_description_content_type='text/markdown',
        license='Apache-2.0',
        packages=find_packages(include=['mmkd_graph', 'mmkd_graph.*']),
        package_data={'mmkd_graph.reporting': ['page.html']},
        python_requires='>=3.10',
        install_requires=requirements('runtime'),
        extras_require={
            'stack': requirements('mmdet'),
            'upstream': requirements('upstream'),
            'tests': requirements('tests'),
        },
        cmdclass={'build_py': BuildWithConfigs},
        options={'build': {'build_base': scratch}, 'egg_info': {'egg_base': scratch}},
    )

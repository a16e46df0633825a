import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def requirements(name: str) -> list[str]:
    """Lines of ``requirements/<name>.txt`` without the comments."""
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text(encoding='utf-8').splitlines()
    return [line for line in map(str.strip, lines) if line and not line.startswith('#')]


version = re.search(r"__version__ = '(.+)'", (ROOT / 'mmkd_graph' / '__init__.py').read_text(encoding='utf-8'))
readme = ROOT / 'README.md'

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
)

"""Which room imports which: the arrows run one way. docs/design.md draws the same."""

from __future__ import annotations

import ast
from pathlib import Path

import mmkd_graph

PACKAGE = Path(mmkd_graph.__file__).parent
ARROWS = {
    'registry': set(),
    'graph': set(),
    'findings': set(),
    'plain': set(),
    'backbones': {'registry'},
    'checkpoints': set(),
    'unwrapping': set(),
    'necks': {'registry', 'graph'},
    'losses': {'registry', 'graph', 'necks'},
    'packaged': set(),
    '__main__': {'packaged'},
    'distillers': {'registry', 'graph', 'necks', 'losses', 'checkpoints', 'packaged'},
    'datasets': {'registry', 'checkpoints', 'findings', 'packaged'},
    'visualization': {'graph'},
    'checking': {'registry', 'necks', 'distillers', 'datasets', 'findings', 'packaged', 'unwrapping'},
    'testing': {'losses', 'distillers'},
    'writing': {'registry', 'distillers', 'losses', 'datasets', 'checkpoints', 'checking', 'findings', 'packaged'},
    'export': {'registry', 'distillers', 'datasets', 'checkpoints', 'plain'},
    'publishing': {'registry', 'distillers', 'datasets', 'checkpoints', 'export', 'plain'},
    'hooks': {
        *('registry', 'graph', 'losses', 'distillers', 'checking', 'datasets'),
        *('visualization', 'export', 'checkpoints', 'packaged', 'plain', 'unwrapping'),
    },
    'engine': {
        *('registry', 'losses', 'distillers', 'checking', 'datasets'),
        *('export', 'checkpoints', 'findings', 'packaged', 'unwrapping'),
    },
    'reporting': {
        *('registry', 'distillers', 'checking', 'datasets', 'visualization'),
        *('export', 'checkpoints', 'findings', 'packaged', 'hooks', 'engine'),
    },
}


def imports(path: Path) -> set[str]:
    """Rooms that a module imports, at its top or later, but for what is there for types alone."""
    tree = ast.parse(path.read_text(encoding='utf-8'))
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and getattr(block.test, 'id', '') == 'TYPE_CHECKING'
        for node in ast.walk(block)
    }
    rooms = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or '').startswith('mmkd_graph'):
            parts = node.module.split('.')
            rooms |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level < 2, f'{path}: relative imports stay in their room'
        elif isinstance(node, ast.Import):
            rooms |= {a.name.split('.')[1] for a in node.names if a.name.startswith('mmkd_graph.')}
    return rooms


def found() -> dict[str, set[str]]:
    """The arrows of the package as it is."""
    arrows: dict[str, set[str]] = {}
    for path in PACKAGE.rglob('*.py'):
        room = path.relative_to(PACKAGE).parts[0].removesuffix('.py')
        if room != '__init__':
            arrows.setdefault(room, set()).update(imports(path) - {room})
    return arrows


def test_arrows_are_those_that_are_drawn() -> None:
    assert found() == ARROWS


def test_no_arrow_runs_back() -> None:
    order: list[str] = []
    while len(order) < len(ARROWS):
        free = [room for room, uses in ARROWS.items() if room not in order and uses <= {*order}]
        assert free, f'a circle among {sorted({*ARROWS} - {*order})}'
        order += free

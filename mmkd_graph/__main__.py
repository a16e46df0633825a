"""``python -m mmkd_graph TOOL [argument ...]``: the programs of ``tools/``, from anywhere.

Nothing but the standard library is imported here.
"""

from __future__ import annotations

import ast
import difflib
import os
import runpy
import sys
from pathlib import Path
from typing import NoReturn

from mmkd_graph.packaged import TOOLS

_NOT_TOOLS = ('benchmark/suites/', 'install.sh')


def programs() -> dict[str, Path]:
    """Files of the tools by their names, ``train`` or ``benchmark/step_time``; those of the first folder come first."""
    found = {}
    for path in sorted(TOOLS.rglob('*'), key=lambda path: (len(path.relative_to(TOOLS).parts), path)):
        name = path.relative_to(TOOLS)
        if path.suffix in ('.py', '.sh') and not str(name).startswith(_NOT_TOOLS):
            found[str(name.with_suffix(''))] = path
    return found


def summary(path: Path) -> str:
    """What a tool does: the first line of its docstring; of a shell script, the line under its usage."""
    text = path.read_text(encoding='utf-8')
    if path.suffix == '.sh':
        return text.partition('usage: ')[2].splitlines()[1].strip()
    return (ast.get_docstring(ast.parse(text)) or '').partition('\n')[0]


def main() -> None:
    """List the tools, or become one."""
    tools = programs()
    if not tools:
        end(f'there are no tools in {TOOLS}, where a checkout has links and an installed package has files')
    name, *arguments = sys.argv[1:] or ['--help']
    if name in ('-h', '--help'):
        print('usage: python -m mmkd_graph TOOL [argument ...]; TOOL --help lists its options\n')
        width = max(map(len, tools))
        print('\n'.join(f'  {name:<{width}}  {summary(path)}' for name, path in tools.items()))
        return
    path = tools.get(name.removesuffix('.py').removesuffix('.sh'))
    if path is None:
        near = ''.join(f' (did you mean {word}?)' for word in difflib.get_close_matches(name, tools, 1))
        end(f'there is no tool {name!r}{near}; accepted: {", ".join(tools)}')
    if path.suffix == '.sh':
        os.environ.setdefault('PYTHON', sys.executable)
        os.execvp('bash', ['bash', str(path), *arguments])
    sys.argv = [str(path), *arguments]
    runpy.run_path(str(path), run_name='__main__')


def end(message: str) -> NoReturn:
    """Say what is wrong, and end with exit code 2."""
    print(f'mmkd_graph: error: {message}', file=sys.stderr)
    raise SystemExit(2)


if __name__ == '__main__':
    main()

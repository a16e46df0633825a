"""Write the tables of options on these pages from docstrings and signatures: ``python docs/option_tables.py``.

A table is between ``<!-- options: losses.CRGLoss -->``, one class of this package or several, and
``<!-- end of options -->``.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from pkgutil import resolve_name

PAGES = sorted(Path(__file__).parent.glob('*.md'))
BLOCK = re.compile(r'(?ms)^<!-- options: ([\w. ]+) -->\n.*?^<!-- end of options -->$')


def options(cls: type) -> list[tuple[str, str, str]]:
    """Name, default and meaning of each option, in the order of the signature.

    Raises:
        ValueError: if ``Args`` of the docstring is not about exactly the options, in their order.
    """
    described = re.search(r'(?m)^Args:\n((?:    .*\n)+)', f'{inspect.getdoc(cls)}\n')
    meanings = dict(re.findall(r'(?m)^    (\w+): (.*(?:\n {5,}.*)*)', described[1] if described else ''))
    signature = inspect.signature(cls).parameters.values()
    defaults = {parameter.name: parameter.default for parameter in signature if parameter.kind != parameter.VAR_KEYWORD}
    if list(meanings) != list(defaults):
        raise ValueError(f'{cls.__name__}: the docstring describes {list(meanings)}, the options are {list(defaults)}')
    rows = []
    for name, meaning in meanings.items():
        meaning, must = re.subn('^required; ', '', meaning)
        must = must or defaults[name] is inspect.Parameter.empty
        rows.append((name, 'required' if must else f'`{defaults[name]!r}`', markdown(meaning).removesuffix('.')))
    return rows


def markdown(text: str) -> str:
    """reStructuredText of a docstring as one cell of a table."""
    text = re.sub(r':\w+:`~?(?:[\w.]+\.)?(\w+)`', r'`\1`', ' '.join(text.split()))
    return text.replace('``', '`').replace('|', r'\|')


def table(names: list[str]) -> str:
    """The options of the classes, as a table in Markdown; with a column for the class if there are several."""
    several = len(names) > 1
    lines = [f'{"| class " * several}| option | default | meaning |', f'{"|---" * several}|---|---|---|']
    for name in names:
        cls = resolve_name(f'mmkd_graph.{name}')
        for row, (option, default, meaning) in enumerate(options(cls)):
            first = f'| {"" if row else f"`{cls.__name__}`"} ' * several
            lines.append(f'{first}| `{option}` | {default} | {meaning} |')
    return '\n'.join(lines)


def written(page: str) -> str:
    """The text of a page with its tables as they should be."""
    return BLOCK.sub(
        lambda match: f'<!-- options: {match[1]} -->\n{table(match[1].split())}\n<!-- end of options -->', page
    )


if __name__ == '__main__':
    for path in PAGES:
        text = path.read_text(encoding='utf-8')
        if (new := written(text)) != text:
            path.write_text(new, encoding='utf-8')
            print(path)

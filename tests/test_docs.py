"""What the documents say is so: commands parse, files are there, options and messages are those of the code."""

from __future__ import annotations

import argparse
import ast
import functools
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from mmengine.registry import Registry

from mmkd_graph import losses

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').glob('**/*.md'))]


class Parsed(BaseException):
    """Ends a tool that has read its command line."""


def commands() -> dict[str, str]:
    """Python tools that code blocks call, by command, with the page."""
    found: dict[str, str] = {}
    for page in PAGES:
        for block in re.findall(r'(?ms)^ *```bash\n(.*?)^ *```', page.read_text(encoding='utf-8')):
            for line in block.replace('\\\n', ' ').splitlines():
                line = re.sub(r'\s#.*', '', line).strip()
                if re.match(r'python tools/', line):
                    found.setdefault(line, page.name)
    return found


COMMANDS = commands()


def test_there_are_commands():
    assert {'README.md', 'results.md', 'speed.md'} <= set(COMMANDS.values())


@pytest.mark.parametrize('command', COMMANDS)
def test_commands_are_accepted_and_name_files_that_exist(command, monkeypatch):
    words = [word for word in shlex.split(command)[1:] if not word.startswith(('>', '2>'))]
    script = ROOT / words[0]
    assert script.is_file(), f'{COMMANDS[command]}: {words[0]}'
    for word in words[1:]:
        if re.fullmatch(r'(configs/(?!own/|my/)|tools/|docs/)[\w/.-]+\.(py|sh)', word):
            assert (ROOT / word).is_file(), f'{COMMANDS[command]}: {word}'
    read = argparse.ArgumentParser.parse_args

    def parse(self: argparse.ArgumentParser, *args: object, **options: object) -> None:
        read(self, *args, **options)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', parse)
    monkeypatch.setattr(sys, 'argv', [str(script), *words[1:]])
    monkeypatch.chdir(ROOT)
    # a tool that registers something does so every time that it is read
    again = functools.partialmethod(Registry.register_module, force=True)
    monkeypatch.setattr(Registry, 'register_module', again)
    with pytest.raises(Parsed):  # SystemExit says which option is not accepted
        runpy.run_path(str(script), run_name='not_main')['main']()


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    text = re.sub(r'(?ms)^ *```.*?^ *```', '', page.read_text(encoding='utf-8'))
    for target in re.findall(r'\]\(([^)\s]+)\)', text):
        if '://' in target:
            continue
        name, _, anchor = target.partition('#')
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r'(?m)^#+ (.*)$', path.read_text(encoding='utf-8'))
            slugs = {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}
            assert anchor in slugs, target


def test_tables_of_options_are_those_of_the_docstrings():
    tables = runpy.run_path(str(ROOT / 'docs' / 'option_tables.py'))
    texts = {page.name: page.read_text(encoding='utf-8') for page in tables['PAGES']}
    old = [name for name, text in texts.items() if tables['written'](text) != text]
    assert not old, 'run: python docs/option_tables.py'
    named = ' '.join(match[1] for text in texts.values() for match in tables['BLOCK'].finditer(text)).split()
    assert {f'losses.{name}' for name in losses.LOSSES} <= set(named)


def test_an_option_without_a_description_is_an_error():
    tables = runpy.run_path(str(ROOT / 'docs' / 'option_tables.py'))

    class Undescribed(losses.FitNetLoss):
        """A loss.

        Args:
            mse_weight: weight of the term.
        """

        def __init__(self, mse_weight: float = 1.0, tau: float = 1.0) -> None: ...

    with pytest.raises(ValueError, match=r'Undescribed.*mse_weight.*tau'):
        tables['options'](Undescribed)


def test_formulas_are_plain_text():
    """TeX is unreadable in ``help()``, and browsers load its renderer from the network."""
    tex = re.compile(r':math:|\.\. math::|\$\$|\\(?:frac|sum|alpha|lambda|tau|mathrm)\b')
    files = [*PAGES, *(ROOT / 'mmkd_graph').rglob('*.py')]
    assert [file.name for file in files if tex.search(file.read_text(encoding='utf-8'))] == []


def test_messages_of_troubleshooting_are_those_of_the_code():
    literals = []
    for path in (ROOT / 'mmkd_graph').rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.JoinedStr):
                literals.append('\n'.join(v.value for v in node.values if isinstance(v, ast.Constant)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                literals.append(node.value)
    code = '\n'.join(literals)
    text = (ROOT / 'docs' / 'troubleshooting.md').read_text(encoding='utf-8')
    own, _ = text.split('## Harmless messages')
    messages = [m for m in re.findall(r'(?m)^\| `([^`]+)`', own) if not m.startswith('Duplicate key')]  # mmengine's
    assert len(messages) > 20
    for message in messages:
        for part in re.split('…', message):
            assert part.strip() in code, f'{part!r} of {message!r}'

"""Weights that are not there: a file that does not exist, a host that cannot be reached, a package that names them."""

from __future__ import annotations

import os.path as osp
import traceback
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

import torch

from mmkd_graph.checkpoints import is_address


class MissingWeights(FileNotFoundError):
    """Weights that a config names cannot be had here; the message begins with the key, and says what to do."""


def missing_weights(error: BaseException, key: str, checkpoint: str, whole_key: str = '') -> MissingWeights | None:
    """The error in words, if ``checkpoint`` could not be read for want of the file, of a connection or of torchvision.

    Args:
        error: as raised by mmengine's loader.
        key: what the message begins with.
        checkpoint: path or URL that the config names.
        whole_key: the key as ``--cfg-options`` takes it; default: ``key``.
    """
    chain = list(_chain(error))
    what = f'{key}={checkpoint!r}'
    copy = f'or set {whole_key or key} to the path of a copy'
    if any(isinstance(x, ModuleNotFoundError) and x.name == 'torchvision' for x in chain):
        return MissingWeights(f'{what}: torchvision is missing, which knows its address: {_install()}; {copy}')
    if not is_address(checkpoint):
        if not isinstance(error, FileNotFoundError) or osp.exists(checkpoint):
            return None
        where = f'{what}: no such file (working directory {osp.abspath(".")}){_others(Path(checkpoint))}'
        return MissingWeights(where)
    url, file = _download(error, checkpoint)
    host = urlsplit(url).netloc
    for cause in chain:
        if isinstance(cause, HTTPError):
            return MissingWeights(f'{what}: {host} answers {cause.code} ({cause.reason}) for {url}; {copy}')
    if not any(isinstance(x, (URLError, ConnectionError, TimeoutError)) for x in chain):
        return None
    address = '' if url == checkpoint else f' {url}'
    get = f'download{address or " it"} where there is one and put it into {osp.dirname(file)}'
    return MissingWeights(f'{what}: no connection to {host}: {get}, {copy}')


def loaded_name(error: BaseException) -> str | None:
    """What mmengine's loader was asked for when ``error`` was raised; None if it was not in it."""
    frames = [frame for x in _chain(error) for frame, _ in traceback.walk_tb(x.__traceback__)]
    asked = [f.f_locals.get('filename') for f in frames if f.f_code.co_name == 'load_checkpoint']
    return next((str(name) for name in reversed(asked) if name), None)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _download(error: BaseException, checkpoint: str) -> tuple[str, str]:
    """What was to be downloaded, which a scheme such as torchvision:// may hide, and where torch keeps it."""
    url = checkpoint
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == 'load_state_dict_from_url':
            url = frame.f_locals.get('url') or url
            if file := frame.f_locals.get('cached_file'):
                return url, file
    return url, osp.join(torch.hub.get_dir(), 'checkpoints', osp.basename(urlsplit(url).path))


def _others(path: Path) -> str:
    """The newest checkpoint that is in the folder instead."""
    found = sorted(path.parent.glob('*.pth'), key=lambda x: x.stat().st_mtime) if path.parent.is_dir() else []
    return f'; there is: {found[-1].name}' if found else ''


def _install() -> str:
    """The command that installs the torchvision of the installed torch, and nothing else."""
    version, _, build = torch.__version__.partition('+')
    major, minor, patch = [*version.split('.'), '0'][:3]
    fitting = f'==0.{int(minor) + 15}.{patch}' if major == '2' and patch.isdigit() else ''
    index = f' --index-url https://download.pytorch.org/whl/{build}' if build == 'cpu' else ''
    return f'pip install --no-deps torchvision{fitting}{index}'

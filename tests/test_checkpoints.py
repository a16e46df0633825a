"""Reading checkpoints as weights only, telling damaged ones, and writing whole ones."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim import OneCycleLR
from mmengine.optim.scheduler import OneCycleParamScheduler

from mmkd_graph.checkpoints import (
    TRUST,
    allow_logs,
    damage,
    not_weights,
    remove_partial,
    save_whole,
    trust_files,
    weights_only,
    write_whole,
)
from mmkd_graph.engine.resuming import find_resume_point, find_start, read_resume_point


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def checkpoint(iteration: int = 1, **more: object) -> dict:
    log = HistoryBuffer(np.array([1.5]), np.array([1]))
    message_hub = dict(log_scalars={'train/loss': log}, runtime_info=dict(best=np.float64(0.5), size=np.int64(3)))
    content = dict(meta=dict(iter=iteration, epoch=0, seed=7), state_dict=dict(w=torch.ones(64)), optimizer={})
    return dict(content, message_hub=message_hub, **more)


def test_logs_and_numbers_of_numpy_are_read_and_code_is_not_run(tmp_path: Path) -> None:
    save_whole(checkpoint(), tmp_path / 'good.pth')
    torch.save(checkpoint(evil=Evil(tmp_path / 'made')), tmp_path / 'evil.pth')
    with weights_only():
        content = torch.load(tmp_path / 'good.pth')
        with pytest.raises(pickle.UnpicklingError):
            torch.load(tmp_path / 'evil.pth', weights_only=False)
    assert content['message_hub']['log_scalars']['train/loss'].mean() == 1.5
    assert not (tmp_path / 'made').exists()
    with pytest.raises(ValueError, match=r'evil.pth: it holds more than weights \(\w+\.mkdir\)'):
        read_resume_point(tmp_path / 'evil.pth')


def test_getattr_of_a_checkpoint_reaches_the_log_history_only(tmp_path: Path) -> None:
    class Reach:
        def __reduce__(self) -> tuple:
            return getattr, (np.ndarray, 'tofile')

    torch.save(dict(reach=Reach()), tmp_path / 'reach.pth')
    with weights_only(), pytest.raises(Exception, match='tofile'):
        torch.load(tmp_path / 'reach.pth')


def test_a_one_cycle_schedule_is_read(tmp_path: Path) -> None:
    """Its state holds one of its own methods."""
    weight = torch.nn.Parameter(torch.ones(1))
    schedule = OneCycleLR(torch.optim.SGD([weight], lr=0.1, momentum=0.9), eta_max=1.0, total_steps=10)
    save_whole(checkpoint(param_schedulers=[schedule.state_dict()]), tmp_path / 'iter_1.pth')
    assert read_resume_point(tmp_path / 'iter_1.pth').iteration == 1
    torch.save(dict(x=OneCycleParamScheduler.step), tmp_path / 'other.pth')
    with weights_only(), pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / 'other.pth')


def test_mmengines_own_loading_can_be_told(tmp_path: Path) -> None:
    save_whole(checkpoint(), tmp_path / 'good.pth')
    before = torch.serialization.get_safe_globals()
    try:
        torch.serialization.clear_safe_globals()
        with pytest.raises(pickle.UnpicklingError):
            torch.load(tmp_path / 'good.pth')
        allow_logs()
        with weights_only():
            pass
        assert torch.load(tmp_path / 'good.pth')['meta']['iter'] == 1, 'still allowed after a context'
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def test_the_environment_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    monkeypatch.delenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', raising=False)
    before = dict(os.environ)
    with weights_only():
        assert 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD' not in os.environ
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ('break_', 'words'),
    [
        (lambda content: content[: len(content) // 2], 'cut off'),
        (lambda content: b'', 'empty'),
        (lambda content: b'not a checkpoint', 'cut off or no checkpoint'),
        # one byte of the weights, which torch.load does not see
        (lambda content: content.replace(b'\x00\x00\x80\x3f', b'\x00\x00\x80\x3e', 1), 'damaged'),
    ],
)
def test_damage_is_told(tmp_path: Path, break_, words: str) -> None:
    path = tmp_path / 'iter_1.pth'
    save_whole(checkpoint(), path)
    assert damage(path) is None
    path.write_bytes(break_(path.read_bytes()))
    assert words in damage(path)
    with pytest.raises(ValueError, match=words):
        read_resume_point(path)


def test_what_a_run_goes_on_from(tmp_path: Path) -> None:
    assert find_resume_point(tmp_path) == (None, [])
    for i in (1, 2, 3):
        save_whole(checkpoint(i), tmp_path / f'iter_{i}.pth')
        os.utime(tmp_path / f'iter_{i}.pth', (i, i))
    save_whole(dict(state_dict={}, meta=dict(iter=9)), tmp_path / 'student.pth')  # exported weights, the newest file
    point, refused = find_resume_point(tmp_path)  # killed before last_checkpoint was written for the first time
    assert (Path(point.path).name, point.iteration, point.seed, refused) == ('iter_3.pth', 3, 7, [])

    pointer = tmp_path / 'last_checkpoint'
    pointer.write_text('/another/machine/iter_2.pth')  # the folder was moved
    assert Path(find_resume_point(tmp_path)[0].path).name == 'iter_2.pth'
    pointer.write_text('')
    point, refused = find_resume_point(tmp_path)
    assert Path(point.path).name == 'iter_3.pth' and 'is empty' in refused[0]
    pointer.write_text(str(tmp_path / 'iter_4.pth'))
    point, refused = find_resume_point(tmp_path)
    assert Path(point.path).name == 'iter_3.pth' and 'is not there' in refused[0]

    pointer.write_text(str(tmp_path / 'iter_3.pth'))
    for i in (3, 2):
        (tmp_path / f'iter_{i}.pth').write_bytes(b'PK')
        os.utime(tmp_path / f'iter_{i}.pth', (i, i))
    point, refused = find_resume_point(tmp_path)
    assert Path(point.path).name == 'iter_1.pth'
    assert [Path(reason.split(':')[0]).name for reason in refused] == ['iter_3.pth', 'iter_2.pth']


@pytest.mark.parametrize(
    ('pointer', 'words'),
    [
        ('folder', 'it is a folder'),
        (b'\x80\x02\x00', 'it names no file'),
        ('link', 'it is a link to nothing'),
        (b'ab:\x00\x01', 'it names no file'),
        (b'a' * 300, 'is not there'),
        (b'a' * 5000, 'it names no file'),
        (b'epochs', 'epochs: it is a folder'),
        (b'student.pth', 'it holds weights without optimizer'),
        (b'noise', 'it is cut off or no checkpoint'),
    ],
)
def test_what_is_no_checkpoint_does_not_keep_a_whole_one_from_being_found(
    pointer: str | bytes, words: str, tmp_path: Path
) -> None:
    save_whole(checkpoint(4), tmp_path / 'iter_4.pth')
    (tmp_path / 'epochs').mkdir()
    (tmp_path / 'iter_5.pth').mkdir()
    (tmp_path / 'iter_6.pth').symlink_to(tmp_path / 'gone')
    (tmp_path / 'noise').write_bytes(bytes(range(256)))
    save_whole(dict(state_dict={}, meta=dict(iter=9)), tmp_path / 'student.pth')
    last = tmp_path / 'last_checkpoint'
    if pointer == 'folder':
        last.mkdir()
    elif pointer == 'link':
        last.symlink_to(tmp_path / 'gone')
    else:
        last.write_bytes(pointer)
    point, refused = find_resume_point(tmp_path)
    assert point.iteration == 4
    assert len(refused) == 1 and words in refused[0]


def test_a_folder_is_resumed_where_a_runner_reads_folders(tmp_path: Path) -> None:
    """Sharded checkpoints, written by a strategy of mmengine's ``FlexibleRunner``."""
    folder = tmp_path / 'iter_10.pth'
    folder.mkdir()
    (tmp_path / 'last_checkpoint').write_text(str(folder))
    for load_from, resume in ((str(folder), True), (None, 'auto')):
        start = find_start(tmp_path, load_from, resume, sharded=True)
        assert (start.path, start.resume, start.error) == (str(folder), True, '')
        start = find_start(tmp_path, load_from, resume, sharded=False)
        assert 'it is a folder' in start.error
    assert 'no checkpoint file' in find_start(tmp_path, str(tmp_path / 'iter_20.pth'), True, sharded=True).error


def test_a_checkpoint_on_a_remote_storage_is_left_to_mmengine(tmp_path: Path) -> None:
    """It cannot be looked through here, and it is not missing."""
    address = 's3://bucket/run/epoch_3.pth'
    assert find_start(tmp_path, address, True, sharded=False).path == address
    (tmp_path / 'last_checkpoint').write_text(address)
    start = find_start(tmp_path, 'weights.pth', 'auto', sharded=False)
    assert start.resume is True and start.path == address


def test_weights_of_any_age_are_taken_and_code_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(dict(state_dict=dict(w=torch.ones(2))), tmp_path / 'old.pth', _use_new_zipfile_serialization=False)
    save_whole(checkpoint(), tmp_path / 'new.pth')
    torch.save(checkpoint(evil=Evil(tmp_path / 'made')), tmp_path / 'evil.pth')
    assert not_weights(tmp_path / 'old.pth') is None and not_weights(tmp_path / 'new.pth') is None
    assert 'mkdir); reading it can run code' in not_weights(tmp_path / 'evil.pth')
    assert not (tmp_path / 'made').exists()
    for name in (TRUST, 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'):
        monkeypatch.setenv(name, '0')
    trust_files()
    assert not_weights(tmp_path / 'evil.pth') is None
    with weights_only():
        torch.load(tmp_path / 'evil.pth')
    assert (tmp_path / 'made').exists()


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / 'folder' / 'file'
    write_whole(b'old', path)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match=r'No space left on device, writing 0.0 MB.*folder/file') as caught:
        write_whole(b'new', path)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == b'old' and [p.name for p in path.parent.iterdir()] == ['file']
    (path.parent / '.file.part').write_bytes(b'ne')  # what a kill leaves
    remove_partial(path.parent)
    assert [p.name for p in path.parent.iterdir()] == ['file']

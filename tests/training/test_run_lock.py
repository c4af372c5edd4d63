"""Locks of run folders: one holder, who states himself, until his process and those that it has started end."""

import os
import signal
import socket
import subprocess

import pytest

from ebmzoo.errors import UserError
from ebmzoo.training.run_lock import CLAIM, LOCK, Holder, RunLock, holder_of


def test_a_second_one_learns_who_holds_the_folder(tmp_path):
    assert holder_of(tmp_path) is None
    with RunLock.take(tmp_path) as first:
        assert isinstance(first, RunLock)
        second = RunLock.take(tmp_path)
        assert isinstance(second, Holder)
        assert (second.pid, second.host) == (os.getpid(), socket.gethostname())
        assert str(second) == f"process {os.getpid()} on {socket.gethostname()} since {second.since}"
        assert holder_of(tmp_path) == second
        assert holder_of(tmp_path, CLAIM) is None
    assert holder_of(tmp_path) is None
    with RunLock.take(tmp_path) as again:
        assert isinstance(again, RunLock)


def test_a_folder_that_was_made_for_the_lock_alone_goes_with_it(tmp_path):
    with RunLock.take(tmp_path / "a" / "run"):
        assert (tmp_path / "a" / "run" / LOCK).exists()
    assert not (tmp_path / "a" / "run").exists()
    with RunLock.take(tmp_path / "run"):
        (tmp_path / "run" / "last.ckpt").write_text("")
    assert (tmp_path / "run" / "last.ckpt").exists()


@pytest.mark.parametrize(
    "content", ["", "half", "[1]", '{"pid": 1}', '{"pid": 999999, "host": "here", "since": "then"}']
)
def test_a_file_that_nobody_locks_is_taken_over(content, tmp_path):
    (tmp_path / LOCK).write_text(content)
    assert holder_of(tmp_path) is None
    with RunLock.take(tmp_path) as lock:
        assert isinstance(lock, RunLock)
        assert holder_of(tmp_path).pid == os.getpid()


def test_a_killed_process_frees_its_folder(tmp_path):
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        RunLock.take(tmp_path)
        os.write(writes, b"1")
        signal.pause()
    os.read(reads, 1)
    assert RunLock.take(tmp_path).pid == child
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with RunLock.take(tmp_path) as lock:
        assert isinstance(lock, RunLock)
    os.close(reads)
    os.close(writes)


@pytest.mark.parametrize("inherited", [True, False])
def test_a_started_process_holds_an_inherited_lock_longer(inherited, tmp_path):
    lock = RunLock.take(tmp_path, inherited=inherited)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False) as started:
        lock.release()
        assert (holder_of(tmp_path) is not None) is inherited
        started.stdin.close()
    assert holder_of(tmp_path) is None


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / LOCK).symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match=r"^run_dir: .*\.lock cannot be created"):
        RunLock.take(tmp_path)
    assert (tmp_path / "victim").read_text() == "mine"

"""Commands end at once on SIGTERM and Ctrl-C, with one sentence, and those of a benchmark with the benchmark."""

import os
import select
import signal
from types import SimpleNamespace

import pytest

from ebmzoo.commands.benchmark.runner import in_own_process
from ebmzoo.commands.cli import main
from ebmzoo.data import ImageData
from ebmzoo.tasks import Task
from ebmzoo.training import signals
from ebmzoo.training.signals import Stopped, end_with_parent, stopping_on_signals
from support.paths import DATA

SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])


@pytest.fixture(autouse=True)
def _heeds_interrupts():
    """A shell's background jobs ignore SIGINT, and commands that start in one leave it so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Sends(Task):
    """Sends a signal to its own process; what comes after it is not to be reached."""

    name = "sends"
    data_types = ImageData

    def __init__(self, number: int = 15):
        self.number = number

    def __call__(self, method, data, folder=None):
        signal.raise_signal(self.number)
        raise AssertionError("the signal was ignored")


class Later(Task):
    name = "later"
    data_types = ImageData

    def __call__(self, method, data, folder=None):
        raise AssertionError("the signal was ignored")


def stopped(capsys, *args):
    """The exit code and the sentence of a command that a signal ends."""
    with pytest.raises(SystemExit) as left:
        main([str(arg) for arg in args])
    told = [line for line in capsys.readouterr().err.splitlines() if "SIG" in line]
    assert len(told) == 1
    return left.value.code, told[0]


@SIGNALS
@pytest.mark.parametrize("command", ["sample", "restore", "compare", "benchmark", "predict"])
def test_every_command_is_stopped_where_it_is(command, number, monkeypatch, capsys):
    command_module = SimpleNamespace(main=lambda args: signal.raise_signal(number))
    monkeypatch.setattr("ebmzoo.commands.import_module", lambda name: command_module)
    before = signal.getsignal(number)
    assert stopped(capsys, command) == (128 + number, f"ebmzoo: stopped by {number.name}")
    assert signal.getsignal(number) is before


@SIGNALS
def test_a_test_is_stopped_in_the_middle_of_a_task(number, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    (tmp_path / "last.ckpt").write_bytes((DATA / "format1.ckpt").read_bytes())
    tasks = f'[{{"class_path": "test_signals.Sends", "init_args": {{"number": {int(number)}}}}}, "test_signals.Later"]'
    line = ["test", "--ckpt_path", tmp_path / "last.ckpt", "--trust", "--tasks", tasks, "--only", "config"]
    assert stopped(capsys, *line) == (128 + number, f"ebmzoo: stopped by {number.name}")


def test_handlers_of_the_process_are_left_alone():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append("own"))
    try:
        with stopping_on_signals():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == ["own"]


# ── parents and children ─────────────────────────────────────────────────────────────────────────────────────────────

CHILD = """
import importlib.util, os, signal, sys
spec = importlib.util.spec_from_file_location("signals", {signals!r})
signals = importlib.util.module_from_spec(spec)
sys.modules["signals"] = signals
spec.loader.exec_module(signals)
signals.end_with_parent()
os.write({pipe}, b"%d\\n" % os.getpid())
signal.pause()
"""


@pytest.fixture
def family(tmp_path):
    """`family(number)`: a process that runs `in_own_process` is sent a signal; its exit, when its child has ended."""
    reads, writes = os.pipe()
    os.set_inheritable(writes, True)
    (tmp_path / "fake" / "ebmzoo").mkdir(parents=True)
    (tmp_path / "fake" / "ebmzoo" / "__init__.py").write_text("")
    child = CHILD.format(signals=signals.__file__, pipe=writes)
    (tmp_path / "fake" / "ebmzoo" / "__main__.py").write_text(child)
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "fake")}

    def sent(number):
        parent = os.fork()
        if parent == 0:
            try:
                with stopping_on_signals():
                    in_own_process(["fit"], tmp_path / "fit.log", environment)
            except Stopped as stop:
                os._exit(stop.code)
            finally:
                os._exit(1)
        os.close(writes)
        started = os.read(reads, 100)
        assert started, (tmp_path / "fit.log").read_text()
        os.kill(parent, number)
        ended, _, _ = select.select([reads], [], [], 20)
        try:
            assert ended, "the child outlives its parent"
            assert os.read(reads, 100) == b""
        finally:
            if not ended:
                os.kill(int(started), signal.SIGKILL)
        return os.waitpid(parent, 0)[1]

    yield sent
    os.close(reads)


def test_a_killed_parent_takes_its_child_along(family):
    assert family(signal.SIGKILL) == signal.SIGKILL


@SIGNALS
def test_a_stopped_parent_ends_its_child_first(number, family):
    assert os.waitstatus_to_exitcode(family(number)) == 128 + number


def test_a_process_whose_parent_has_ended_before_does_not_begin(monkeypatch):
    monkeypatch.setenv(signals.PARENT, str(os.getpid()))  # which is not this process's parent
    monkeypatch.setattr(signals.sys, "platform", "another")
    with pytest.raises(Stopped):
        end_with_parent()
    assert signals.PARENT not in os.environ
    end_with_parent()  # without the variable nothing happens

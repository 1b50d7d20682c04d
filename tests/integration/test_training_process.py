"""The TensorFlow process: values, errors, logs, and its end whatever happens to either side."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.sections.data import Data
from tasks.datasets.prepare import call_loader
from tasks.datasets.rows import load_arrays
from tasks.errors import DataError, PipelineError, TrainingError
from tasks.faults import Fault
from tasks.records import TensorSpec
from tasks.training import process

PARENT = """
import os, sys, time
from tasks.training import process
process.warm_up()
print(process.call(os.getpid), flush=True)
process.submit(time.sleep, 600)  # in the middle of a long fit
time.sleep(600)
"""


def alive(pid: int) -> bool:
    """Return whether a process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until_gone(pid: int, timeout_s: float = 300) -> bool:
    deadline = time.monotonic() + timeout_s
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


@pytest.fixture(scope="module")
def child() -> Iterator[None]:
    """Have one TensorFlow process for the tests that leave it alive, which finds this module."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        with process.tensorflow_process():
            yield


@pytest.fixture
def empty_keras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare a test that is about processes the seconds of TensorFlow: children import an empty `keras`."""
    (tmp_path / "keras.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@pytest.mark.usefixtures("child")
def test_a_call_returns_its_value() -> None:
    """A function runs in another process and its value comes back, in the order of the calls."""
    assert process.call(os.getpid) != os.getpid()
    first, second = process.submit(divmod, 7, 3), process.submit(str, TensorSpec("x", "float32", (None, 2)))
    assert first() == (2, 1)
    assert second() == "x: float32 (?, 2)"


@pytest.mark.usefixtures("child")
def test_answers_in_any_order() -> None:
    """Each question gets its own answer in whatever order the answers are fetched, or are not."""
    waiting = [process.submit(divmod, 100 + number, 10) for number in range(6)]
    refused = process.submit(divmod, 1, 0)
    assert process.call(divmod, 7, 3) == (2, 1)
    for number in (3, 0, 5):
        assert waiting[number]() == divmod(100 + number, 10)
    with pytest.raises(PipelineError, match="ZeroDivisionError"):
        refused()
    assert waiting[1]() == (10, 1)


@pytest.mark.usefixtures("child")
def test_a_pipeline_error_keeps_its_class(tmp_path: Path) -> None:
    """A PipelineError of the child is raised in the parent with its class, its words and the child's traceback."""
    with pytest.raises(DataError, match="saved arrays must be readable") as caught:
        process.call(load_arrays, tmp_path / "absent.npz")
    assert "load_arrays" in "".join(caught.value.__notes__)
    assert process.call(divmod, 7, 3) == (2, 1)  # and the child goes on


def _raise_from_an_own_class() -> None:
    """Raise an error that comes from one of a local class, where whole chains of errors are sent, as by Dask."""
    from tblib import pickling_support

    class OwnError(Exception):
        pass

    pickling_support.install()
    try:
        raise OwnError("the cause")
    except OwnError as exc:
        raise TrainingError("no model") from exc


@pytest.mark.usefixtures("child")
def test_an_error_is_sent_without_its_causes() -> None:
    """An error whose cause only the child can know arrives with its text, and not as the end of the child."""
    with pytest.raises(TrainingError, match="no model") as caught:
        process.call(_raise_from_an_own_class)
    assert str(caught.value) == "no model"
    assert caught.value.__cause__ is None
    assert "OwnError: the cause" in "".join(caught.value.__notes__)


@pytest.mark.usefixtures("child")
def test_log_records_reach_the_parent(caplog: pytest.LogCaptureFixture) -> None:
    """What is logged below `tasks` in the child is handled by the same logger in the parent; other loggers are not."""
    with caplog.at_level(logging.INFO, "tasks"):
        process.call(_log_in_child)
    found = [(r.name, r.levelname, r.getMessage()) for r in caplog.records if r.process != os.getpid()]
    assert found == [("tasks.training.fit", "INFO", "epoch 3 of 7"), ("tasks", "WARNING", "careful")]


def _log_in_child() -> None:
    logging.getLogger("tasks.training.fit").info("epoch %d of %d", 3, 7)
    logging.getLogger("elsewhere").info("not for the parent")
    logging.getLogger("tasks").warning("careful")


@pytest.mark.usefixtures("empty_keras")
@pytest.mark.parametrize(("number", "words"), [(signal.SIGKILL, "out of memory"), (signal.SIGSEGV, "signal 11")])
def test_a_killed_child_is_a_training_error(number: signal.Signals, words: str) -> None:
    """A child that is killed in the middle of a call gives a TrainingError that names the signal."""
    with process.tensorflow_process():
        pid = process.call(os.getpid)
        waiting = process.submit(time.sleep, 600)
        os.kill(pid, number)
        with pytest.raises(TrainingError, match=rf"signal {int(number)}\b") as caught:
            waiting()
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
        assert (caught.value.fault is Fault.MEMORY) is (number == signal.SIGKILL)  # a sweep tries it again alone


@pytest.mark.usefixtures("empty_keras")
def test_a_crash_names_the_users_line(tmp_path: Path) -> None:
    """A crash in native code, which raises nothing in Python, is told with the line that led to it."""
    (tmp_path / "crashing.py").write_text("import ctypes\ndef load():\n    return ctypes.string_at(0)\n")
    with process.tensorflow_process(), pytest.raises(TrainingError) as caught:
        process.call(call_loader, Data(load="crashing:load"))
    assert "(signal 11 at crashing.py:3 in load)" in str(caught.value)


class _StoppedWaiting(Exception):
    pass


def _stop_waiting(*_: object) -> None:
    raise _StoppedWaiting


@pytest.mark.usefixtures("empty_keras")
def test_a_late_answer_is_not_the_next_ones(tmp_path: Path) -> None:
    """Answers to questions that were given up come after the next question was asked, and are not taken for its."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    before = signal.signal(signal.SIGUSR1, _stop_waiting)
    interrupt = threading.Thread(target=signal.pthread_kill, args=(threading.get_ident(), signal.SIGUSR1))
    try:
        with process.tensorflow_process():
            late = process.submit(Path.read_bytes, fifo)  # until this test writes into it
            process.submit(load_arrays, tmp_path / "absent.npz")
            with pytest.raises(_StoppedWaiting):
                interrupt.start()
                late()
            following = process.submit(divmod, 7, 3)
            fifo.write_bytes(b"late")
            assert following() == (2, 1)
            assert late() == b"late"
    finally:
        interrupt.join()
        signal.signal(signal.SIGUSR1, before)


def test_a_child_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a child printed before it failed by itself is the error's detail, and its last line is in the error."""
    (tmp_path / "keras.py").write_text("raise ImportError('no abacus here')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with process.tensorflow_process(), pytest.raises(TrainingError) as caught:
        process.call(os.getpid)
    assert "(exit status 1, ImportError: no abacus here)" in str(caught.value)
    assert "raise ImportError" in caught.value.detail


@pytest.mark.usefixtures("empty_keras")
def test_keras_computes_with_tensorflow(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Another backend of the user's does not count where models are made for TensorFlow Serving, and that is said."""
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    with process.tensorflow_process():
        assert process.call(os.getenv, "KERAS_BACKEND") == "tensorflow"
    assert "KERAS_BACKEND=jax does not count here" in caplog.text


@pytest.mark.usefixtures("empty_keras")
def test_the_child_ends_with_the_block() -> None:
    """The process is gone when the block ends, even in the middle of a call."""
    with process.tensorflow_process():
        pid = process.call(os.getpid)
        process.submit(time.sleep, 600)
    assert not alive(pid)


@pytest.mark.usefixtures("empty_keras")
def test_the_child_ends_when_its_parent_is_killed() -> None:
    """A SIGKILL of the parent ends the child, even in the middle of a call."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
    finally:
        parent.kill()
        parent.communicate()
    assert wait_until_gone(pid)


def test_the_childs_temporary_files_go_with_it() -> None:
    """What TensorFlow leaves in its temporary directory, such as AutoGraph's sources, is gone when the child is."""
    with process.tensorflow_process():
        left = Path(process.call(tempfile.mkdtemp))
        assert left.is_dir()
    assert not left.parent.exists()
    assert left.parent.name.startswith("rehearsal-")


class _Ending(logging.Handler):
    """Lets a child that reads a pipe go on once its parent has said three times that it waits."""

    def __init__(self, pipe: Path) -> None:
        super().__init__()
        self.pipe, self.said = pipe, list[str]()

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())
        if len(self.said) == 3:
            self.pipe.write_text("done")


@pytest.mark.usefixtures("empty_keras")
def test_a_silent_child_is_waited_for_aloud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While the child imports TensorFlow or fits, the parent says how long it waits, after a minute less often."""
    monkeypatch.setattr(process, "SILENCE_S", 0.01)
    monkeypatch.setattr(process, "LONG_S", 0.02)
    caplog.set_level(logging.INFO, logger=process.log.name)
    os.mkfifo(tmp_path / "pipe")
    handler = _Ending(tmp_path / "pipe")
    process.log.addHandler(handler)
    try:
        with process.tensorflow_process():
            assert process.call(Path.read_text, handler.pipe) == "done"
    finally:
        process.log.removeHandler(handler)
    said = [f"waiting for the TensorFlow process, {waited} s so far" for waited in (0.01, 0.02, 0.04)]
    assert handler.said[:3] == said

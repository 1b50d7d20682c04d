"""The suite itself: it starts from the same state wherever it is started, and leaves no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.conftest import ENDS_WITH_US

ROOT = Path(__file__).parents[2]
INNER = """
import os, signal, subprocess, sys
from pathlib import Path

def test_signals():
    child = subprocess.run([sys.executable, "-c", "import signal; print(signal.getsignal(signal.SIGINT))"],
                           capture_output=True, text=True, check=True)
    assert "default_int_handler" in child.stdout, child.stdout

def test_that_fails():
    started = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    Path(os.environ["PIDS"]).write_text(str(started.pid))
    assert False
"""


def test_a_suite_that_was_started_in_the_background(tmp_path: Path) -> None:
    """With SIGINT ignored, as nohup and cron leave it, tests still see it; what a failed test started is ended."""
    (tmp_path / "test_inner.py").write_text(INNER)
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    options = f"-q -p no:cacheprovider -c {os.devnull} --rootdir {tmp_path}"
    done = subprocess.run(
        ["/bin/sh", "-c", f"trap '' INT; exec {sys.executable} -m pytest {options} {tmp_path}"],
        capture_output=True, text=True, check=False, cwd=tmp_path, env={**os.environ, "PIDS": str(tmp_path / "pid")},
    )  # fmt: skip
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    state = Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat")
    assert not state.exists() or ") Z " in state.read_text()


def test_a_worker_that_is_killed() -> None:
    """A server that was started for several tests ends with the process that runs them, even if that is killed."""
    server = [*ENDS_WITH_US, "sh", "-c", "echo started; exec sleep 1000"]
    code = f"import subprocess, time; subprocess.Popen({server}, start_new_session=True); time.sleep(1000)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"started\n"
        worker.send_signal(signal.SIGKILL)
        worker.stdout.read()  # its end comes when the last process that holds the pipe has ended

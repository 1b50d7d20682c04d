"""A run that is ended from outside: exit code 130, nothing live, nothing half-made, no process left."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Poll = Callable[[Callable[[], bool], float], bool]
ENDLESS = ("--set", "training.epochs=100000", "--set", "training.patience=0")


def end_group(process: subprocess.Popen[str]) -> None:
    """Do what a terminal does at Ctrl-C: SIGINT to the whole process group."""
    os.killpg(process.pid, signal.SIGINT)


def end_process(process: subprocess.Popen[str]) -> None:
    """Do what Prefect, systemd and Docker do: SIGTERM to the one process."""
    process.terminate()


INTERRUPT, END = pytest.param(end_group, id="SIGINT"), pytest.param(end_process, id="SIGTERM")


def later(way: Any) -> Any:
    """Return a way to end a run as a slower proof."""
    return pytest.param(*way.values, id=way.id, marks=pytest.mark.long)


def table() -> dict[int, tuple[int, str]]:
    """Return pid to (parent's pid, command line) of every process that is no zombie."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue  # it ended while we looked
            if fields[0] != "Z":
                found[int(entry.name)] = (int(fields[1]), command)
    return found


def descendants(pid: int) -> dict[int, str]:
    """Return pid to command line of everything that descends from a process."""
    processes, family = table(), {pid}
    while grown := {child for child, (parent, _) in processes.items() if parent in family} - family:
        family |= grown
    return {child: processes[child][1] for child in family - {pid} if child in processes}


def ended_cleanly(run: subprocess.Popen[str], family: set[int], workspace: Any, wait_for: Poll) -> None:
    """Assert that a run ended as an interrupted one: code, words, disk, processes."""
    out, err = run.communicate(timeout=600)
    assert run.returncode == 130, out + err
    assert err.splitlines()[-1:] == ["interrupted"], err
    assert "Traceback" not in err
    assert workspace.versions() == []
    assert not list(workspace.work_dir.rglob(".staging-*"))
    assert wait_for(lambda: not family & set(table()), 600), {pid: table().get(pid) for pid in family}


@pytest.mark.parametrize("end", [INTERRUPT, later(END)])
def test_ended_in_training(end: Callable[[Any], None], workspace: Any, wait_for: Poll) -> None:
    """A run that is ended while it trains leaves no candidate and no TensorFlow process."""
    run = workspace.start(*ENDLESS)
    assert run.stdout is not None
    assert any("epoch 3/" in line for line in run.stdout)  # blocks until the model trains
    family = descendants(run.pid)
    assert any("tasks.training.worker" in command for command in family.values())
    end(run)
    ended_cleanly(run, set(family), workspace, wait_for)
    assert not (workspace.work_dir / "candidates").exists()


@pytest.mark.parametrize("end", [later(INTERRUPT), END])
def test_ended_in_validation(end: Callable[[Any], None], workspace: Any, wait_for: Poll) -> None:
    """A run that is ended while a server judges its candidate leaves no server and nothing live."""
    run = workspace.start("--set", "training.epochs=2")
    lines: list[str] = []
    assert run.stdout is not None
    reader = threading.Thread(target=lines.extend, args=(run.stdout,))  # an unread pipe would stop the run
    reader.start()
    seen: dict[int, str] = {}

    def serving() -> bool:
        seen.update(descendants(run.pid))
        return run.poll() is not None or any("tasks.model_server" in command for command in seen.values())

    assert wait_for(serving, 600)
    end(run)
    reader.join(60)
    ended_cleanly(run, set(seen), workspace, wait_for)
    assert any("tasks.model_server" in command for command in seen.values())
    assert (workspace.work_dir / "candidates" / "digits" / "1").is_dir()


@pytest.mark.long
def test_a_killed_run_goes_on_when_it_is_repeated(workspace: Any, wait_for: Poll) -> None:
    """A run that is killed while it trains, and repeated, says on the screen and in its version that it was resumed."""
    settings = ("--set", "training.epochs=400", "--set", "training.patience=0")
    run = workspace.start(*settings)
    assert wait_for(lambda: bool(list(workspace.work_dir.glob("trainings/*/*/epoch-*"))), 600)
    family = descendants(run.pid)
    run.kill()
    run.communicate(timeout=600)
    assert wait_for(lambda: not set(family) & set(table()), 600)
    again = workspace.run(*settings)
    assert "an interrupted training of the same model and rows goes on after epoch" in again.stdout + again.stderr
    assert "resumed after epoch" in again.stdout
    [record] = workspace.work_dir.glob("candidates/*/*/assets.extra/training.json")
    assert "resumed_after_epochs" in record.read_text()
    _, [version] = workspace.registry()
    assert version.tags["training"].startswith("resumed after epoch")
    assert not list(workspace.work_dir.glob("trainings/*/*"))

"""What the command line answers at once: help, version, configuration errors, the dry run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HEAVY = ("tensorflow", "keras", "mlflow", "prefect", "sklearn", "pandas", "docker", "matplotlib")
ASK_AND_LOOK = f"""
import contextlib, io, json, sys
from flows.cli import main
codes, said = [], io.StringIO()
with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
    for argv in json.loads(sys.argv[1]):
        try:
            codes.append(main(argv))
        except SystemExit as end:
            codes.append(end.code)
print(json.dumps([codes, sorted(set({HEAVY!r}) & set(sys.modules))]))
"""


@pytest.fixture
def quick(repository: Path, tmp_path: Path) -> Any:
    """Return a function that runs the command line where nothing but the configuration is needed."""

    def running(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "flows.train_and_serve", *args],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(repository), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    return running


def test_help_names_every_argument_and_exit_code(quick: Any) -> None:
    """`--help` exits 0 and names the arguments and the exit codes."""
    done = quick("--help")
    assert done.returncode == 0
    assert done.stderr == ""
    for word in ("--config", "--set", "--no-promote", "--dry-run", "--debug", "--version", "Exit codes", "3 rejected"):
        assert word in " ".join(done.stdout.split())


def test_version(quick: Any) -> None:
    """`--version` exits 0 and names the project."""
    done = quick("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("keras-rehearsal")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--config", "nowhere.yaml"), "nowhere.yaml"),
        (("--config", "{digits}", "--set", "trianing.epochs=3"), "did you mean 'training'?"),
        (("--config", "{digits}", "--set", "training.epochs=many"), "'training.epochs'"),
        (("--config", "{digits}", "--set", "name=a/b"), "must consist of letters, digits"),
        (("--config", "{digits}", "--set", "data.load=nowhere:load"), "there is no module 'nowhere'"),
        (("--config", "{digits}", "--set", "epochs"), "--set must be given section.key=value"),
    ],
)
def test_a_configuration_error_is_one_line_and_leaves_nothing(
    quick: Any, repository: Path, tmp_path: Path, args: tuple[str, ...], words: str
) -> None:
    """A configuration error exits 2 with one line on stderr, nothing on stdout and nothing on the disk."""
    done = quick(*(word.format(digits=repository / "configs" / "digits.yaml") for word in args))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_missing_argument_is_a_usage_error(quick: Any) -> None:
    """Without --config the exit code is 2 and stderr says what is required."""
    done = quick()
    assert done.returncode == 2
    assert "--config" in done.stderr
    assert "Traceback" not in done.stderr


def test_debug_shows_the_traceback(quick: Any) -> None:
    """`--debug` puts the traceback before the line, which stays the last one."""
    done = quick("--config", "nowhere.yaml", "--debug")
    assert done.returncode == 2
    assert "Traceback (most recent call last)" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")


def test_nothing_heavy_is_imported_for_a_quick_answer(repository: Path, tmp_path: Path) -> None:
    """Help, a configuration error and a dry run are answered without importing what takes seconds."""
    digits = str(repository / "configs" / "digits.yaml")
    argvs = [
        ["--help"],
        ["--config", "nowhere.yaml"],
        ["--config", digits, "--set", "nmae=x"],
        ["--config", digits, "--dry-run"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", ASK_AND_LOOK, json.dumps(argvs)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    assert json.loads(done.stdout) == [[0, 2, 2, 0], []]


@pytest.mark.parametrize("flow", ["train_and_serve", "promote", "rollback", "doctor", "try_out", "reap"])
def test_every_command_helps_at_once(flow: str, repository: Path, tmp_path: Path) -> None:
    """`--help` of each command exits 0, names its exit codes, and imports nothing that takes seconds."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", f"flows.{flow}", "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    assert done.stdout.startswith(f"usage: python -m flows.{flow}")
    assert "Exit codes: 0 " in done.stdout
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "argparse" in imported
    assert imported & set(HEAVY) == set()


@pytest.mark.parametrize("flow", ["promote", "rollback", "doctor", "try_out"])
def test_every_command_refuses_a_wrong_configuration(flow: str, repository: Path, tmp_path: Path) -> None:
    """Each command refuses a configuration with exit code 2 in one line, and creates nothing."""
    digits = str(repository / "configs" / "digits.yaml")
    version = ("--version", "1") if flow == "try_out" else ()
    done = subprocess.run(
        [sys.executable, "-m", f"flows.{flow}", "--config", digits, "--set", "promote.layuot=labels", *version],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert "did you mean 'layout'?" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_shows_the_configuration_and_creates_nothing(quick: Any, repository: Path, tmp_path: Path) -> None:
    """`--dry-run` exits 0, shows every section with its overrides, and leaves the disk as it was."""
    digits = str(repository / "configs" / "digits.yaml")
    places = ("--set", f"work_dir={tmp_path}/work", "--set", f"models_root={tmp_path}/models")
    done = quick("--config", digits, "--dry-run", *places, "--set", f"tracking.uri=sqlite:///{tmp_path}/m.db")
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("name: digits", "models_root:", "startup_timeout_s:", f"would promote to {tmp_path}/models/digits/"):
        assert word in done.stdout
    assert list(tmp_path.iterdir()) == []


COMMANDS = [
    ["-m", "flows.train_and_serve", "--config", "configs/digits.yaml", "--dry-run"],
    ["-m", "flows.train_and_serve", "--help"],
    ["-c", "from flows.main import main; raise SystemExit(main(['--help']))"],
    ["-c", "from flows.main import main; raise SystemExit(main(['run', '--help']))"],
]


def _run(words: list[str], directory: Path, stdout: Any = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, cwd=directory, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=600, check=False
    )


@pytest.mark.parametrize("words", COMMANDS, ids=["dry run", "help", "script's help", "command's help"])
def test_a_reader_that_goes_away_is_no_error(repository: Path, words: list[str]) -> None:
    """`| head` closes the pipe: the command ends as it does otherwise, and says nothing of it."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = _run([sys.executable, *words], repository, stdout=writer)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("closed", ["1", "2", "1 and 2"])
def test_closed_descriptors_are_no_error(repository: Path, closed: str) -> None:
    """A scheduler may start a command without standard output or error."""
    redirections = {"1": ">&-", "2": "2>&-", "1 and 2": ">&- 2>&-"}[closed]
    line = f"{sys.executable} -m flows.train_and_serve --config configs/digits.yaml --dry-run {redirections}"
    done = _run(["/bin/sh", "-c", line], repository)
    assert done.returncode == 0
    assert ("name: digits" in done.stdout, done.stderr) == (closed == "2", "")


def test_output_that_has_no_room_is_one_warning(repository: Path) -> None:
    """The outcome stays what it is where the disk of a redirected output is full."""
    with Path("/dev/full").open("w") as full:
        done = _run([sys.executable, *COMMANDS[0]], repository, stdout=full)
    assert done.returncode == 0
    assert done.stderr == "warning: standard output cannot be written: No space left on device\n"

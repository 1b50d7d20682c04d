"""Configurations that nobody should write, by the command line: exit code 2, one line, nothing created."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MINIMAL = "name: m\ndata: {load: 'configs.digits:load'}\nmodel: {build: 'configs.digits:build'}\n"


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("seed: 2024-13-45", "not a valid timestamp"),
        ("seed: " + "9" * 5000, "5,000"),
        ('work_dir: "a\\0b"', "NUL"),
        ("models_root: loop", "models_root"),
        ("x: &a [*a]", "refers to a value that contains it"),
        ("promote: {live_url: 'http://a b'}", "live_url"),
        ("gates: {metrics: {accuracy: {min: .nan}}}", "finite"),
    ],
)
@pytest.mark.parametrize("flow", ["train_and_serve", "try_out"])
def test_one_line_and_exit_code_2(tmp_path: Path, flow: str, extra: str, words: str) -> None:
    """Every command says in one line what is wrong, with exit code 2, and leaves nothing behind."""
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "cfg.yaml").write_text(MINIMAL + extra)
    before = sorted(tmp_path.iterdir())
    command = [sys.executable, "-m", f"flows.{flow}", "--config", "cfg.yaml"]
    done = subprocess.run(
        [*command, *(["--version", "1"] if flow == "try_out" else [])],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
    assert sorted(tmp_path.iterdir()) == before

"""Trying a model by hand, by the command line: the printed request works as it is, and rows become a table."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
TWOV = ROOT / "tests/data/tfs_rest/models/twov"  # version N: x -> 0.5 x + N + 1
BACKENDS = [pytest.param("embedded"), pytest.param("docker", marks=pytest.mark.docker)]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Give a directory with a configuration that names no code, rows, a candidate 3 and the live version 2."""
    (tmp_path / "cfg.yaml").write_text("name: twov\n")
    (tmp_path / "tmp").mkdir()
    (tmp_path / "rows.csv").write_text("id,x\na,0\nb,2\nc,4\n")
    shutil.copytree(TWOV / "3", tmp_path / ".rehearsal" / "candidates" / "twov" / "3")
    shutil.copytree(TWOV / "2", tmp_path / "models" / "twov" / "2")
    return tmp_path


@pytest.fixture
def server(request: pytest.FixtureRequest) -> list[str]:
    """Return the options of the test's server; only a docker one needs an image."""
    kind = str(request.param)
    words = ["--set", f"serving.backend={kind}"]
    return [*words, "--set", f"serving.image={request.getfixturevalue('test_image')}"] if kind == "docker" else words


def start(project: Path, words: Sequence[str]) -> subprocess.Popen[str]:
    """Start the command with a directory of its own for temporary files."""
    return subprocess.Popen(
        [sys.executable, "-m", "flows.try_out", "--config", "cfg.yaml", *words],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(project / "tmp")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(project: Path, *words: str) -> tuple[int, str, str]:
    """Run the command to its end, and return exit code, standard output and error."""
    process = start(project, words)
    out, err = process.communicate(timeout=600)
    assert list((project / "tmp").iterdir()) == []
    return process.returncode, out, err


@pytest.mark.parametrize("server", BACKENDS, indirect=True)
@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_rows_become_a_table(project: Path, server: list[str], suffix: str) -> None:
    """Rows are answered by the candidate, and kept with all their columns; the command ends by itself."""
    code, out, err = run(project, *server, "--version", "3", "--rows", "rows.csv", "--out", f"answers{suffix}")
    assert (code, err) == (0, ""), out
    lines = [line.split() for line in out.splitlines()]
    assert lines[-5:-1] == [["id", "x", "served.output_0"], ["a", "0", "[4]"], ["b", "2", "[5]"], ["c", "4", "[6]"]]
    readers = {".csv": pd.read_csv, ".json": pd.read_json, ".parquet": pd.read_parquet}
    table = readers[suffix](project / f"answers{suffix}")
    assert table["id"].tolist() == ["a", "b", "c"]
    answers = table["served.output_0.0" if suffix == ".csv" else "served.output_0"]
    assert [float(answer if suffix == ".csv" else answer[0]) for answer in answers] == [4, 5, 6]


@pytest.mark.parametrize("server", BACKENDS, indirect=True)
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_the_printed_request_works_until_it_is_stopped(project: Path, server: list[str], end: int) -> None:
    """The live version is served; both printed requests are answered as they stand, and the end leaves nothing."""
    process = start(project, server)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:  # ends where the process ends
        lines.append(line.rstrip("\n"))
        if lines[-1] == "Press Ctrl-C to stop the server":
            break
    text = "\n".join(lines)
    assert "'twov' version 2 answers at http://" in text, process.communicate(timeout=600)
    curl = next(line for line in lines if line.startswith("curl "))
    asked = subprocess.run(["bash", "-c", curl], capture_output=True, text=True, timeout=600, check=True)
    assert json.loads(asked.stdout) == {"outputs": [[3.0]]}  # of zeros
    python = text[text.index("import json") : text.index("\n\nPress Ctrl-C")]
    asked = subprocess.run([sys.executable, "-c", python], capture_output=True, text=True, timeout=600, check=True)
    assert asked.stdout == "{'outputs': [[3.0]]}\n"
    os.killpg(process.pid, end)
    assert (process.wait(timeout=600), process.communicate(timeout=600)[1]) == (0, "")
    assert list((project / "tmp").iterdir()) == []


def test_a_savedmodel_from_elsewhere(project: Path) -> None:
    """Any SavedModel directory is served, whatever its name, and `export.inputs` says which column an input takes."""
    shutil.copytree(TWOV / "1", project / "a model")
    (project / "rows.json").write_text('{"amount": 10}\n')
    words = ("--set", "serving.backend=embedded", "--set", "export.inputs={x: amount}")
    code, out, err = run(project, *words, "--model", "a model", "--rows", "rows.json")
    assert (code, err) == (0, ""), out
    assert out.splitlines()[-1].split() == ["10", "[7]"]

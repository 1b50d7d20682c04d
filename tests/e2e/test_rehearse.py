"""Models that were trained elsewhere, by the command line: their own bytes are judged, registered and served."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import ROOT

CONFIG = "name: given\ngates: {latency: {requests: 50}}\n"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write SavedModels by plain TensorFlow in a process of its own."""
    directory = tmp_path_factory.mktemp("models")
    script = ROOT / "tests" / "data" / "make_savedmodels.py"
    subprocess.run([sys.executable, script, directory], check=True, capture_output=True, timeout=600)
    return directory


@pytest.fixture
def project(workspace: Any) -> Any:
    """Give a user's directory with a configuration that names no code, and rows in three formats."""
    rows = [{"age": n % 7 / 7, "income": n % 5 / 5, "city": "abc"[n % 3], "paid": n % 2} for n in range(120)]
    names = list(rows[0])
    lines = [",".join(names), *(",".join(str(row[name]) for name in names) for row in rows)]
    (workspace.directory / "rows.csv").write_text("\n".join(lines))
    served = [{name: row[name] for name in names if name != "paid"} for row in rows]
    (workspace.directory / "rows.json").write_text("\n".join(json.dumps(row) for row in served))
    (workspace.directory / "cfg.yaml").write_text(CONFIG)
    return workspace


def run(project: Any, *words: str) -> subprocess.CompletedProcess[str]:
    return project.run(*words, config=project.directory / "cfg.yaml", flow="rehearse")


def files(directory: Path) -> dict[str, bytes]:
    """Return what a SavedModel holds beside what is added to it."""
    found = {path.relative_to(directory).as_posix(): path for path in directory.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not name.startswith("assets.extra/")}


def test_a_plain_savedmodel(project: Any, models: Path) -> None:
    """It goes live unchanged; what MLflow has registered of it is the same candidate again, also without a target."""
    done = run(project, "--model", str(models / "plain"), "--rows", "rows.csv", "--target", "paid")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "given version 1 promoted: version 1 is live" in done.stdout
    assert files(project.models_root / "given" / "1") == files(models / "plain")
    assert "read as binary probabilities" in done.stdout

    again = run(project, "--model", "models:/given/1", "--rows", "rows.json", "--no-promote")
    assert (again.returncode, again.stderr) == (0, ""), again.stdout
    assert "nothing could be scored: the rows have no target" in again.stdout
    assert "compared with version 1, which is live" in again.stdout
    digests = [line.split()[1] for line in (done.stdout + again.stdout).splitlines() if line.startswith("  digest")]
    assert digests[0] == digests[1]

    back = project.run(config=project.directory / "cfg.yaml", flow="doctor")
    assert back.stdout == "'given' is in order\n"


def test_an_unsafe_one_is_never_loaded(project: Any, models: Path) -> None:
    """What would write a file is rejected by the safety gate, and nothing has run of it."""
    done = run(project, "--model", str(models / "writing"), "--rows", "rows.csv", "--target", "paid")
    assert (done.returncode, done.stderr) == (3, ""), done.stdout
    assert "given version 1 rejected: safety" in done.stdout
    assert "WriteFile" in done.stdout
    assert not list(project.directory.rglob("written"))


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--model", "{models}/several", "--rows", "rows.csv"], 1, "name one by --signature; it has 'one', 'other'"),
        (["--model", "{models}/plain", "--rows", "rows.csv", "--target", "pdai"], 1, "--target must name a column"),
        (["--model", "{models}", "--rows", "rows.csv"], 2, "got 3 of them in"),
        (["--model", "nothing", "--rows", "rows.csv"], 2, "got neither in 'nothing'"),
        (["--model", "{models}/plain", "--rows", "none.csv"], 2, "--rows must name a file, got 'none.csv'"),
        (["--model", "{models}/plain"], 2, "'data.load' is required and missing"),
    ],
)  # fmt: skip
def test_mistakes(project: Any, models: Path, words: list[str], code: int, said: str) -> None:
    """Each is one line and the documented exit code, and leaves nothing live."""
    done = run(project, *(word.format(models=models) for word in words))
    assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stdout + done.stderr
    assert said in done.stderr
    assert not (project.models_root / "given" / "1").exists()


def test_a_signature_by_its_name(project: Any, models: Path) -> None:
    """One of several signatures is judged, and the printed request names it."""
    words = ["--rows", "rows.csv", "--target", "paid", "--signature", "other", "--set", "gates.use=[safety,parity]"]
    done = run(project, "--model", str(models / "several"), *words)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    [example] = project.work_dir.glob("runs/*/example.json")
    assert json.loads(example.read_text())["signature_name"] == "other"


def test_the_flow_in_the_documentation(workspace: Any) -> None:
    """The documented flow, which trains by its own loop, gets a verdict on its model and promotes it."""
    text = (ROOT / "docs" / "your-project.md").read_text(encoding="utf-8")
    code, config = (text.split(f"```{kind}\n", 1)[1].split("```", 1)[0] for kind in ("python", "yaml"))
    (workspace.directory / "nightly.py").write_text(code)
    places = "work_dir: work\nmodels_root: models\nserving: {backend: embedded}\n"
    (workspace.directory / "cfg.yaml").write_text(config + places)
    done = subprocess.run(
        [sys.executable, "nightly.py"], cwd=workspace.directory, env=workspace.env, capture_output=True, text=True,
        timeout=1200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "promoted version 1 is live" in done.stdout
    assert workspace.versions("orders") == [1]

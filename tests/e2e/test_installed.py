"""The wheel in an environment of its own, used from a directory that knows nothing of the checkout."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT, end_group, free_port, poll
from tests.markdown import Page

SHADOW = "raise RuntimeError('the module of the user stands in for ours')\n"


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel, install it into a new environment, and return its console script.

    The dependencies are those of the environment that runs the tests: they are found there, and not installed again.
    """
    directory = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(directory)]
    subprocess.run([*build, str(ROOT)], check=True, timeout=600)
    [wheel] = directory.glob("*.whl")
    environment = directory / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True, timeout=600)
    [site] = environment.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    install = [*pip, "--python", str(environment / "bin" / "python"), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, str(wheel)], check=True, timeout=600)
    return environment / "bin" / "keras-rehearsal"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a user's directory whose own modules are called as our packages are."""
    for name in ("tasks.py", "flows.py", "configs/__init__.py", "configs/schema.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(SHADOW if name != "configs/__init__.py" else "")
    return tmp_path


@pytest.fixture
def outside(prefect_env: dict[str, str]) -> dict[str, str]:
    """Return the environment of somebody who has no checkout."""
    return {name: value for name, value in prefect_env.items() if name != "PYTHONPATH"}


def run(script: Path, project: Path, env: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [script, *words], cwd=project, env=env, capture_output=True, text=True, timeout=1200, check=False
    )


@pytest.fixture
def server(script: Path, project: Path, outside: dict[str, str]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """End the servers that the test starts."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        end_group(process)


def test_a_project_from_nothing(
    script: Path, project: Path, outside: dict[str, str], server: list[subprocess.Popen[bytes]]
) -> None:
    """`init`, `run`, `doctor` and `serve` work where modules have our names; every hint names the script."""
    begun = run(script, project, outside, "init")
    assert (begun.returncode, begun.stderr) == (0, "")
    again = run(script, project, outside, "init")
    assert again.returncode == 2
    assert again.stderr.startswith("error: init does not replace files, and 'cfg.yaml' exists")

    options = ["--config", "cfg.yaml", "--set", "serving.backend=embedded"]
    done = run(script, project, outside, "run", *options, "--set", "training.epochs=2")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "late_payment version 1 promoted: version 1 is live" in done.stdout
    assert "python -m" not in done.stdout
    assert f"{os.path.relpath(script, project)} serve" in done.stdout or f"{script} serve" in done.stdout

    assert run(script, project, outside, "doctor", *options).stdout == "'late_payment' is in order\n"
    flags = ["--port=0", "--rest_api_port=0", "--model_name=late_payment"]
    base = f"--model_base_path={project / 'models' / 'late_payment'}"
    log = project / "server.log"
    with log.open("wb") as stream:
        server.append(
            subprocess.Popen(
                [script, "serve", *flags, base],
                cwd=project, env=outside, stdout=stream, stderr=stream, start_new_session=True,
            )
        )  # fmt: skip
    assert poll(lambda: "Exporting HTTP/REST API" in log.read_text() or server[0].poll() is not None, 300)
    found = re.search(r"Exporting HTTP/REST API at:\S*?:(\d+)", log.read_text())
    assert found, log.read_text()
    row = json.dumps({"instances": [{"amount": 10.0, "days_since_last_order": 3.0, "country": "AT"}]}).encode()
    url = f"http://127.0.0.1:{found[1]}/v1/models/late_payment:predict"
    with urllib.request.urlopen(urllib.request.Request(url, row), timeout=60) as answer:
        assert len(json.loads(answer.read())["predictions"][0]) == 2


@pytest.mark.long
def test_a_table_of_ones_own(script: Path, project: Path, outside: dict[str, str]) -> None:
    """`init --csv` writes what runs for odd names and an id; a function is found by the name of its file."""
    table = ["id,sepal length (cm),lambda,größe,kind"]
    table += [f"row-{n},{n % 7}.5,{n % 5},{'klein' if n % 3 else 'groß'},{'ab'[n % 7 > 3]}" for n in range(300)]
    (project / "data").mkdir()
    (project / "data" / "flowers.csv").write_text("\n".join(table))
    begun = run(script, project, outside, "init", "--csv", "data/flowers.csv", "--target", "kind")
    assert begun.returncode == 0, begun.stderr
    assert "The column 'id' is left out" in begun.stdout
    (project / "my_model.py").rename(project / "configs" / "schema.py")  # a name that is ours
    code = (project / "configs" / "schema.py").read_text().replace("__file__).parent", "__file__).parents[1]")
    (project / "configs" / "schema.py").write_text(code)
    names = ["--set", "data.load=./configs/schema.py:load", "--set", "model.build=./configs/schema.py:build"]
    options = ["--config", "cfg.yaml", "--set", "serving.backend=embedded", *names]
    done = run(script, project, outside, "run", *options, "--set", "training.epochs=2", "--no-promote")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "flowers version 1 not promoted" in done.stdout
    wrong = run(script, project, outside, "run", *options, "--set", "data.load=./configs/schema.py:laod")
    assert wrong.returncode == 2
    assert "module './configs/schema.py' has no 'laod'; did you mean 'load'?" in wrong.stderr
    missing = run(script, project, outside, "run", "--config", "cfg.yaml", "--set", "data.load=./nothing.py:load")
    assert missing.returncode == 2
    assert "must name a readable Python file" in missing.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["runn"],
            "error: 'keras-rehearsal runn' is not a command; the commands are init, infer-schema, check, run, sweep",
        ),
        (["init", "--csv", "none.csv", "--target", "a"], "error: --csv must name a readable table"),
    ],
)
def test_mistakes(script: Path, project: Path, outside: dict[str, str], words: list[str], said: str) -> None:
    """A mistake is one line and exit code 2."""
    done = run(script, project, outside, *words)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert said in done.stderr


@pytest.mark.long
@pytest.mark.parametrize(
    ("page", "begins_with", "name", "states"),
    [
        (
            "production",
            "keras-rehearsal init",
            "late_payment",
            [(1, "live"), (2, "live"), (3, "rejected"), (4, "live"), (5, "awaiting review"), (5, "live")],
        ),
        (
            "production",
            "mkdir -p models",
            "numerals",
            [(1, "live"), (2, "canary"), (2, "live"), (1, "live"), (2, "rolled back")],
        ),
        (
            "ab",
            "mkdir -p models",
            "offers",
            [
                *((1, "live"), (2, "canary"), (1, "in experiment"), (2, "in experiment"), (1, "experiment ended")),
                *((2, "experiment ended"), (2, "live"), (1, "live"), (2, "rolled back")),
            ],
        ),
    ],
)
def test_the_documented_story(
    script: Path,
    tmp_path: Path,
    outside: dict[str, str],
    page: str,
    begins_with: str,
    name: str,
    states: list[tuple[int, str]],
) -> None:
    """The sessions on the pages can be pasted, and every version becomes what the page says."""
    port, settings = free_port(), ["serving.backend=embedded", "training.epochs=6", "gates.latency.requests=20"]
    changes = {
        "--port=8500": "--port=0",
        "--rest_api_port=8501": f"--rest_api_port={port}",
        "http://localhost:8501": " --set ".join([f"http://localhost:{port}", *settings]),
    }
    blocks = Page(ROOT / "docs" / f"{page}.md").blocks
    [story] = [block.text for block in blocks if block.text.startswith(begins_with)]
    for documented, here in changes.items():
        assert documented in story
        story = story.replace(documented, here)
    if "keras-rehearsal init" not in story:
        run(script, tmp_path, outside, "init")
    env = {**outside, "PATH": f"{script.parent}:{outside['PATH']}", "REHEARSAL_REST_HOST": "127.0.0.1"}
    process = subprocess.Popen(
        ["/bin/bash", "-c", f"trap 'kill $(jobs -p)' EXIT\n{story}"],
        cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        printed = process.communicate(timeout=1200)[0].decode()
    finally:
        end_group(process)
    lines = (tmp_path / "models" / name / ".history.jsonl").read_text().splitlines()
    became = [(entry["version"], entry["state"]) for entry in map(json.loads, lines)]
    assert [one for one in became if one in states] == states, printed

"""Models that were trained elsewhere, by the command line: their own bytes are judged, registered and served."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from tasks.datasets.seen import RECORD, read_record
from tests.e2e.conftest import ROOT

TRAINED_ON = r"trained on</[a-z]+>\s*<[a-z]+[^>]*>([^<]*)<"
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


@pytest.mark.long
def test_a_keras_file_and_rows_that_say_what_they_are(project: Any, models: Path) -> None:
    """Of a Parquet file the rows that say test are judged, without those that the model was trained on."""
    rows = pd.read_csv(project.directory / "rows.csv").drop_duplicates(["age", "income"]).reset_index(drop=True)
    assert len(rows) == 35
    rows["part"] = ["test" if row % 5 else "train" if row % 2 else "validation" for row in range(35)]
    rows = pd.concat([rows, rows[rows["part"] == "train"].assign(part="test", city="a")])  # seen, by what is asked
    rows.to_parquet(project.directory / "rows.parquet")
    words = ["--rows", "rows.parquet", "--target", "paid", "--set", "data.split_column=part"]
    done = run(project, "--model", str(models / "by_keras.keras"), *words)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "3 of 31 rows are not judged, because the model was trained on them" in done.stdout
    assert ", 28 rows at" in done.stdout
    assert "given version 1 promoted: version 1 is live" in done.stdout
    assert reports(project) == ["7 given rows; 3 rows that are among them were not judged"]
    known = read_record(project.models_root / "given" / "1" / RECORD)
    assert {split: len(found) for split, found in known.rows.items()} == {"train": 3, "validation": 4, "test": 28}


@pytest.mark.long
def test_rows_as_arrays_and_those_that_it_was_trained_on(project: Any, models: Path) -> None:
    """An .npz file of arrays is judged; `--trained-on` names what is left out of it, and without it nobody knows."""
    rows = pd.read_csv(project.directory / "rows.csv")
    arrays = {name: rows[name].to_numpy() for name in ("age", "income", "paid")}
    city = rows["city"].to_numpy(dtype="U1")
    np.savez(project.directory / "rows.npz", **arrays, city=city)
    np.savez(project.directory / "seen.npz", **{name: array[:10] for name, array in arrays.items()}, city=city[:10])
    words = ["--model", str(models / "plain"), "--rows", "rows.npz", "--target", "paid", "--no-promote"]
    words += ["--set", "gates.use=[safety,parity,quality]"]
    done = run(project, *words, "--trained-on", "seen.npz")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "20 of 120 rows are not judged, because the model was trained on them" in done.stdout
    assert ", 100 rows at" in done.stdout
    unknown = run(project, *words)
    assert (unknown.returncode, unknown.stderr) == (0, ""), unknown.stdout
    assert ", 120 rows at" in unknown.stdout
    assert reports(project) == [
        "10 given rows; 20 rows that are among them were not judged",
        "rows that are not known: some of the judged rows may be among them",
    ]


@pytest.mark.long
def test_a_stream_of_rows(project: Any, models: Path) -> None:
    """A generator of batches is judged like the file that it reads, without the rows that the model was trained on."""
    (project.directory / "rows.py").write_text(
        "import pandas as pd\n"
        "def load():\n"
        "    for part in pd.read_csv('rows.csv', chunksize=50):\n"
        "        yield part.drop(columns='paid'), part['paid'].to_numpy()\n"
    )
    pd.read_csv(project.directory / "rows.csv")[:10].to_csv(project.directory / "seen.csv", index=False)
    words = ["--set", "data.load=rows:load", "--set", "gates.use=[safety,parity,quality]", "--trained-on", "seen.csv"]
    done = run(project, "--model", str(models / "plain"), *words)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "20 of 120 rows are not judged, because the model was trained on them" in done.stdout
    assert ", 100 rows at" in done.stdout
    assert "given version 1 promoted: version 1 is live" in done.stdout


def reports(project: Any) -> list[str]:
    """Return what each run's report says of the rows that the model was trained on, in any order."""
    pages = [path.read_text(encoding="utf-8") for path in sorted(project.directory.rglob("report.html"))]
    return sorted(html.unescape(found[1]) for page in pages for found in re.finditer(TRAINED_ON, page))


@pytest.mark.long
@pytest.mark.docker
def test_in_a_container(project: Any, models: Path, test_image: str) -> None:
    """A SavedModel of plain TensorFlow gets its verdict, and is tried out, in a container."""
    server = ["--set", "serving.backend=docker", "--set", f"serving.image={test_image}"]
    done = run(project, "--model", str(models / "plain"), "--rows", "rows.csv", "--target", "paid", *server)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert f"judged by docker {test_image}" in done.stdout
    assert "given version 1 promoted: version 1 is live" in done.stdout
    words = ["--rows", "rows.csv", "--out", "answers.csv", *server]
    tried = project.run(*words, config=project.directory / "cfg.yaml", flow="try_out")
    assert (tried.returncode, tried.stderr) == (0, ""), tried.stdout
    assert len(pd.read_csv(project.directory / "answers.csv")["served.score"]) == 120


@pytest.mark.long
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
        (["--model", "{models}/several", "--rows", "rows.csv"], 2, "set --signature; it has 'one', 'other'"),
        (["--model", "{models}/plain", "--rows", "rows.csv", "--target", "pdai"], 2, "--target must name a column"),
        (["--model", "{models}", "--rows", "rows.csv"], 2, "of them"),
        (["--model", "nothing", "--rows", "rows.csv"], 2, "MLflow's model URI, got 'nothing'"),
        (["--model", "{models}/plain", "--rows", "none.csv"], 2, "--rows must name a file, got 'none.csv'"),
        (["--model", "{models}/plain"], 2, "add --rows FILE, or set data.load"),
    ],
)  # fmt: skip
def test_mistakes(project: Any, models: Path, words: list[str], code: int, said: str) -> None:
    """Each is one line and the documented exit code, and leaves nothing live."""
    done = run(project, *(word.format(models=models) for word in words))
    assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stdout + done.stderr
    assert said in done.stderr
    assert not (project.models_root / "given" / "1").exists()


@pytest.mark.long
def test_a_signature_by_its_name(project: Any, models: Path) -> None:
    """One of several signatures is judged, and the printed request names it."""
    words = ["--rows", "rows.csv", "--target", "paid", "--signature", "other", "--set", "gates.use=[safety,parity]"]
    done = run(project, "--model", str(models / "several"), *words)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    [example] = project.work_dir.glob("runs/*/example.json")
    assert json.loads(example.read_text())["signature_name"] == "other"


@pytest.mark.long
def test_a_declared_contract(project: Any, models: Path) -> None:
    """What one run writes is judged by the next, without a champion; a damaged one ends before anything is started."""
    words = ["--rows", "rows.csv", "--set", "gates.use=[safety,contract]", "--no-promote"]
    done = run(project, "--model", str(models / "plain"), *words, "--write-contract", "contract.json")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    declared = json.loads((project.directory / "contract.json").read_text())
    assert declared["inputs"]["city"] == {"dtype": "string", "shape": [None]}

    words += ["--set", "gates.contract.file=contract.json"]
    kept = run(project, "--model", str(models / "plain"), *words)
    assert (kept.returncode, kept.stderr) == (0, ""), kept.stdout
    assert "the declared contract is kept" in kept.stdout

    declared["inputs"]["age"]["dtype"] = "float64"
    (project.directory / "contract.json").write_text(json.dumps(declared))
    before = (project.directory / "contract.json").read_bytes()
    broken = run(project, "--model", str(models / "plain"), *words, "--write-contract", "contract.json")
    assert broken.returncode == 3, broken.stdout + broken.stderr
    assert "would break the declared contract: input changed from age: float64 (?) to age: float32 (?)" in broken.stdout
    assert broken.stderr == "warning: 'contract.json' is not written because the candidate did not pass\n"
    assert (project.directory / "contract.json").read_bytes() == before

    (project.directory / "contract.json").write_bytes(before[:-10])
    damaged = run(project, "--model", str(models / "plain"), *words)
    assert (damaged.returncode, damaged.stdout, damaged.stderr.count("\n")) == (2, "", 1), damaged.stderr
    assert "gates.contract.file must be a contract" in damaged.stderr


@pytest.mark.long
def test_the_flow_in_the_documentation(workspace: Any) -> None:
    """The documented flow, which trains by its own loop, gets a verdict on its model and promotes it.

    Told more rows that the model was trained on, it judges fewer. A dictionary says as much as its file.
    """
    text = (ROOT / "docs" / "your-project.md").read_text(encoding="utf-8")
    code, config = (text.split(f"```{kind}\n", 1)[1].split("```", 1)[0] for kind in ("python", "yaml"))
    told = re.sub(r'config="cfg.yaml"(, trained_on=[^)]*)?', 'config="cfg.yaml", trained_on={"x": x[:310]}', code)
    values = 'yaml.safe_load(open("cfg.yaml"))'
    again = f'rehearse_model("models/orders/1", {{"x": np.ones((9, 3))}}, config={values}, promote=False)'
    (workspace.directory / "nightly.py").write_text(f"{told}    import yaml\n    print({again}.promotion.reason)\n")
    places = "work_dir: work\nmodels_root: models\nserving: {backend: embedded}\n"
    (workspace.directory / "cfg.yaml").write_text(config + places)
    done = subprocess.run(
        [sys.executable, "nightly.py"], cwd=workspace.directory, env=workspace.env, capture_output=True, text=True,
        timeout=1200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "promoted version 1 is live" in done.stdout
    assert workspace.versions("orders") == [1]
    assert reports(workspace)[0] == "310 given rows; 10 rows that are among them were not judged"
    [kept] = workspace.directory.glob("rehearse-*.yaml")
    assert yaml.safe_load(kept.read_text()) == yaml.safe_load((workspace.directory / "cfg.yaml").read_text())
    assert "every gate passed, but promotion was not requested" in done.stdout

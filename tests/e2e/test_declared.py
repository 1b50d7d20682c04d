"""A CSV file becomes a served model by one command: the example with declared features, its rows, and what has changed.

No run here starts a container.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.infer_schema import main as infer_schema

ROOT = Path(__file__).parents[2]
PARCELS = ROOT / "configs" / "parcels.csv"
ROW = {
    "depot": "Graz", "vehicle": "unknown", "weight_kg": -1, "distance_km": 12.5, "fragile": True, "driver": 1001,
    "shipped": 20_454, "note": "",
}  # fmt: skip


@pytest.fixture(scope="module")
def parcels(tmp_path_factory: pytest.TempPathFactory, open_workspace: Callable[[Path], Any]) -> Any:
    """Return a workspace in which the example was run once."""
    workspace = open_workspace(tmp_path_factory.mktemp("parcels"))
    done = workspace.run(config=ROOT / "configs" / "parcels.yaml")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert "version 1 is live" in done.stdout
    return workspace


@pytest.mark.long
def test_the_example_is_served(parcels: Any, open_server: Callable[[], Any]) -> None:
    """Without any code, production answers rows of JSON: stand-ins for missing values, dates as days since 1970."""
    server = open_server()
    server.watch(parcels.models_root / "parcels")
    assert server.comes_to_serve(1, name="parcels")
    rows = [ROW, {**ROW, "depot": "Wien", "vehicle": "van"}, {**ROW, "depot": "nowhere"}]
    status, found = server.ask(":predict", json.dumps({"instances": rows}).encode(), "parcels")
    assert status == 200, found
    assert [len(one) for one in found["predictions"]] == [3, 3, 3]
    assert all(abs(sum(one) - 1) < 1e-5 for one in found["predictions"])
    assert found["predictions"][0] != found["predictions"][2]
    status, found = server.ask(":predict", json.dumps({"instances": [{**ROW, "vehicle": None}]}).encode(), "parcels")
    assert status == 400


def test_a_file_of_rows_is_sent_as_it_is_declared(parcels: Any) -> None:
    """`try-out --rows` fills in stand-ins and counts the days of dates, as the training did."""
    out = parcels.directory / "answers.json"
    (parcels.directory / "new.csv").write_text("\n".join(PARCELS.read_text().splitlines()[:6]))
    options = ["--rows", str(parcels.directory / "new.csv"), "--out", str(out)]
    done = parcels.run(*options, config=ROOT / "configs" / "parcels.yaml", flow="try_out")
    assert done.returncode == 0, done.stderr
    answers = json.loads(out.read_text())
    assert len(answers) == 5
    assert all(len(row["served.probabilities"]) == 3 for row in answers)


def test_a_lost_column(parcels: Any, tmp_path: Path) -> None:
    """A run whose file has lost a column ends at once with exit code 2, and nothing is written or changed."""
    (tmp_path / "rows.csv").write_text(PARCELS.read_text().replace("distance_km", "distance", 1))
    before = parcels.tree()
    done = parcels.run("--set", f"data.file={tmp_path}/rows.csv", config=ROOT / "configs" / "parcels.yaml")
    assert done.returncode == 2
    assert "it has no 'distance_km': did you mean 'distance'" in done.stderr
    assert done.stderr.count("\n") == 1
    assert "starting TensorFlow" not in done.stdout
    assert parcels.tree() == before


@pytest.mark.long
def test_drift_and_the_contract(parcels: Any, tmp_path: Path) -> None:
    """A second run names the depot that is new; the contract that `rehearse` writes has the unit of the date."""
    lines = PARCELS.read_text().splitlines()
    (tmp_path / "rows.csv").write_text("\n".join([lines[0], *(line.replace("Graz", "Wels") for line in lines[1:])]))
    done = parcels.run("--set", f"data.file={tmp_path}/rows.csv", config=ROOT / "configs" / "parcels.yaml")
    assert done.returncode in (0, 3), done.stderr
    assert "compared with version 1: 'depot' has 1 new value: 'Wels'" in done.stdout
    contract = tmp_path / "contract.json"
    options = ["--model", str(parcels.models_root / "parcels" / "1"), "--write-contract", str(contract), "--no-promote"]
    given = ["--rows", str(PARCELS), "--set", "gates.metrics={}"]
    done = parcels.run(*options, *given, config=ROOT / "configs" / "parcels.yaml", flow="rehearse")
    assert done.returncode == 0, done.stderr
    inputs = json.loads(contract.read_text())["inputs"]
    assert inputs["shipped"] == {"dtype": "int64", "shape": [None], "unit": "days since 1970-01-01 UTC"}


@pytest.mark.long
def test_from_a_file_to_a_served_model(parcels: Any, tmp_path: Path) -> None:
    """What `infer-schema` writes for the example's file is a configuration that passes every gate as it is."""
    config = tmp_path / "cfg.yaml"
    assert infer_schema([str(PARCELS), "--target", "delivery", "--out", str(config)]) == 0
    done = parcels.run("--set", "name=inferred", config=config)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert parcels.versions("inferred") == [1]


@pytest.mark.long
def test_variants_of_the_default_model(parcels: Any) -> None:
    """A sweep trains variants of the default model from a file, and promotes the better one."""
    sizes = "sweep.params={model.params.hidden: [8, [16, 8]]}"
    settings = ["--set", "name=swept", "--set", sizes, "--set", "training.epochs=5", "--set", "gates.metrics={}"]
    done = parcels.run(*settings, config=ROOT / "configs" / "parcels.yaml", flow="sweep")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(parcels.versions("swept")) == 1

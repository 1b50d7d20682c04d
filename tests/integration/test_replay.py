"""Recorded requests against real servers: what the gate finds, names and refuses, and what it leaves alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from configs.sections.gates import Gates
from configs.sections.serving import Serving
from tasks.gates.judge import judge
from tasks.gates.replay import new_tally
from tasks.records import Backend, Candidate, Champion, GateResult, ServedReplay
from tasks.serving.rehearse import Rehearsal, rehearse
from tasks.store.champion import find_champion
from tests.data.replayed_models import bodies

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
MODELS = "tests.data.replayed_models"
Export = Callable[..., Candidate]
BODIES = [*bodies(60), *bodies(300, rows_in_each=30, seed=2)]


@pytest.fixture(scope="module")
def exported(make_config: Callable[..., Any]) -> Export:
    """Return a function that exports the shop with a change as version 2, once a module."""
    from tasks.datasets.prepare import prepare_splits
    from tasks.savedmodel.exporter import export_savedmodel
    from tasks.training.fit import fit_model

    @cache
    def exporting(change: str = "", *settings: str) -> Candidate:
        given = dict(item.split("=", 1) for item in settings)
        config = make_config(f"{MODELS}:rows", f"{MODELS}:shop", **{"model.params.change": change}, **given)
        run_dir, version_dir = config.work_dir / "runs" / "r", config.work_dir / "candidates" / "m" / "2"
        splits = prepare_splits(config.data, run_dir / "data")
        trained = fit_model(config, splits, run_dir / "model.keras")
        version_dir.mkdir(parents=True)
        found = export_savedmodel(config, splits, trained, version_dir, run_dir)
        requests, reference = run_dir / "requests.npz", run_dir / "reference.npz"
        return Candidate(
            "m", 2, version_dir, found.digest, found.signature, found.size_bytes, requests, reference, splits.test
        )

    return exporting


@pytest.fixture
def champion(exported: Export, tmp_path: Path) -> Champion:
    """Return the shop without a change as the version that is live."""
    shutil.copytree(exported().version_dir, tmp_path / "models" / "m" / "1")
    found = find_champion(tmp_path / "models" / "m")
    assert found is not None
    return found


def recorded(directory: Path, lines: Iterable[bytes] = BODIES) -> Path:
    file = directory / "requests.jsonl"
    file.write_bytes(b"".join(line + b"\n" for line in lines))
    return file


def replayed(
    candidate: Candidate,
    champion: Champion | None,
    file: Path,
    use: Sequence[str] = (),
    protocol: str = "rest",
    **settings: Any,
) -> tuple[GateResult, ServedReplay]:
    """Replay a file, and return the verdict of the gate with what was counted."""
    gates = Gates.model_validate({"use": ["replay", *use], "replay": {"file": file, "slices": ["city"]} | settings})
    tally = partial(new_tally, gates, candidate, {})
    serving = Serving.model_validate({"protocol": protocol})
    directory = file.parent / "server"
    served = rehearse(Rehearsal(serving, candidate, Backend("embedded"), directory, gates, champion, tally))
    (verdict,) = (gate for gate in judge(gates, candidate, served) if gate.name == "replay")
    assert served.replay is not None
    return verdict, served.replay


def test_an_equal_model_raises_no_alarm(exported: Export, champion: Champion, tmp_path: Path) -> None:
    """Bodies in both formats and sizes are answered alike by an equal model: nothing flips in any slice."""
    verdict, found = replayed(exported(), champion, recorded(tmp_path))
    assert verdict.passed
    assert (found.requests, found.rows) == (360, 60 + 300 * 30)
    assert {one.title for one in found.slices} == {"", "city=Köln", "city=Oslo", "city=Rome", "city=Lima"}
    assert [one.flipped for one in found.slices] == [0] * 5
    assert (found.refused, found.refused_by_both, found.refused_by_champion, found.unread) == (0, 0, 0, 0)
    assert found.flipped == ()


def test_a_planted_change_of_one_percent_in_one_slice(exported: Export, champion: Champion, tmp_path: Path) -> None:
    """A change of 1 % of one city's decisions is refused, names that city alone, and lists rows of it."""
    verdict, found = replayed(exported("planted"), champion, recorded(tmp_path))
    assert not verdict.passed
    failed = [one["slice"] for one in verdict.evidence["slices"] if not one["passed"]]
    assert failed == ["city=Köln"]
    assert verdict.summary.startswith("slice city=Köln: ")
    assert found.flipped
    for row in found.flipped:
        assert row["inputs"]["city"] == "Köln"
        assert 40 <= row["inputs"]["age"] < 41
        assert row["candidate"] != row["champion"]
        body = json.loads(BODIES[row["request"] - 1])
        ages = body["inputs"]["age"] if "inputs" in body else [one["age"] for one in body["instances"]]
        assert ages[row["row"]] == pytest.approx(row["inputs"]["age"])

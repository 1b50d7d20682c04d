"""The whole flow in Prefect's harness: states, their names and messages, what they carry."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import DataError, PipelineError
from tasks.outcomes import Outcome
from tasks.proof.directory import SIGNATURE
from tasks.proof.keys import key_id, public_path
from tasks.store.history import append, read
from tasks.store.proven import check_version
from tasks.store.runs import owner_of
from tests.proven import make_key, model_signing

pytestmark = [
    # MLflow 3.17 warns with pandas 3 of its search for pictures in a table.
    pytest.mark.filterwarnings("ignore:For backward compatibility, 'str' dtypes are included:DeprecationWarning"),
]
ROOT = Path(__file__).parents[2]
USER = "tests.data.user_models"


@pytest.fixture(scope="module")
def prefect_server() -> Iterator[None]:
    """Have a Prefect server and database of their own."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=600):
        yield


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a user whose model has two outputs, one of them renamed."""
    directory = tmp_path_factory.mktemp("user")
    (directory / "cfg.yaml").write_text(f"""
name: pair
data: {{load: "{USER}:pairs"}}
model: {{build: "{USER}:two_by_two"}}
training: {{epochs: 1}}
export: {{outputs: {{sum: total, odd: odd}}}}
gates: {{metric_output: sum, change: {{seconds: 0.2, max_p99_ratio: 0}}}}
serving: {{backend: embedded}}
""")
    return directory


@pytest.fixture
def rehearse(prefect_server: None, user: Path) -> Callable[..., Any]:
    """Return a function that runs the flow and returns its final state."""
    from flows.train_and_serve import train_and_serve

    def running(*overrides: str, promote: bool = True) -> Any:
        return train_and_serve(str(user / "cfg.yaml"), list(overrides), promote, return_state=True)

    return running


def test_a_model_that_passes_is_promoted(rehearse: Callable[..., Any], user: Path, tmp_path: Path) -> None:
    """The final state is completed, named Promoted, and carries the outcome: metric of the renamed output included.

    The version has a signed proof, which MLflow's page names.
    """
    key, public = make_key(tmp_path)
    state = rehearse("gates.metrics={rmse: {max: 1000}}", f"promote.signing_key={key}")
    assert (state.type.name, state.name) == ("COMPLETED", "Promoted"), state.message
    outcome: Outcome = state.result()
    assert outcome.report.passed
    assert outcome.promotion.live_dir == user / "models" / "pair" / "1"
    assert {gate.name: gate.figures for gate in outcome.report.gates}["quality"]["rmse"] > 0
    stages = ("prepare_data", "train_model", "export_model", "validate_serving", "log_run", "promote_model")
    assert set(outcome.seconds) >= set(stages)
    assert all(outcome.seconds[stage] > 0 for stage in stages)
    proof = check_version(outcome.promotion.live_dir, [public])
    others = model_signing(outcome.promotion.live_dir, proof.directory / SIGNATURE, public_path(key))
    assert others.returncode == 0, others.stdout + others.stderr
    assert {"answers.npz", "packages.txt", "rehearsal.json", "requests.npz"} == proof.statement.evidence.keys()
    assert proof.statement.predicate["configuration"]["name"] == "pair"
    from mlflow import MlflowClient

    uri = f"sqlite:///{user}/mlflow.db"
    page = MlflowClient(uri, uri).get_model_version("pair", str(outcome.run.registry_version)).description
    assert f"Proof: statement {proof.statement_digest[:12]}, signed by key {key_id(public)[:12]}; check it" in page


def test_the_same_model_again_changes_nothing(rehearse: Callable[..., Any], user: Path) -> None:
    """A second run that makes the live bytes is judged and logged, ends as Unchanged, and says so in MLflow."""
    from mlflow import MlflowClient

    from configs.loading import load_config

    live = user / "models" / "pair"
    if not live.exists():
        assert rehearse().name == "Promoted"
    before = [path.name for path in sorted(live.iterdir()) if path.name.isdecimal()]
    state = rehearse("promote.mode=review")
    assert (state.type.name, state.name) == ("COMPLETED", "Unchanged"), state.message
    outcome: Outcome = state.result()
    same = f"candidate {outcome.report.candidate.version} has the bytes of version {before[-1]}, which is live"
    assert state.message == f"{same}; nothing was changed"
    assert outcome.report.passed
    assert outcome.promotion.live_dir == live / before[-1]
    assert [path.name for path in sorted(live.iterdir()) if path.name.isdecimal()] == before
    client = MlflowClient(*[load_config(user / "cfg.yaml").tracking.uri] * 2)
    version = client.get_model_version("pair", str(outcome.run.registry_version))
    assert version.tags["promotion"] == "unchanged"
    assert "has the bytes that were live already" in version.description
    assert version.tags["digest"] == client.get_model_version_by_alias("pair", "champion").tags["digest"]
    assert client.get_model_version_by_alias("pair", "champion").version != version.version


def test_a_model_that_fails_a_gate_is_rejected_not_crashed(rehearse: Callable[..., Any], user: Path) -> None:
    """The final state is completed, named Rejected, and its message says which figure missed which bound."""
    live = sorted((user / "models" / "pair").iterdir()) if (user / "models").exists() else []
    state = rehearse("gates.metrics={rmse: {max: 0}}")
    assert (state.type.name, state.name) == ("COMPLETED", "Rejected"), state.message
    assert "rmse" in state.message
    assert "at most 0" in state.message
    assert state.result().promotion.live_dir is None
    assert (sorted((user / "models" / "pair").iterdir()) if (user / "models").exists() else []) == live


@pytest.mark.long
def test_a_champion_that_was_damaged(rehearse: Callable[..., Any], user: Path) -> None:
    """An approval after the live bytes changed is judged again and rejected; if that is allowed, the history says so.

    The first version has no way back, and the second one's is proven by the first one's recorded answers.
    """
    from flows.promote import promote

    settings = ["name=back", "gates.metrics={rmse: {max: 1000, worse_by: .inf}}"]
    first: Outcome = rehearse(*settings, "seed=1").result()
    state = rehearse(*settings, "seed=2", "promote.mode=review")
    assert state.name == "AwaitingReview", state.message
    said = [outcome.report.way_back.summary for outcome in (first, state.result())]  # type: ignore[union-attr]
    assert said[0] == "there is none, because no version is live"
    assert said[1].startswith("version 1 can be returned to: all ")
    weights = user / "models" / "back" / "1" / "variables" / "variables.data-00000-of-00001"
    content = bytearray(weights.read_bytes())
    content[0] ^= 1
    weights.unlink()
    weights.write_bytes(content)
    state = promote(str(user / "cfg.yaml"), settings, 2, "approved", "ann", return_state=True)
    assert (state.type.name, state.name) == ("COMPLETED", "Rejected"), state.message
    assert "way_back: version 1, which a rollback would return to, cannot be served" in state.message
    assert "changed: variables/variables.data-00000-of-00001" in state.message
    assert "promote.allow_no_way_back" in state.message
    allowed: Outcome = rehearse(*settings, "seed=3", "promote.allow_no_way_back=true").result()
    assert allowed.promotion.live_dir == user / "models" / "back" / "3"
    [entry] = [entry for entry in read(user / "models" / "back") if (entry.version, entry.state) == (3, "live")]
    assert entry.reason.startswith("without a proven way back: version 1, which a rollback would return to, cannot be")


@pytest.mark.long
def test_promotion_that_is_not_wanted(rehearse: Callable[..., Any], user: Path) -> None:
    """With promote=False a model that passes ends in a completed state that is not named Promoted."""
    state = rehearse(promote=False)
    assert state.is_completed(), state.message
    assert state.name == "NotPromoted"
    assert state.result().report.passed


def test_a_stage_that_cannot_tell_fails_the_run(rehearse: Callable[..., Any]) -> None:
    """An error of a stage, raised in the TensorFlow process, fails the run with its class and is not tried again."""
    state = rehearse("data.split=colour")
    assert state.is_failed()
    with pytest.raises(DataError, match="colour"):
        state.result()


def quality_of(state: Any) -> Any:
    return {gate.name: gate for gate in state.result().report.gates}["quality"]


@pytest.mark.long
def test_a_champion_that_has_seen_the_test_rows(rehearse: Callable[..., Any], user: Path) -> None:
    """Of a larger test split too few rows are new to the champion: without an absolute bound a person decides."""
    if not (user / "models" / "pair").exists():
        assert rehearse().name == "Promoted"
    larger = "data.test_fraction=0.4"  # the test rows of before, and as many that were trained on
    state = rehearse(larger)
    assert (state.type.name, state.name) == ("COMPLETED", "AwaitingReview"), state.message
    assert "a person decides: no absolute bound is configured" in state.message
    assert "gates.min_unseen_rows is 30" in state.message
    outcome: Outcome = state.result()
    assert outcome.promotion.live_dir is None
    assert outcome.report.new_rows == 0
    compared = quality_of(state)
    assert compared.figures["rows_seen"] + compared.figures["rows_unseen"] == outcome.report.served.rows  # type: ignore[union-attr]


@pytest.mark.long
def test_few_unseen_rows_by_other_bounds(rehearse: Callable[..., Any], user: Path) -> None:
    """An absolute bound judges alone, and a smaller gates.min_unseen_rows lets the few unseen rows be compared."""
    assert rehearse().name in ("Promoted", "Unchanged", "AwaitingReview")
    larger = "data.test_fraction=0.4"
    bounded = rehearse(larger, "gates.metrics={rmse: {max: 1000}}", promote=False)
    assert bounded.name == "NotPromoted"
    assert "not compared with the champion" in quality_of(bounded).summary
    fewer = rehearse(larger, "gates.min_unseen_rows=2", promote=False)
    assert not fewer.result().report.needs_person
    assert "that it has seen are left out" in quality_of(fewer).summary


@pytest.mark.long
def test_a_champion_of_before(rehearse: Callable[..., Any], user: Path) -> None:
    """A champion without a record is compared by the rows that its run saved; without those a person decides."""
    from tasks.datasets.seen import RECORD
    from tasks.savedmodel.manifest import write_manifest

    state = rehearse()
    assert state.name in ("Promoted", "Unchanged")
    live, candidate = state.result().promotion.live_dir, state.result().report.candidate
    (live / RECORD).unlink()
    kept = user / ".rehearsal" / "candidates" / "pair" / ".rehearsals"
    of_before = kept / f"{write_manifest(live).digest}.json"
    shutil.copy(kept / f"{candidate.digest}-{candidate.version}.json", of_before)  # as a run of before left it
    append(live.parent, int(live.name), "live", of_before.stem)
    again = rehearse("gates.min_unseen_rows=2", promote=False)
    first, second = (run.result().report.candidate for run in (state, again))
    assert first.targets.samefile(second.targets)  # equal rows of two runs are stored once
    assert first.requests.samefile(second.requests)
    assert owner_of(first.requests.parent).digests == (candidate.digest,)  # type: ignore[union-attr]
    assert quality_of(again).figures["rows_seen"] == 0
    assert quality_of(again).champion
    assert again.result().report.new_rows == 0
    of_before.unlink()
    unknown = rehearse()
    assert unknown.name == "AwaitingReview"
    assert "exported by an older release" in unknown.message
    assert unknown.result().report.new_rows is None


def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    """A temporary Prefect server that could only fail is not started; its database's directory is named."""
    from prefect.settings import PREFECT_HOME, temporary_settings

    from flows.temporary_server import _start

    (tmp_path / "file").touch()
    with temporary_settings({PREFECT_HOME: tmp_path / "file" / "home"}), pytest.raises(PipelineError) as caught:
        _start()
    assert str(caught.value).startswith(f"Prefect's directory must be writable, got '{tmp_path}/file/home': Not a dir")

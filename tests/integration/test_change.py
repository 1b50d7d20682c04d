"""The change of versions, rehearsed in a real server: a sound model passes, and each planted fault is refused."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.schema import Config
from configs.sections.gates import Change
from configs.sections.serving import Serving
from tasks.datasets.rows import load_arrays, save_arrays
from tasks.errors import LiveChanged
from tasks.gates.judge import judge
from tasks.production.rehearsed_change import rehearse_change
from tasks.records import (
    Backend,
    Candidate,
    Champion,
    GateResult,
    ServedAnswers,
    ServerFacts,
    Signature,
    TensorSpec,
    WayBack,
)
from tasks.savedmodel.manifest import hash_files, write_manifest
from tasks.savedmodel.warmup import write_warmup
from tasks.serving.rehearsal import Rehearsal
from tasks.serving.rehearse import rehearse
from tasks.store.champion import find_champion
from tasks.store.history import append
from tasks.store.serving_config import write_config
from tests.conftest import children
from tests.integration.conftest import USER

# TensorFlow's variables do not know NumPy 2's `copy`; Keras reads every weight through them.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
TWOV = Path("tests/data/tfs_rest/models/twov")  # version N: x -> 0.5 x + N + 1
QUICK = {"gates.use": "[parity, change]", "gates.change": "{seconds: 0.2, max_p99_ratio: 0}"}
LABELS = {"promote.layout": "labels", "promote.live_url": "http://127.0.0.1:1"}
SLOW_MACHINE = "no request was answered before the change, so that its p99 is not compared"
X, Y = TensorSpec("x", "float32", (None, 1)), TensorSpec("output_0", "float32", (None, 1))
SIGNATURE = Signature((X,), (Y,))


@dataclasses.dataclass
class Case:
    """A candidate beside a live champion."""

    config: Config
    candidate: Candidate
    champion: Champion
    directory: Path

    def rehearsal(self, **serving: Any) -> Rehearsal:
        settings = Serving(**serving)
        directory = self.directory / "server1"
        return Rehearsal(settings, self.candidate, Backend("embedded"), directory, self.config.gates, self.champion)

    def verdict(self, served: ServedAnswers | None = None, **serving: Any) -> GateResult:
        """Rehearse phases A and B unless their answers are given, and then the change; return its verdict."""
        rehearsal = self.rehearsal(**serving)
        served = rehearse_change(self.config, rehearsal, served or rehearse(rehearsal))
        return {gate.name: gate for gate in judge(self.config.gates, self.candidate, served)}["change"]


@pytest.fixture
def case(make_config: Callable[..., Config]) -> Callable[..., Case]:
    """Return a function that puts one version directory live as version 2, and another as candidate 3."""

    def making(
        champion_dir: Path = TWOV / "2", candidate_dir: Path = TWOV / "3", known: bool = True, **settings: Any
    ) -> Case:
        config = make_config(f"{USER}:line", f"{USER}:one_number", "twov", **{**QUICK, **settings})
        places = config.live_dir / "2", config.candidates_dir / "3"
        for source, place in zip((champion_dir, candidate_dir), places, strict=True):
            shutil.copytree(source, place)
            (place / "assets").mkdir(exist_ok=True)
            (place / "assets" / "number.txt").write_text(place.name)  # no two versions have the same digest
            write_manifest(place)
        x = np.arange(40, dtype=np.float32)[:, None]
        run_dir = config.work_dir / "runs" / "r"
        save_arrays(run_dir / "requests.npz", {"x": x})
        save_arrays(run_dir / "reference.npz", {"output_0": 0.5 * x + 4})
        if known:
            append(config.live_dir, 2, "live", hash_files(places[0]).digest)
        if config.promote.layout == "labels":
            write_config(config.live_dir, [2], {"stable": 2})
        files = run_dir / "requests.npz", run_dir / "reference.npz", run_dir / "requests.npz"
        candidate = Candidate("twov", 3, places[1], hash_files(places[1]).digest, SIGNATURE, 0, *files)
        champion = find_champion(config.live_dir, config.promote.layout)
        assert champion is not None
        return Case(config, candidate, champion, run_dir)

    return making


def tree(directory: Path) -> dict[str, tuple[bytes, int]]:
    """Return the content and the mode of each file."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): (path.read_bytes(), path.stat().st_mode) for path in files}


@pytest.mark.parametrize("layout", [{}, LABELS], ids=["latest", "labels"])
def test_a_sound_change_passes(case: Callable[..., Case], layout: dict[str, str]) -> None:
    """No request fails while the candidate replaces the champion and is taken back, and nothing real is changed.

    Not even the modes of files that the copy shares with production and with the candidate.
    """
    made = case(**layout)
    for version_dir in (made.champion.version_dir, made.candidate.version_dir):
        (version_dir / "saved_model.pb").chmod(0o600)
    before = tree(made.config.live_dir.parent), tree(made.candidate.version_dir)
    found = made.verdict()
    assert found.passed, found.summary
    assert found.figures["failed"] == found.figures["wrong"] == found.figures["stale"] == 0
    assert {"change_s", "rollback_s", "p99_change_ms", "p99_rollback_ms"} <= found.figures.keys()
    assert 10 < found.figures["peak_mb"] < 2148
    assert found.note in ("", SLOW_MACHINE)
    assert (tree(made.config.live_dir.parent), tree(made.candidate.version_dir)) == before
    assert not (made.directory / "server1" / "change").exists()
    seen = load_arrays(made.directory / "server1" / "change1.npz")
    assert set(seen["named"].tolist()) == ({0, 2, 3} if layout else {0, 2, 3, 4})  # REST names no version
    asked = (seen["named"] == 0) & seen["like_new"]
    assert asked.any()  # over REST, the candidate was recognised by its answers


def test_grpc_alone(case: Callable[..., Case]) -> None:
    """With protocol grpc every answer names its version."""
    made = case(**{"serving.protocol": "grpc"})
    assert made.verdict(protocol="grpc").passed
    assert (load_arrays(made.directory / "server1" / "change1.npz")["named"] > 0).all()


@pytest.mark.parametrize("name", ["naming", pytest.param("two_by_two", marks=pytest.mark.long)])
def test_text_and_several_outputs(rehearsed: Callable[[str], Any], tmp_path: Path, name: str) -> None:
    """A model with text, bytes or several outputs passes, also beside a champion with the same answers."""
    made = rehearsed(name)
    gates = made.config.gates.model_copy(update={"use": ("change",), "change": Change(seconds=0.2, max_p99_ratio=0)})
    config = made.config.model_copy(update={"gates": gates, "models_root": tmp_path / "models"})
    shutil.copytree(made.candidate.version_dir, config.live_dir / "1")
    append(config.live_dir, 1, "live", made.candidate.digest)
    version_dir = Path(shutil.copytree(made.candidate.version_dir, tmp_path / "2"))
    (version_dir / "assets" / "other.txt").write_text("another digest")
    digest = write_manifest(version_dir).digest
    candidate = dataclasses.replace(made.candidate, version=2, version_dir=version_dir, digest=digest)
    champion = find_champion(config.live_dir)
    rehearsal = Rehearsal(Serving(), candidate, Backend("embedded"), tmp_path / "server1", gates, champion)
    served = rehearse_change(config, rehearsal, rehearse(rehearsal))
    (found,) = judge(gates, candidate, served)
    assert found.passed, found.summary
    assert found.figures["change_s"] > 0  # over gRPC, which names the version
    assert found.figures["rollback_s"] > 0


def test_the_same_bytes_change_nothing(case: Callable[..., Case]) -> None:
    """A candidate with the bytes that are live is not rehearsed, because its promotion changes nothing."""
    made = case()
    made.candidate = dataclasses.replace(made.candidate, digest=made.champion.digest)
    assert made.verdict().summary == "not rehearsed: these files are live already, so that nothing changes"


def test_answers_that_are_not_the_validated_ones(case: Callable[..., Case]) -> None:
    """Answers under load that differ from the validated ones are counted and refuse the candidate."""
    made = case()
    served = rehearse(made.rehearsal())
    answers = load_arrays(served.answers)["output_0"].copy()
    answers[7] += 0.01
    save_arrays(served.answers, {"output_0": answers})
    found = made.verdict(served)
    assert found.evidence["missed"] == ["wrong"], found.summary
    assert 0 < found.figures["wrong"] < found.figures["requests"] / 4


def test_a_rollback_that_the_history_does_not_allow(case: Callable[..., Case]) -> None:
    """A live version that the history does not know passes, and the missing rollback is said."""
    found = case(known=False).verdict()
    assert found.passed, found.summary
    assert "no rollback was rehearsed: the history does not know the live version" in found.summary


def test_a_rollback_to_changed_bytes(case: Callable[..., Case]) -> None:
    """A live version whose bytes are no longer those of the history refuses the change, because no rollback works."""
    made = case()
    append(made.config.live_dir, 2, "live", "0" * 64)
    found = made.verdict()
    assert not found.passed
    assert "the rollback is refused: the files of version 2 must still be there unchanged" in found.summary


def test_rows_that_the_champion_does_not_accept(case: Callable[..., Case]) -> None:
    """Where the champion cannot answer the rows, nothing is rehearsed, and the gate says why."""
    made = case()
    served = rehearse(made.rehearsal())
    assert served.champion is not None
    found = made.verdict(dataclasses.replace(served, champion=dataclasses.replace(served.champion, answers=None)))
    assert found.passed
    assert found.summary.startswith("not rehearsed: the champion does not accept these rows")


def test_a_live_version_that_cannot_be_served(case: Callable[..., Case]) -> None:
    """Where a promotion without a way back is permitted, the gate says that the change was not rehearsed."""
    made = case()
    facts = ServerFacts("embedded", "", "", "", "", 0, Path("log"))
    served = ServedAnswers(facts, SIGNATURE, made.candidate.reference, 40, 1, way_back=WayBack(2, refusal="no"))
    for beside, way in ((made.champion, WayBack(2, refusal="AddV9")), (None, WayBack(2, problem="bit rot"))):
        rehearsal = dataclasses.replace(made.rehearsal(), champion=beside, way_back=way)
        change = rehearse_change(made.config, rehearsal, dataclasses.replace(served, way_back=way)).change
        assert change is not None
        assert change.not_rehearsed == "the live version cannot be served, as the gate way_back says"
    first = dataclasses.replace(made.rehearsal(), champion=None)
    assert rehearse_change(made.config, first, dataclasses.replace(served, way_back=WayBack())).change is None


def test_another_process_changes_what_is_live(case: Callable[..., Case]) -> None:
    """If the champion is no longer live, the stage is tried again beside what is, and no server waits for the old."""
    made = case()
    served = rehearse(made.rehearsal())
    newer = Path(shutil.copytree(made.champion.version_dir, made.config.live_dir / "4"))
    with pytest.raises(LiveChanged, match="version 2 must stay live") as caught:
        made.verdict(served)
    assert caught.value.retryable
    shutil.rmtree(newer)
    shutil.rmtree(made.champion.version_dir)
    with pytest.raises(LiveChanged):
        made.verdict(served)


# --- planted faults


def make_model(directory: Path, weights_mb: int = 0) -> Path:
    """Export x -> 0.5 x + 4, with a loop of as many steps as x where x is large, and weights that nobody asks for."""
    import tensorflow as tf

    module = tf.Module()
    module.weights = tf.Variable(tf.ones([weights_mb, 250_000], tf.float32) if weights_mb else 0.0)

    @tf.function(input_signature=[tf.TensorSpec([None, 1], tf.float32, name="x")])
    def serve(x: Any) -> Any:
        steps = tf.cast(tf.maximum(tf.reduce_max(x) - 1000, 0), tf.int64)
        waited = tf.while_loop(lambda i: i < steps, lambda i: i + 1, [tf.constant(0, tf.int64)])[0]
        used = 0 * tf.reshape(module.weights, [-1])[0]
        return {"output_0": 0.5 * x + 4 + used + 0 * tf.cast(waited, tf.float32)}

    module.serve = serve
    tf.saved_model.save(module, str(directory), signatures=serve)
    return directory


def test_a_slow_loader(case: Callable[..., Case], tmp_path: Path) -> None:
    """A candidate whose warm-up takes an hour is refused because it was not served in time; its twin passes."""
    candidate_dir = make_model(tmp_path / "1")
    made = case(candidate_dir=candidate_dir, **{"gates.change": "{seconds: 0.2, max_p99_ratio: 0, max_seconds: 20}"})
    served = rehearse(made.rehearsal())
    assert made.verdict(served).passed
    write_warmup(made.candidate.version_dir, "twov", SIGNATURE, {"x": np.array([[1e10]], np.float32)}, 1)
    made.candidate = dataclasses.replace(made.candidate, digest=write_manifest(made.candidate.version_dir).digest)
    made.config = made.config.model_copy(update={"gates": in_seconds(made.config, 2)})
    found = made.verdict(served)
    assert not found.passed
    assert "version 3 did not go live: version 3 was not served within 2 s" in found.summary
    assert found.figures["failed"] == 0  # the champion served meanwhile


def in_seconds(config: Config, most: float) -> Any:
    change = config.gates.change.model_copy(update={"max_seconds": most})
    return config.gates.model_copy(update={"change": change})


def test_more_memory_than_the_limit_when_doubled(case: Callable[..., Case], tmp_path: Path) -> None:
    """Two versions of which only one fits into the limit are refused for that, by phase B and by the change alike."""
    big = make_model(tmp_path / "1", weights_mb=200)
    made = case(champion_dir=big, candidate_dir=big)
    served = rehearse(made.rehearsal(memory_mb=4096))
    plenty = made.verdict(served, memory_mb=4096)
    assert plenty.passed, plenty.summary
    assert plenty.figures["peak_mb"] > 400
    for answers in (served, None):
        found = made.verdict(answers, memory_mb=400)
        assert not found.passed
        assert found.evidence["missed"] == ["peak_mb"]
        assert "version 2 and version 3 loaded at the same time" in found.summary
        assert "killed at its limit of 400 MiB" in found.summary
        assert "raise serving.memory_mb" in found.summary


@contextmanager
def stopped_at_each_change(directory: Path, seconds: float) -> Iterator[list[int]]:
    """Stop the server for some seconds whenever a candidate appears in the copy; yield the servers that it stopped."""
    done, stopped = threading.Event(), []
    before = children()

    def watch() -> None:
        while not done.wait(0.002):
            servers = [pid for pid in children() if pid not in before and pid not in stopped]
            if servers and (directory / "server1" / "change" / "twov" / "3").exists():
                stopped.append(servers[0])
                os.kill(servers[0], signal.SIGSTOP)
                time.sleep(seconds)
                os.kill(servers[0], signal.SIGCONT)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield stopped
    finally:
        done.set()
        thread.join()


def test_a_stall(case: Callable[..., Case]) -> None:
    """A server that stalls at the change in each of five rehearsals is refused for its p99; nothing failed."""
    made = case(**{"gates.change": "{max_p99_ratio: 1.5}"})
    served = rehearse(made.rehearsal())
    with stopped_at_each_change(made.directory, 1.5) as stopped:
        found = made.verdict(served)
    assert found.evidence["missed"] == ["p99_ratio"], found.summary
    assert "in the quietest of 5 rehearsals" in found.summary
    assert len(stopped) == 5
    assert found.figures["failed"] == 0

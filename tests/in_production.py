"""A model in production whose versions were judged by a real server, so that their answers are recorded."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from configs.loading import load_config
from configs.schema import Config
from flows.rehearse_cli import main
from tasks.datasets.rows import Rows, save_arrays, save_rows
from tasks.gates.judge import judge
from tasks.production.changes import put_live
from tasks.records import (
    Backend,
    Candidate,
    GateResult,
    GraphFacts,
    Signature,
    Splits,
    TensorSpec,
    TrackedRun,
    TrainedModel,
    ValidationReport,
)
from tasks.savedmodel.manifest import write_manifest
from tasks.serving.rehearsal import Rehearsal
from tasks.serving.rehearse import rehearse
from tasks.store.champion import find_champion
from tasks.store.rehearsals import Rehearsed, save_rehearsal
from tasks.store.way_back import way_back_of

TWOV = Path("tests/data/tfs_rest/models/twov")  # version N: x -> 0.5 x + N + 1
X, Y = TensorSpec("x", "float32", (None, 1)), TensorSpec("output_0", "float32", (None, 1))
RUN = TrackedRun("", "", "twov", 0, "")
EMBEDDED = Backend("embedded")


@dataclass
class Shop:
    """A model in production, whose versions were judged by the embedded server."""

    directory: Path

    def config(self, *overrides: str) -> Config:
        uri = f"tracking.uri=sqlite:///{self.directory}/cfg.yaml/absent.db"
        return load_config(self.directory / "cfg.yaml", [uri, *overrides])

    def candidate(self, version: int, source: Path | None = None) -> Candidate:
        """Export version N of the model, with 40 rows for which it is right."""
        config = self.config()
        version_dir = config.candidates_dir / str(version)
        shutil.copytree(source or TWOV / str(version), version_dir)
        digest = write_manifest(version_dir).digest
        run_dir = config.work_dir / "runs" / f"2026112{version}T000000-00000{version}"
        x = np.arange(40, dtype=np.float32)[:, None] * version
        y = 0.5 * x + version + 1
        save_arrays(run_dir / "requests.npz", {"x": x})
        save_arrays(run_dir / "reference.npz", {"output_0": y})
        save_rows(run_dir / "test.npz", Rows({"x": x}, {"target": y[:, 0]}))
        files = (run_dir / "requests.npz", run_dir / "reference.npz", run_dir / "test.npz")
        return Candidate("twov", version, version_dir, digest, Signature((X,), (Y,)), 0, *files)

    def judged(
        self, candidate: Candidate, directory: str = "server1", *settings: str, backend: Backend = EMBEDDED
    ) -> Any:
        """Serve a candidate beside the champion and return what was served, with the way back."""
        config = self.config(*settings)
        champion = find_champion(config.live_dir)
        allowed = config.promote.allow_no_way_back
        way = way_back_of(config.live_dir, config.candidates_dir, champion, candidate.digest, allowed=allowed)
        beside = None if way.problem else champion
        place = candidate.requests.parent / directory
        return rehearse(Rehearsal(config.serving, candidate, backend, place, config.gates, beside, way))

    def verdict(self, candidate: Candidate, *settings: str, backend: Backend = EMBEDDED) -> GateResult:
        """Return the verdict on the way back, and assert that all others passed."""
        served = self.judged(candidate, "again", *settings, backend=backend)
        found = {gate.name: gate for gate in judge(self.config(*settings).gates, candidate, served)}
        way = found.pop("way_back")
        assert all(gate.passed for gate in found.values()), [gate.summary for gate in found.values()]
        return way

    def promote(self, version: int) -> Candidate:
        """Judge a version and put it live, as a run does."""
        candidate, config = self.candidate(version), self.config()
        champion = find_champion(config.live_dir)
        served = self.judged(candidate)
        gates = judge(config.gates, candidate, served)
        graph = GraphFacts((), (), 1, 1, 2, 2)
        report = ValidationReport(candidate, graph, replace(served, way_back=None), gates, champion)
        splits = Splits(*[candidate.targets] * 3, {"train": 0, "validation": 0, "test": 40}, "", "a:b", ())
        save_rehearsal(config.candidates_dir, Rehearsed(splits, TrainedModel(candidate.targets, {}, 2, 1), report, RUN))
        assert put_live(config, candidate, RUN, champion, "").state == "promoted"
        return candidate

    def live(self, *words: str) -> int:
        """Call `rehearse --live` and return its exit code."""
        uri = f"tracking.uri=sqlite:///{self.directory}/cfg.yaml/absent.db"
        return main(["--config", str(self.directory / "cfg.yaml"), "--set", uri, "--live", *words])

    def files(self) -> dict[str, bytes]:
        """Return every file of production and of the candidates."""
        found = [path for part in ("models", "work") for path in (self.directory / part).rglob("*") if path.is_file()]
        return {str(path): path.read_bytes() for path in found}


def new_shop(directory: Path) -> Shop:
    """Return a model whose version 1 is live."""
    (directory / "cfg.yaml").write_text(
        "name: twov\nwork_dir: work\nmodels_root: models\nserving: {backend: embedded}\n"
        "gates: {use: [safety, contract, parity, latency], latency: {requests: 20}}\n"
    )
    shop = Shop(directory)
    shop.promote(1)
    return shop

"""Stage 3: a numbered candidate directory."""

from __future__ import annotations

from pathlib import Path

from configs.schema import Config
from tasks.policy import stage
from tasks.records import Candidate, Splits, TrainedModel
from tasks.savedmodel.exporter import export_savedmodel
from tasks.store.history import append
from tasks.store.layout import claim_version, version_number
from tasks.training.process import call


@stage
def export_model(config: Config, splits: Splits, trained: TrainedModel, run_dir: Path) -> Candidate:
    """Export into a staging directory, which gets the next number only when it is complete."""
    model_dir, live_dir = config.work_dir / "candidates" / config.name, config.models_root / config.name
    with claim_version(model_dir, live_dir, config.export.version_width) as claim:
        exported = call(export_savedmodel, config, splits, trained, claim.staging, run_dir)
        version_dir = claim.publish()
    number = version_number(version_dir.name)
    assert number is not None
    append(live_dir, number, "exported", exported.digest)
    return Candidate(
        config.name,
        number,
        version_dir,
        exported.digest,
        exported.signature,
        exported.size_bytes,
        run_dir / "requests.npz",
        run_dir / "reference.npz",
        splits.test,
    )

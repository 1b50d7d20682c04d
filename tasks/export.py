"""Stage 3: export the model to a numbered candidate directory."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from configs.loading import ConfigError
from configs.schema import Config
from tasks.errors import ExportError, named_as
from tasks.gates.safety import judge_safety
from tasks.objects.store import claim_of, refresh
from tasks.proof.signing import signer_of
from tasks.records import Candidate, Splits, TrainedModel
from tasks.savedmodel.adopted import adopt_savedmodel, save_own_answers
from tasks.savedmodel.exporter import Exported, export_savedmodel
from tasks.savedmodel.files import copy_tree, walk
from tasks.savedmodel.manifest import MANIFEST
from tasks.savedmodel.safety import read_graph
from tasks.stage import stage
from tasks.store.history import append
from tasks.store.layout import Claim, claim_version, version_number
from tasks.store.runs import note_digest
from tasks.store.shared_rows import share
from tasks.training.process import call


@stage
def export_model(config: Config, splits: Splits, trained: TrainedModel, run_dir: Path) -> Candidate:
    """Export to a staging directory, which gets the next number only when it is complete."""
    return export_next(config, splits, trained, run_dir, run_dir)


def export_next(config: Config, splits: Splits, trained: TrainedModel, run_dir: Path, evidence: Path) -> Candidate:
    """Export a model under the next number.

    Args:
        evidence: directory for the requests and the in-process answers: the run directory, or one below it.
    """
    with _claim(config) as claim:
        exported = call(export_savedmodel, config, splits, trained, claim.staging, evidence)
        note_digest(run_dir, exported.digest)
        refresh(config)
        version_dir = claim.publish()
    return new_candidate(config, splits, exported, version_dir, evidence)


@stage
def adopt_model(config: Config, splits: Splits, given: TrainedModel, signature: str, run_dir: Path) -> Candidate:
    """Make a candidate of an unchanged SavedModel, or export a `.keras` file."""
    if signature and given.keras_file.suffix == ".keras":
        raise ConfigError("--signature chooses a signature of a SavedModel, but a .keras file has none; remove it")
    with _claim(config) as claim:
        if given.keras_file.suffix == ".keras":
            exported = call(export_savedmodel, config, splits, given, claim.staging, run_dir)
        else:
            _copy(given.keras_file, claim.staging)
            with named_as(claim.staging, given.keras_file):
                exported = _adopted(config, splits, claim.staging, run_dir, signature)
        note_digest(run_dir, exported.digest)
        refresh(config)
        version_dir = claim.publish()
    return new_candidate(config, splits, exported, version_dir, run_dir)


def _claim(config: Config) -> AbstractContextManager[Claim]:
    """Claim a number that no other machine uses; the caller first refreshes, to know which ones were ever used."""
    width = config.export.version_width
    return claim_version(config.candidates_dir, config.live_dir, width, claim_of(config))


def _copy(model: Path, staging: Path) -> None:
    """Copy a SavedModel unchanged, except for a manifest of ours, which is written again."""
    odd = [entry for entry in walk(model) if entry.odd]
    if odd:  # the digest would not cover it
        raise ExportError(f"a SavedModel must contain regular files only, got {odd[0].odd}: '{odd[0].name}'; remove it")
    copy_tree(model, staging)
    (staging / MANIFEST).unlink(missing_ok=True)


def _adopted(config: Config, splits: Splits, staging: Path, run_dir: Path, signature: str) -> Exported:
    """Write the requests for a SavedModel and, if its graph is safe, its own answers; the gate refuses others."""
    graph = read_graph(staging, config.gates.safety.max_graph_mb * 1e6)
    exported = call(adopt_savedmodel, config, splits, staging, run_dir, signature)
    if judge_safety(graph, config.gates.safety).passed:
        call(save_own_answers, staging, exported.signature, run_dir)
    return exported


def new_candidate(config: Config, splits: Splits, exported: Exported, version_dir: Path, run_dir: Path) -> Candidate:
    """Return the record of a numbered version directory, and add it to the history."""
    share(config, run_dir / "requests.npz")
    number = version_number(version_dir.name)
    assert number is not None
    append(config.live_dir, number, "exported", exported.digest, signer_of(config))
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

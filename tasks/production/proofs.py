"""Writes the proof of a promotion just before it goes live, and says what is not proven."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from configs.redaction import redacted
from configs.schema import Config
from tasks.errors import StoreError
from tasks.proof.approval import APPROVAL_FILE
from tasks.proof.directory import STATEMENT, evidence_file, kept_statement, proof_dir, write_proof
from tasks.proof.envelope import sign
from tasks.proof.keys import signing_key, trusted_keys
from tasks.proof.model_signing import signature_file
from tasks.proof.packages import lock_text
from tasks.proof.statement import PAYLOAD_TYPE, Statement
from tasks.proof.verify import all_files
from tasks.records import Change, GateResult
from tasks.savedmodel.files import open_plain
from tasks.savedmodel.manifest import Manifest
from tasks.store.proven import check_version
from tasks.store.rehearsals import Rehearsed, recall_or_warn

log = logging.getLogger(__name__)


def prove(config: Config, change: Change, directory: Path, manifest: Manifest) -> None:
    """Write the statement about a promotion, its evidence and the signatures; a rollback has them already.

    A statement that is signed stays as it is if there is no key now.

    Args:
        directory: of the files. manifest: what they are, as it was just compared with the digest of the change.

    Raises:
        ConfigError: the key cannot be used. StoreError: the proof cannot be written.
    """
    if change.rolls_back is not None:
        return
    key = signing_key(config.promote)
    earlier = kept_statement(config.live_dir, change.digest)
    if key is None and earlier is not None and earlier.key_id:
        log.warning("the %s about these bytes is kept, because there is no key to sign another one", earlier)
        return
    source = Path(change.source).name  # several candidates can have these bytes, and each its own rehearsal
    known = recall_or_warn(config.candidates_dir, change.digest, int(source) if source.isdecimal() else None)
    if known is None:
        if config.promote.require_proof:
            raise StoreError(
                f"version {change.version} needs a proof (promote.require_proof), but the record of its rehearsal is "
                f"not in '{config.candidates_dir}'; run the rehearsal again"
            )
        log.warning("version %d gets no proof, because the record of its rehearsal is gone", change.version)
        return
    files = all_files(directory, manifest)
    evidence = _evidence(known)
    if change.approval:
        evidence[APPROVAL_FILE] = change.approval.encode()
    sums = {name: _sha256(content) for name, content in evidence.items()}
    said = Statement(change.digest, files, sums, _predicate(config, change, known))
    write_proof(
        proof_dir(config.live_dir, change.digest),
        sign(said.payload(), PAYLOAD_TYPE, key),
        {evidence_file(name, sums[name]): content for name, content in evidence.items()},
        signature_file(config.name, files, key) if key else None,
        int(config.promote.file_mode, 8),
    )
    log.info("proof of version %d: %s", change.version, kept_statement(config.live_dir, change.digest))


def unproven(config: Config, directory: Path, digest: str) -> str:
    """Return why a version does not have the proof that `promote.require_proof` demands, or an empty string.

    Args:
        directory: of its files; a rollback may find them elsewhere than beside the proofs.

    Raises:
        ConfigError: a trusted key cannot be used.
    """
    if not config.promote.require_proof:
        return ""
    place = proof_dir(config.live_dir, digest) / STATEMENT
    try:
        check_version(directory, trusted_keys(config.promote), statement=place, model=config.name)
    except StoreError as exc:
        return str(exc)
    return ""


def _evidence(known: Rehearsed) -> dict[str, Path | bytes]:
    """Return the evidence that is still there, by name: what was asked, answered, judged and installed."""
    record = json.dumps(redacted(json.loads(json.dumps(asdict(known), default=str))), indent=1, sort_keys=True)
    found: dict[str, Path | bytes] = {"rehearsal.json": record.encode()}
    if known.provenance is not None:
        found["packages.txt"] = lock_text(known.provenance.packages).encode()
    served = known.report.served
    files = {"requests.npz": known.report.candidate.requests, "answers.npz": served.answers if served else None}
    return found | {name: path for name, path in files.items() if path is not None and path.is_file()}


def _sha256(content: Path | bytes) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    try:
        with open_plain(content) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as exc:
        raise StoreError(f"'{content}' is evidence and must be readable, got {exc.strerror}") from exc


def _predicate(config: Config, change: Change, known: Rehearsed) -> dict[str, Any]:
    """Return what is said about the version, as canonical JSON can hold it."""
    report, provenance = known.report, known.provenance
    found: dict[str, Any] = {
        "model": config.name,
        "version": change.version,
        "promotedAt": datetime.now(UTC).isoformat(timespec="seconds"),
        "approvedBy": change.actor,
        "approval": change.reason if change.actor else "no person was asked",
        "run": {"id": known.run.mlflow_run_id, "registryVersion": known.run.registry_version},
        "gates": [_gate(gate) for gate in report.gates],
        "data": {"digest": known.splits.digest, "rows": dict(known.splits.rows), "source": known.splits.source},
        "judgedBeside": {"version": report.champion.version, "digest": report.champion.digest}
        if report.champion
        else None,
    }
    if report.served is not None:
        server = report.served.server
        found["server"] = {
            "backend": server.backend, "image": server.image, "imageId": server.image_id, "version": server.version,
            "url": server.url, "args": list(server.args),
        }  # fmt: skip
    if provenance is not None:
        found |= {
            "configuration": provenance.configuration,
            "gitCommit": provenance.git_commit,
            "lock": {"sha256": _sha256(lock_text(provenance.packages).encode())},
        }
    return dict(_plain(redacted(found)))


def _gate(gate: GateResult) -> dict[str, Any]:
    return {
        "name": gate.name, "passed": gate.passed, "summary": gate.summary, "figures": dict(gate.figures),
        "bounds": dict(gate.bounds), "units": dict(gate.units), "champion": dict(gate.champion),
    }  # fmt: skip


def _plain(value: Any) -> Any:
    """Return a value with numbers that JSON does not have as text, such as `nan`."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value

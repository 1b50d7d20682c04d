"""Repair what crashes left, as a daily deployment: what the doctor finds, then the containers of killed runs."""

from __future__ import annotations

from pathlib import Path

from prefect import State, flow
from prefect.states import Completed, Failed

from configs.loading import load_config
from configs.redaction import redact
from tasks.errors import ServingError
from tasks.maintain import examine_model, reap_containers
from tasks.store.repair import Finding

NEEDS_DECISION = "NeedsDecision"


@flow(name="maintain")
def maintain(config: str, overrides: list[str] | None = None) -> State[list[str]]:
    """Remove what killed runs left behind, finish changes that a crash interrupted, and tell what needs a person.

    The run ends as `InOrder` or `Repaired`, or as failed in a state named `NeedsDecision`.

    Args:
        config: path of the YAML file.
        overrides: `section.key=value` items that replace values of the file.
    """
    cfg = load_config(Path(config), overrides or ())
    findings, removed = examine_model(cfg), []  # first, because it needs no engine
    try:
        removed = reap_containers(cfg)
    except ServingError as exc:
        findings = [*findings, Finding("reported", str(exc))]
    done = [*removed, *(f"{finding.done}: {finding.text}" for finding in findings)]
    message = redact("; ".join(done)) or f"'{cfg.name}' is in order"
    if any(finding.done == "reported" for finding in findings):
        return Failed(name=NEEDS_DECISION, message=message, data=done)
    return Completed(name="Repaired" if done else "InOrder", message=message, data=done)

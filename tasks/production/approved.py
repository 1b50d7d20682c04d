"""Whether a person's approval counts: with `promote.approvers`, only one that a reviewer signed for exactly this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from configs.schema import Config
from tasks.errors import ProofMismatch
from tasks.proof.approval import approval_digest, read_approval
from tasks.proof.signing import approvers_of
from tasks.registry.approvals import MOST_NAME, Reviewed
from tasks.report.standing import UNNAMED
from tasks.store.history import SERVED, Entry
from tasks.words import one_line

TAG = "by a tag in MLflow"


@dataclass(frozen=True)
class Approved:
    """An approval that counts.

    Attributes:
        by: who approved. how: by a tag, or with which key, in words. signed: the file of the approval, or empty.
    """

    by: str
    how: str
    signed: str = ""

    @property
    def words(self) -> str:
        """Return who approved and how, for people."""
        return f"approved by {self.by}, {self.how}"


def approval_of(config: Config, reviewed: Reviewed, entries: Sequence[Entry]) -> Approved:
    """Return the approval of a candidate, as far as signatures are concerned.

    It does not count for other bytes, another model, candidate or run. It counts once: after the bytes were
    rejected, rolled back or replaced, another one is needed.

    Args:
        entries: the history.

    Raises:
        ConfigError: a key of `promote.approvers` cannot be used.
        ProofMismatch: it does not count; the message says why.
    """
    publics = approvers_of(config)
    if not publics:
        return Approved(reviewed.by or UNNAMED, TAG)
    if not reviewed.approval:
        raise ProofMismatch("it has a tag and no signature, and promote.approvers demands one")
    said, signer = read_approval(reviewed.approval, publics)
    meant = (config.name, reviewed.digest, reviewed.candidate_version, reviewed.mlflow_run_id)
    names = ("the model", "the digest", "candidate", "MLflow's run")
    for name, wanted, got in zip(names, meant, (said.model, said.digest, said.candidate, said.run), strict=True):
        if wanted != got:
            raise ProofMismatch(f"its signature is for {name} {got}, and not for {wanted}")
    sha = approval_digest(reviewed.approval)
    if used := _ended_by(entries, said.digest, sha):
        raise ProofMismatch(f"it was used before, and the version was {used.state} since then, at {used.time}")
    return Approved(one_line(said.by, MOST_NAME), f"signed with key {signer[:8]}", reviewed.approval)


def noted(approved: Approved) -> str:
    """Return what the history says of an approval, by which it is known again."""
    return f"{approved.how}, approval {approval_digest(approved.signed)}" if approved.signed else approved.how


def _ended_by(entries: Sequence[Entry], digest: str, sha: str) -> Entry | None:
    """Return the line after the use of an approval that ended it, or None.

    Bytes that went live by it and were replaced since then have had what was approved. Else the old approval, which
    stays readable beside the version, could bring them back by a tag alone.
    """
    its = [entry for entry in entries if entry.digest == digest]
    uses = [place for place, e in enumerate(its) if e.state == "approved" and e.reason.endswith(f"approval {sha}")]
    went_live = False
    for entry in its[uses[0] + 1 :] if uses else []:
        if entry.state in ("rejected", "rolled back") or (went_live and entry.state == "superseded"):
            return entry
        went_live = went_live or entry.state in SERVED
    return None

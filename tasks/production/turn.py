"""What each change of production goes through: its turn, the check of what production answers, and the records."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TypeVar

from configs.redaction import redact
from configs.schema import Config
from tasks.errors import StoreConflict, StoreError, TrackingError
from tasks.objects.archive import forget_old
from tasks.objects.store import catch_up as catch_up_with_store
from tasks.objects.store import mirror_of
from tasks.outcomes import Promotion, PromotionState
from tasks.production.live_check import Expected, problem_at_any
from tasks.production.metrics import Watch
from tasks.production.proofs import prove, unproven
from tasks.production.server import endpoints
from tasks.proof.signing import head_keys, signer_of
from tasks.records import Change
from tasks.registry.changes import record_change
from tasks.store.history import has_line, read
from tasks.store.leftovers import digests_in_use
from tasks.store.lock import model_lock
from tasks.store.rehearsals import recall_or_warn
from tasks.store.repair import mend
from tasks.store.retention import prune
from tasks.store.transaction import CANARY, Production, annotate, carry_out, overtaken, tell
from tasks.waiting import waiting_for

T = TypeVar("T")
log = logging.getLogger(__name__)

TRIES = 5  # how often other machines may write live.json while a change begins
settled: list[Promotion] = []
"""The changes of production by this process, even if the stage that made them fails afterwards."""


def production(config: Config) -> Production:
    """Return the production of a configuration."""
    promote = config.promote
    verify, record = partial(_verify, config), partial(_record, config)
    modes = int(promote.directory_mode, 8), int(promote.file_mode, 8)
    as_label = partial(_verify, config, as_label=True)
    mirror = mirror_of(config)
    show = mirror.show if mirror is not None else _nothing
    return Production(
        config.live_dir, promote.layout, verify, record, *modes, verify_label=as_label, show=show,
        signer=signer_of(config), publics=head_keys(config),
        prove=partial(prove, config), unproven=partial(unproven, config),
    )  # fmt: skip


def _nothing() -> None:
    """Servers that watch the directory see it as it is."""


def _record(config: Config, change: Change) -> None:
    """Send a change to MLflow; one that waited here while another machine made a later one moves no alias back.

    The head of a history that was replaced by another machine's is not noted, because nobody would find it again.
    """
    if not has_line(config.live_dir, change.head):
        change = replace(change, head="")
    record_change(config, change, overtaken=overtaken(read(config.live_dir), change))


def _verify(config: Config, change: Change, *, as_label: bool = False) -> str:
    """Return why production does not give the validated answers, or an empty string.

    Args:
        as_label: ask for the label of the change, and not for the number of its version.
    """
    promote = config.promote
    if not promote.live_addresses:
        return ""
    known = recall_or_warn(config.candidates_dir, change.digest)
    expected = None
    if known is not None and known.report.served is not None:
        candidate, answers = known.report.candidate, known.report.served.answers
        if candidate.requests.is_file() and answers.is_file():
            expected = Expected(
                candidate.signature,
                candidate.requests,
                answers,
                promote.live_rows,
                config.gates.atol,
                config.gates.rtol,
            )
    if expected is None:
        log.warning("only checking that version %d is AVAILABLE: its validated answers are gone", change.version)
    where = ", ".join(promote.live_addresses)
    label = change.label if as_label else ""
    what = f"version {change.version}" + (f" as '{label}'" if label else "")
    log.info("waiting for %s at %s, at most %g s", what, where, promote.live_timeout_s)
    with waiting_for(f"{what} at {where}"):
        problem = problem_at_any(endpoints(config), change.version, expected, promote.live_timeout_s, label)
    return redact(problem)  # it is written to journal, history and outbox


@contextlib.contextmanager
def changing(config: Config) -> Iterator[Production]:
    """Hold the lock of production within a block, and first repair what a crash left behind.

    MLflow is updated after the change, never before it, so that a rollback does not wait for it.

    Raises:
        LockTimeout: another change is in progress. StoreError: the directory cannot be used.
    """
    found = production(config)
    with model_lock(found.model_dir, config.promote.lock_timeout_s):
        catch_up_with_store(config)
        for finding in mend(found, config.candidates_dir):
            log.warning("%s: %s", finding.done, finding.text)
        found.show()
        yield found


def in_turn(config: Config, change: Callable[[Production], T], *, whatever_is_live: bool = False) -> T:
    """Return the result of a change, which begins again if another machine wrote live.json at the same time.

    Machines write it for each candidate that is archived or rejected as well, which must hold up no rollback.

    Args:
        whatever_is_live: also begin again if another version, label or experiment is live by then; `change` looks at
            that itself.

    Raises:
        StoreConflict: another machine has changed production, or was faster each time. Others: as `changing`.
    """
    mirror, before = mirror_of(config), None
    conflict: StoreConflict | None = None
    for _ in range(TRIES):
        try:
            with changing(config) as found:
                live = mirror.base().live if mirror is not None else None
                now = live and (live.versions, live.labels, live.experiment)
                if conflict is not None and now != before and not whatever_is_live:
                    break
                before = now
                return change(found)
        except StoreConflict as exc:
            conflict = exc
    assert conflict is not None
    raise conflict


def inform(config: Config) -> None:
    """Send the changes of production to MLflow.

    Raises:
        TrackingError: MLflow cannot be updated; the next promotion or the doctor will do it.
    """
    tell(production(config))


def with_metrics(config: Config, watched: Watch, promotion: Promotion) -> Promotion:
    """Return an outcome with what production's metrics say about it, which MLflow will be told; never fails.

    Args:
        watched: began before the change.
    """
    change = promotion.change
    if change is None:
        return promotion
    try:
        metrics = watched.told(config.name, change.version, first=change.previous is None)
    except Exception as exc:  # noqa: BLE001  production has been changed, whatever its metrics are
        log.warning("production's metrics are unknown: %s", type(exc).__name__)
        return promotion
    if not metrics:
        return promotion
    log.info("production's metrics: %s", metrics)
    problem = "the change does not wait in its outbox"
    try:
        written = annotate(config.live_dir, change, metrics)
    except StoreError as exc:
        written, problem = False, str(exc)
    if not written:
        log.warning("MLflow does not get production's metrics: %s", problem)
    return replace(promotion, metrics=metrics)


def make_change(config: Config, found: Production, change: Change) -> Promotion:
    """Make a change, then prune; return the outcome."""
    result = carry_out(found, change)
    if result.state != "live":
        before = f"; version {change.previous} is still live" if change.previous else ""
        return Promotion(PromotionState.ROLLED_BACK, None, f"{result.reason}{before}", change)
    is_canary = change.label == CANARY
    what = f"version {change.version} is {'the canary' if is_canary else 'live'}"
    if result.unwritten:
        log.warning(
            "%s, but this could not be recorded: %s; the next change or the doctor will do it", what, result.unwritten
        )
    keep = 0 if result.unwritten else config.promote.keep
    try:
        in_use = digests_in_use(config) if keep else ()
        for path in prune(found.model_dir, config.candidates_dir, found.layout, keep, in_use, found.signer):
            log.info("removed %s (promote.keep: %d)", path, config.promote.keep)
        if not result.unwritten:
            found.show()
            forget_old(config, in_use)
    except (StoreError, OSError) as exc:  # the change succeeded, and MLflow must be updated; the next one prunes again
        log.warning("old versions could not be removed: %s", exc)
    reason = ", ".join(filter(None, (what, change.reason)))
    state = PromotionState.CANARY if is_canary else PromotionState.PROMOTED
    settled.append(Promotion(state, result.live_dir, reason, change))
    return settled[-1]


def told(found: Production, promotion: Promotion) -> Promotion:
    """Return an outcome after sending it to MLflow; if that fails, the outcome does not change."""
    try:
        tell(found)
    except (TrackingError, StoreError) as exc:
        log.warning(
            "%s, but MLflow could not be updated; the next promotion or the doctor will do it: %s",
            promotion.reason,
            exc,
        )
    return promotion

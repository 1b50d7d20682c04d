"""What promotion, approval, rollback and doctor share: one production, and the changes that can be made to it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from configs.schema import Config
from tasks.errors import StoreError, TrackingError
from tasks.records import Candidate, Champion, Change, Promotion, TrackedRun
from tasks.registry.changes import record_change
from tasks.store.champion import find_champion, predecessor
from tasks.store.history import read
from tasks.store.layout import next_number, versions
from tasks.store.live_check import Expected, live_problem
from tasks.store.lock import model_lock
from tasks.store.rehearsals import recall
from tasks.store.repair import Finding, repair
from tasks.store.retention import prune
from tasks.store.serving_config import labels_of
from tasks.store.transaction import CANARY, STABLE, Production, carry_out, tell

log = logging.getLogger(__name__)


def candidates_dir(config: Config) -> Path:
    """Return `<work_dir>/candidates/<name>`."""
    return config.work_dir / "candidates" / config.name


def live_dir(config: Config) -> Path:
    """Return `<models_root>/<name>`, the directory that production watches."""
    return config.models_root / config.name


def production(config: Config) -> Production:
    """Return the production that a configuration describes."""
    return Production(live_dir(config), config.promote.layout, partial(_verify, config), partial(record_change, config))


def _verify(config: Config, change: Change) -> str:
    """Ask production for what was validated; return why it does not answer so, or an empty string."""
    promote = config.promote
    if not promote.live_url:
        return ""
    known = recall(candidates_dir(config), change.digest)
    expected = None
    if known is not None and known.report.served is not None:
        candidate = known.report.candidate
        expected = Expected(
            candidate.signature, candidate.requests, known.report.served.answers, promote.live_rows,
            config.gates.atol, config.gates.rtol,
        )  # fmt: skip
    return live_problem(promote.live_url, config.name, change.version, expected, promote.live_timeout_s)


@contextlib.contextmanager
def changing(config: Config) -> Iterator[Production]:
    """Hold the lock of production for a block, and first mend what a crash has left.

    Raises:
        LockTimeout: another promotion is under way. StoreError: the directory cannot be used.
    """
    found = production(config)
    with model_lock(found.model_dir, config.promote.lock_timeout_s):
        for finding in repair(found, candidates_dir(config)):
            log.warning("%s: %s", finding.done, finding.text)
        yield found


def examine(config: Config, *, only_look: bool) -> list[Finding]:
    """Return what the doctor finds, and mend it unless it shall only look."""
    found = production(config)
    if only_look:
        return repair(found, candidates_dir(config), only_look=True)
    with model_lock(found.model_dir, config.promote.lock_timeout_s):
        return repair(found, candidates_dir(config))


def put_live(config: Config, candidate: Candidate, run: TrackedRun, against: Champion | None, actor: str) -> Promotion:
    """Bring a candidate that passed into production, unless the champion that it was held against serves no more.

    Args:
        against: the champion that it was judged beside, or None.
    """
    with changing(config) as found:
        champion = find_champion(found.model_dir, found.layout)
        if champion and champion.digest == candidate.digest:  # a second try: only MLflow had not been told
            return _told(found, Promotion("promoted", champion.version_dir, f"version {champion.version} is live"))
        if (champion and champion.digest) != (against and against.digest):
            now = f"version {champion.version}" if champion else "none"
            was = f"version {against.version}" if against else "none"
            return Promotion("stale", None, f"held against {was} as champion, and {now} serves now")
        number, directory = _number(config, candidate)
        labels = labels_of(found.model_dir) if found.layout == "labels" else {}
        change = Change(
            "publish", number, directory, candidate.digest, str(candidate.version_dir.resolve()),
            previous=champion.version if champion else None,
            previous_digest=champion.digest if champion else "",
            label="" if found.layout == "latest" else CANARY if STABLE in labels else STABLE,
            run=run.run_id, registry_version=run.registry_version, actor=actor,
        )  # fmt: skip
        return _done(config, found, change)


def go_back(config: Config, to: int | None, actor: str) -> Promotion:
    """Put the bytes that served before back into the champion's place, or those of version `to`.

    Raises:
        StoreError: there is nothing to go back to, or those bytes are gone.
    """
    with changing(config) as found:
        champion = find_champion(found.model_dir, found.layout)
        if champion is None:
            raise StoreError(f"a rollback needs a version that serves, and '{found.model_dir}' has none")
        target = predecessor(found.model_dir, champion.version) if to is None else to
        if target is None or target == champion.version:
            raise StoreError(
                f"a rollback needs another version that has served, got {target or 'none'}; "
                f"version {champion.version} of '{config.name}' serves (see {found.model_dir / '.history.jsonl'})"
            )
        digest, source = _bytes_of(config, target)
        reason = f"rollback from version {champion.version} to the bytes of version {target}"
        change = Change(
            "publish", target, str(target), digest, str(source.resolve()), previous=champion.version,
            previous_digest=champion.digest, rolls_back=champion.version, actor=actor, reason=reason,
        )  # fmt: skip
        if found.layout == "labels":
            if target not in versions(found.model_dir):
                raise StoreError(f"label '{STABLE}' can only move to a live version, got {target}")
            return _done(config, found, replace(change, operation="label", label=STABLE, directory=source.name))
        with next_number(candidates_dir(config), found.model_dir) as number:
            directory = f"{number:0{config.export.version_width}d}"
        return _done(config, found, replace(change, version=number, directory=directory))


def move_label(config: Config, actor: str) -> Promotion:
    """Make the canary the stable version."""
    with changing(config) as found:
        labels = labels_of(found.model_dir)
        version, stable = labels.get(CANARY), labels.get(STABLE)
        if found.layout != "labels" or version is None or version == stable:
            raise StoreError(f"--to stable moves the label from a canary, and '{config.name}' has none beside {stable}")
        champion = find_champion(found.model_dir, found.layout)
        digest, source = _bytes_of(config, version)
        change = Change(
            "label", version, source.name, digest, previous=stable,
            previous_digest=champion.digest if champion else "", label=STABLE, actor=actor,
        )  # fmt: skip
        return _done(config, found, change)


def _done(config: Config, found: Production, change: Change) -> Promotion:
    """Carry a change out, then prune; return what became of it."""
    result = carry_out(found, change)
    if result.state != "live":
        return _told(found, Promotion("rolled back", None, result.reason))
    for path in prune(found.model_dir, candidates_dir(config), found.layout, config.promote.keep):
        log.info("removed %s (promote.keep: %d)", path, config.promote.keep)
    what = f"version {change.version} is {'the canary' if change.label == CANARY else 'live'}"
    reason = ", ".join(filter(None, (what, change.reason)))
    return _told(found, Promotion("canary" if change.label == CANARY else "promoted", result.live_dir, reason))


def _told(found: Production, promotion: Promotion) -> Promotion:
    """Return an outcome that MLflow knows.

    Raises:
        TrackingError: production is changed, and MLflow does not know it yet.
    """
    try:
        tell(found)
    except TrackingError as exc:
        raise TrackingError(
            f"{promotion.reason}; the next promotion or the doctor tells MLflow, but now: {exc}"
        ) from exc
    return promotion


def _number(config: Config, candidate: Candidate) -> tuple[int, str]:
    """Return the number to serve under, and its directory's name: the candidate's own unless a higher one was live."""
    model_dir = live_dir(config)
    ever_live = [e.version for e in read(model_dir) if e.state in ("live", "rolled back", "superseded")]
    if candidate.version > max([0, *ever_live, *versions(model_dir)]):
        return candidate.version, candidate.version_dir.name
    served = versions(model_dir).get(candidate.version)
    if served is not None and any(
        e.version == candidate.version and e.digest == candidate.digest for e in read(model_dir)
    ):
        return candidate.version, served.name  # the same promotion once more
    with next_number(candidates_dir(config), model_dir) as number:
        return number, f"{number:0{config.export.version_width}d}"


def _bytes_of(config: Config, version: int) -> tuple[str, Path]:
    """Return digest and directory of the bytes that served under a number.

    Raises:
        StoreError: it never served, or its bytes are gone.
    """
    model_dir = live_dir(config)
    digest = next((e.digest for e in reversed(read(model_dir)) if e.version == version and e.state == "live"), "")
    if not digest:
        raise StoreError(f"a rollback goes to a version that has served, and version {version} never did")
    known = recall(candidates_dir(config), digest)
    places = [versions(model_dir).get(version), known.report.candidate.version_dir if known else None]
    found = next((place for place in places if place is not None and place.is_dir()), None)
    if found is None:
        raise StoreError(f"the bytes of version {version} must still be there, and were pruned; choose another --to")
    return digest, found

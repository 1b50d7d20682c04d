"""What promotion, approval, rollback and doctor share: one production, and the changes that can be made to it."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from urllib.parse import urlsplit

from configs.redaction import redact
from configs.schema import Config
from tasks.errors import StoreError, TrackingError
from tasks.outcomes import Promotion, PromotionState
from tasks.records import Candidate, Champion, Change, TrackedRun
from tasks.registry.changes import record_change
from tasks.store.champion import champion_version, find_champion
from tasks.store.history import SERVED, process_user, read, served_digest
from tasks.store.layout import next_number, versions
from tasks.store.live_check import Expected, is_there, live_problem
from tasks.store.lock import model_lock
from tasks.store.rehearsals import recall_or_warn
from tasks.store.repair import Finding, catch_up, mend, repair
from tasks.store.retention import prune
from tasks.store.rollback_target import bytes_of, rollback_target
from tasks.store.serving_config import CONFIG, ensure_config, labels_of
from tasks.store.transaction import CANARY, STABLE, Production, carry_out, tell
from tasks.waiting import waiting_for

log = logging.getLogger(__name__)
ONE_TRY = "--max_num_load_retries=0"  # else a version that does not load holds up every other for five minutes


settled: list[Promotion] = []
"""What this process has brought into production, whatever becomes of the stage that did it."""


def production_command(config: Config) -> str:
    """Return the flags that a production server is started with, TensorFlow Serving or the embedded one."""
    port = urlsplit(config.promote.live_url).port or 8501
    if config.promote.layout == "labels":  # the last flag: at a restart no version is loaded when the labels are read
        path = shlex.quote(str(config.models_root / CONFIG))
        return (
            f"--rest_api_port={port} {ONE_TRY} --model_config_file={path} --model_config_file_poll_wait_seconds=1 "
            "--allow_version_labels_for_unavailable_models=true"
        )
    path = shlex.quote(str(config.live_dir))
    return f"--rest_api_port={port} {ONE_TRY} --model_name={config.name} --model_base_path={path}"


def look_at_production(config: Config) -> None:
    """Say it where production must verify a version and does not answer; make what it can be started on.

    Raises:
        StoreError: models_root is not a directory that can be written.
    """
    root = config.models_root
    there = next(path for path in (root, *root.parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise StoreError(f"models_root must lie in a writable directory, but '{there}' is not one")
    promote = config.promote
    if promote.layout == "labels":
        ensure_config(config.models_root)
    if promote.live_url and not is_there(promote.live_url, config.name):
        log.warning(
            "no server answers at promote.live_url %s: this is expected before the first version, else start one "
            "(%s); a version that it does not serve %g s (promote.live_timeout_s) after its promotion is rolled back",
            promote.live_url,
            production_command(config),
            promote.live_timeout_s,
        )


def production(config: Config) -> Production:
    """Return the production that a configuration describes."""
    promote = config.promote
    verify, record = partial(_verify, config), partial(record_change, config)
    modes = int(promote.directory_mode, 8), int(promote.file_mode, 8)
    return Production(config.live_dir, promote.layout, verify, record, *modes)


def _verify(config: Config, change: Change) -> str:
    """Ask production for what was validated; return why it does not answer so, or an empty string."""
    promote = config.promote
    if not promote.live_url:
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
        log.warning("version %d is only checked for AVAILABLE, because its validated answers are gone", change.version)
    log.info("waiting for version %d at %s, at most %g s", change.version, promote.live_url, promote.live_timeout_s)
    with waiting_for(f"version {change.version} at {promote.live_url}"):
        problem = live_problem(promote.live_url, config.name, change.version, expected, promote.live_timeout_s)
    return redact(problem)  # it goes into journal, history and outbox


@contextlib.contextmanager
def changing(config: Config) -> Iterator[Production]:
    """Hold the lock of production for a block, and first mend what a crash has left.

    MLflow is told behind the change, never before it: a rollback does not wait for it.

    Raises:
        LockTimeout: another promotion is under way. StoreError: the directory cannot be used.
    """
    found = production(config)
    with model_lock(found.model_dir, config.promote.lock_timeout_s):
        for finding in mend(found, config.candidates_dir):
            log.warning("%s: %s", finding.done, finding.text)
        yield found


def examine(config: Config, *, only_look: bool) -> list[Finding]:
    """Return what the doctor finds, and mend it unless `only_look` is set."""
    found = production(config)
    if only_look:
        return [*repair(found, config.candidates_dir, only_look=True), *catch_up(found, only_look=True)]
    with model_lock(found.model_dir, config.promote.lock_timeout_s):
        findings = repair(found, config.candidates_dir)
    return [*findings, *catch_up(found)]


def put_live(config: Config, candidate: Candidate, run: TrackedRun, against: Champion | None, actor: str) -> Promotion:
    """Bring a candidate that passed into production, unless the champion that it was compared with is no longer live.

    Args:
        against: the champion that it was judged beside, or None.
    """
    with changing(config) as found:
        champion = find_champion(found.model_dir, found.layout)
        if champion and champion.digest == candidate.digest:  # a second try: only MLflow had not been told
            promotion = Promotion(PromotionState.PROMOTED, champion.version_dir, f"version {champion.version} is live")
        elif (champion and champion.digest) != (against and against.digest):
            now = f"version {champion.version}" if champion else "no version"
            was = f"version {against.version}" if against else "no version"
            return Promotion(PromotionState.STALE, None, f"it was compared with {was}, but {now} is live now")
        else:
            number, directory = _number(config, candidate)
            labels = labels_of(found.model_dir) if found.layout == "labels" else {}
            change = Change(
                "publish", number, directory, candidate.digest, str(candidate.version_dir.resolve()),
                previous=champion.version if champion else None,
                previous_digest=champion.digest if champion else "",
                label="" if found.layout == "latest" else CANARY if STABLE in labels else STABLE,
                run=run.run_id, registry_version=run.registry_version, actor=actor,
                reason=f"approved by {actor}" if actor else "",
            )  # fmt: skip
            promotion = _done(config, found, change)
    return _told(found, promotion)  # the lock is free by then: a rollback must not wait for MLflow


def go_back(config: Config, to: int | None, actor: str) -> Promotion:
    """Put the bytes that served before back into the champion's place, or those of version `to`.

    MLflow is not waited for: `inform` tells it afterwards.

    Raises:
        StoreError: there is nothing to go back to, or those bytes are gone.
    """
    with changing(config) as found:
        champion = champion_version(found.model_dir, found.layout)  # not its bytes: they may be what is wrong
        if champion is None:
            raise StoreError(f"a rollback needs a version that is live, but '{found.model_dir}' has none")
        target = rollback_target(found.model_dir, champion) if to is None else to
        if target == champion:
            raise StoreError(f"a rollback needs another version, and version {champion} of '{config.name}' is live")
        digest, source = bytes_of(found.model_dir, target, config.candidates_dir if found.layout == "latest" else None)
        reason = f"rollback from version {champion} to the bytes of version {target}"
        change = Change(
            "publish", target, str(target), digest, str(source.resolve()), previous=champion,
            previous_digest=served_digest(read(found.model_dir), champion), rolls_back=champion,
            actor=actor or process_user(), reason=reason,
        )  # fmt: skip
        if found.layout == "labels":
            return _done(config, found, replace(change, operation="label", label=STABLE, directory=source.name))
        with next_number(config.candidates_dir, found.model_dir) as number:
            directory = f"{number:0{config.export.version_width}d}"
        return _done(config, found, replace(change, version=number, directory=directory))


def inform(config: Config) -> None:
    """Tell MLflow of what has been changed in production.

    Raises:
        TrackingError: it cannot be told; it will be, by the next promotion or the doctor.
    """
    tell(production(config))


def move_label(config: Config, actor: str) -> Promotion:
    """Make the canary the stable version."""
    with changing(config) as found:
        if found.layout != "labels":
            raise StoreError(f"--to stable moves a label, but promote.layout of '{config.name}' is {found.layout}")
        labels = labels_of(found.model_dir)
        version, stable = labels.get(CANARY), labels.get(STABLE)
        if version is None or version == stable:
            beside = f"version {stable}, which is stable" if stable else "it"
            raise StoreError(f"--to stable makes the canary stable, but '{config.name}' has no canary beside {beside}")
        digest, source = bytes_of(found.model_dir, version)
        change = Change(
            "label", version, source.name, digest, previous=stable,
            previous_digest=served_digest(read(found.model_dir), stable) if stable else "", label=STABLE,
            actor=actor or process_user(),
        )  # fmt: skip
        promotion = _done(config, found, change)
    return _told(found, promotion)


def _done(config: Config, found: Production, change: Change) -> Promotion:
    """Carry a change out, then prune; return what became of it."""
    result = carry_out(found, change)
    if result.state != "live":
        before = f"; version {change.previous} serves as before" if change.previous else ""
        return Promotion(PromotionState.ROLLED_BACK, None, f"{result.reason}{before}")
    is_canary = change.label == CANARY
    what = f"version {change.version} is {'the canary' if is_canary else 'live'}"
    if result.unwritten:
        log.warning(
            "%s, and that could not be written down: %s; the next change or the doctor does it", what, result.unwritten
        )
    keep = 0 if result.unwritten else config.promote.keep
    try:
        for path in prune(found.model_dir, config.candidates_dir, found.layout, keep):
            log.info("removed %s (promote.keep: %d)", path, config.promote.keep)
    except StoreError as exc:  # what serves is right, and MLflow must know of it; the next change prunes again
        log.warning("not every old version could be removed: %s", exc)
    reason = ", ".join(filter(None, (what, change.reason)))
    settled.append(Promotion(PromotionState.CANARY if is_canary else PromotionState.PROMOTED, result.live_dir, reason))
    return settled[-1]


def _told(found: Production, promotion: Promotion) -> Promotion:
    """Return an outcome that MLflow was told of; that it cannot be told changes nothing in production."""
    try:
        tell(found)
    except (TrackingError, StoreError) as exc:
        log.warning(
            "%s, but MLflow could not be told; the next promotion or the doctor does it: %s", promotion.reason, exc
        )
    return promotion


def _number(config: Config, candidate: Candidate) -> tuple[int, str]:
    """Return the number to serve under, and its directory's name: the candidate's own unless a higher one was live."""
    model_dir = config.live_dir
    ever_live = [e.version for e in read(model_dir) if e.state in (*SERVED, "rolled back", "superseded")]
    if candidate.version > max([0, *ever_live, *versions(model_dir)]):
        return candidate.version, candidate.version_dir.name
    served = versions(model_dir).get(candidate.version)
    again = served_digest(read(model_dir), candidate.version) == candidate.digest
    if served is not None and again and config.promote.layout == "labels":
        return candidate.version, served.name  # the same canary once more; without labels only the highest serves
    with next_number(config.candidates_dir, model_dir) as number:
        return number, f"{number:0{config.export.version_width}d}"

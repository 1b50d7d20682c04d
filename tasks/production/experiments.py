"""Experiments on real users as changes of production: several versions, each live under a label of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from configs.errors import ConfigError
from configs.schema import Config
from tasks.datasets.feature_record import changed_meanings, read_schema
from tasks.experiment.routing import LABELS
from tasks.gates.contract import breaking_changes
from tasks.gates.way_back import REMEDY
from tasks.objects.store import refresh
from tasks.outcomes import Promotion, PromotionState
from tasks.production.changes import damage_of, without_way_back
from tasks.production.turn import in_turn, make_change
from tasks.records import Arm, Change
from tasks.store.champion import champion_version
from tasks.store.experiment import Experiment, eligible, moved, running
from tasks.store.history import process_user, read, served_digest
from tasks.store.journal import pending
from tasks.store.layout import versions
from tasks.store.rehearsals import recall_or_warn
from tasks.store.serving_config import labels_of
from tasks.store.transaction import STABLE, Production, Result, carry_out
from tasks.words import one_line

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Plan:
    """An experiment that is asked for: versions with their shares in percent, and its name."""

    versions: tuple[int, ...]
    shares: tuple[int, ...]
    name: str

    @property
    def arms(self) -> tuple[Arm, ...]:
        """Return the arms, whose digests are not known yet."""
        found = zip(LABELS, self.versions, self.shares, strict=False)
        return tuple(Arm(label, version, "", share) for label, version, share in found)


def plan(numbers: Sequence[int], shares: Sequence[int], name: str) -> Plan:
    """Return an experiment after checking what needs no disk.

    Args:
        name: empty for one that is made of the versions and the time.

    Raises:
        ConfigError: the versions, the shares or the name cannot be used.
    """
    listed = ",".join(map(str, numbers))
    if not 2 <= len(numbers) <= len(LABELS):
        raise ConfigError(f"--versions must name 2 to {len(LABELS)} versions, such as 4,5, got {listed}")
    if len(set(numbers)) != len(numbers):
        raise ConfigError(f"--versions must name different versions, got {listed}")
    if len(shares) != len(numbers):
        raise ConfigError(f"--shares must have one share for each of {len(numbers)} versions, got {len(shares)}")
    if min(shares) < 1 or sum(shares) != 100:
        got = ",".join(map(str, shares))
        raise ConfigError(
            f"--shares must be percentages of at least 1 whose sum is 100, got {got}, whose sum is {sum(shares)}"
        )
    if name and not NAME.fullmatch(name):
        raise ConfigError(
            "--name must be 1 to 64 letters, digits, dots, hyphens or underscores, and begin with a letter or a "
            f"digit, got '{one_line(name, 80)}'"
        )
    made = f"{'-'.join(map(str, numbers))}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    return Plan(tuple(numbers), tuple(shares), name or made)


def current(config: Config) -> Experiment | None:
    """Return the experiment that runs, or None; an object store is read for it first.

    Raises:
        ConfigError: there can be none, because the layout has no labels. StoreError: the store cannot be read.
    """
    if config.promote.layout != "labels":
        raise ConfigError(
            f"an experiment gives versions labels and needs promote.layout: labels, but that of '{config.name}' is "
            f"{config.promote.layout}"
        )
    refresh(config)
    return running(config.live_dir)


def start(config: Config, wanted: Plan, actor: str) -> Promotion:
    """Put several versions live under labels, or change nothing if one of them does not answer as it was validated.

    Raises:
        ConfigError: an experiment runs already, a version cannot take part, or the versions take other requests.
    """
    _none_runs(config, current(config))
    for version in wanted.versions:  # before the lock, which another change may hold for a while
        eligible(config.live_dir, version, files=False)

    def begin(found: Production) -> tuple[Change, Result]:
        model_dir = found.model_dir
        _none_runs(config, running(model_dir))
        taken = sorted({arm.label for arm in wanted.arms} & labels_of(model_dir).keys())
        if taken:
            raise ConfigError(
                f"the labels of an experiment must be free, but models.config has {', '.join(taken)}, which no "
                "experiment set; remove what set it there"
            )
        arms = tuple(replace(arm, digest=eligible(model_dir, arm.version)) for arm in wanted.arms)
        _refuse_other_requests(config, arms)
        first = arms[0]
        change = Change(
            "experiment", first.version, versions(model_dir)[first.version].name, first.digest,
            actor=actor or process_user(), reason=", ".join(map(str, arms)), experiment=wanted.name, arms=arms,
        )  # fmt: skip
        return change, carry_out(found, change)

    change, result = in_turn(config, begin)
    if result.state != "live":
        reason = f"{result.reason}; the experiment does not run, and production is as it was"
        return Promotion(PromotionState.ROLLED_BACK, None, reason, change)
    unwritten = f", but this could not be recorded yet: {result.unwritten}" if result.unwritten else ""
    return Promotion(PromotionState.IN_EXPERIMENT, None, f"{wanted.name}: {change.reason}{unwritten}", change)


def _refuse_other_requests(config: Config, arms: Sequence[Arm]) -> None:
    """Refuse versions whose inputs, outputs or their meaning differ, because a client sends all users' requests alike.

    Raises:
        ConfigError: they differ, and `gates.allow_breaking` is not set.
    """
    live = versions(config.live_dir)
    known = [recall_or_warn(config.candidates_dir, arm.digest) for arm in arms]
    meanings = [read_schema(live[arm.version]) for arm in arms]
    for arm, other, schema in zip(arms[1:], known[1:], meanings[1:], strict=True):
        found = changed_meanings(schema, meanings[0])
        if known[0] is not None and other is not None:
            found += breaking_changes(known[0].report.candidate.signature, other.report.candidate.signature)
        if found and not config.gates.allow_breaking:
            raise ConfigError(
                "--versions must name versions that take the same requests, because users of all arms send them, but "
                f"from version {arms[0].version} to {arm.version} {'; '.join(found)}; gates.allow_breaking permits "
                "this for clients that know which label they ask"
            )


def stop(config: Config, actor: str) -> Promotion:
    """End the experiment without a winner: its labels go, and everything else in production stays."""
    if pending(config.live_dir) is None:  # else a start that was killed is removed first
        _needed(config, current(config))

    def end(found: Production) -> tuple[Change, Result]:
        known = _needed(config, running(found.model_dir))
        first = known.arms[0]
        change = Change(
            "end", first.version, str(first.version), first.digest, actor=actor or process_user(),
            reason="stopped without a winner", experiment=known.name, arms=known.arms,
        )  # fmt: skip
        return change, carry_out(found, change)

    change, result = in_turn(config, end)
    unwritten = f", but this could not be recorded yet: {result.unwritten}" if result.unwritten else ""
    return Promotion(PromotionState.EXPERIMENT_ENDED, None, f"{change.experiment}: {change.reason}{unwritten}", change)


def choose(config: Config, label: str, actor: str) -> Promotion:
    """Make the version of a label stable, as a promotion does, and end the experiment."""
    _needed(config, current(config))

    def win(found: Production) -> Promotion:
        model_dir, known = found.model_dir, _needed(config, running(found.model_dir))
        arm = known.arm(label)
        if arm is None:
            there = ", ".join(map(str, known.arms))
            raise ConfigError(f"--to must be a label of the experiment {known.name}, got '{label}'; there are {there}")
        if labels_of(model_dir).get(label) != arm.version:
            words = "; ".join(moved(model_dir, known))
            raise ConfigError(f"--to must be a label that still names its version, but {words}; use --stop")
        digest = eligible(model_dir, arm.version, option=f"--to {label}")
        stable = champion_version(model_dir, found.layout)
        damage = damage_of(config, found, stable)
        if damage and not config.promote.allow_no_way_back:
            return Promotion(PromotionState.REFUSED, None, f"{damage}; {REMEDY}")
        reason = f"{label} is the winner of the experiment {known.name}"
        change = Change(
            "label", arm.version, versions(model_dir)[arm.version].name, digest,
            previous=stable, previous_digest=served_digest(read(model_dir), stable) if stable else "", label=STABLE,
            actor=actor or process_user(), experiment=known.name, arms=known.arms,
            reason="; ".join(filter(None, (reason, without_way_back(damage)))),
        )  # fmt: skip
        promotion = make_change(config, found, change)
        if promotion.state is PromotionState.ROLLED_BACK:
            return replace(promotion, reason=f"{promotion.reason}, and the experiment {known.name} goes on")
        return promotion

    return in_turn(config, win)


def _none_runs(config: Config, known: Experiment | None) -> None:
    if known is not None:
        raise ConfigError(f"only one experiment of '{config.name}' can run, and {known.name} does; end it first")


def _needed(config: Config, known: Experiment | None) -> Experiment:
    if known is None:
        raise ConfigError(f"no experiment of '{config.name}' runs; start one with --versions and --shares")
    return known

"""What the outcomes of an experiment say: means, differences with intervals, and whether they can be trusted.

Sources: Newcombe, Interval estimation for the difference between independent proportions, Statistics in Medicine 17
(1998), method 10; Welch, Biometrika 34 (1947); Fabijan et al., Diagnosing sample ratio mismatch in online controlled
experiments, KDD 2019, for the check of the shares and its bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from configs.errors import ConfigError
from tasks.experiment.outcomes import ByKey, Logged, by_key, unknown_words
from tasks.records import Arm
from tasks.words import counted

LEVEL = 0.95  # of all intervals of differences together
POWER = 0.8
RATIO_ALARM = 0.001  # p-value of the shares below which something is wrong with the routing or the log
MOST_WRONG = 0.01  # share of keys or lines that may be wrong
MOST_KEYS = 1e12  # more than anybody can collect
FEWEST_EXPECTED = 5  # keys of an arm, from which on a chi-square test is a good approximation
FEWEST = 30  # keys of an arm for a recommendation
MOST_SKEW = 0.3  # of a difference; in simulations without a difference, 7 % and more are "shown" above it
ROUNDING = 1e-14  # of a mean's size: what is smaller may come from the rounding of the sums


@dataclass(frozen=True)
class Mean:
    """The outcomes of one arm.

    Attributes:
        sd, skew: the standard deviation and the skewness of the keys' means. low, high: the interval of the mean.
    """

    keys: int
    mean: float
    sd: float
    low: float = math.nan
    high: float = math.nan
    skew: float = 0.0


@dataclass(frozen=True)
class Difference:
    """How much larger the mean of an arm is than that of the first one.

    Attributes:
        low, high: of the interval; NaN if there is none.
        needed: keys of all arms together for the smallest difference that is to be found, or None if it is unknown or
            above `MOST_KEYS`.
    """

    arm: Arm
    value: float
    low: float
    high: float
    needed: int | None

    @property
    def is_shown(self) -> bool:
        """Return whether the interval does not contain 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Question:
    """What is asked of the outcomes.

    Attributes:
        effect: the smallest difference of the means that matters, in units of the outcome; None: the observed one.
        spoiled: why the arms are not what they were when the experiment began.
    """

    experiment: str
    arms: tuple[Arm, ...]
    effect: float | None = None
    less_is_better: bool = False
    spoiled: tuple[str, ...] = ()

    @property
    def level(self) -> float:
        """Return the level of the interval of each difference, so that all together have `LEVEL` (Bonferroni)."""
        return 1 - (1 - LEVEL) / (len(self.arms) - 1)


@dataclass(frozen=True)
class Report:
    """What the outcomes say.

    Attributes:
        binary: whether the outcome of every key is 0 or 1.
        ratio_p: p-value of the check of the shares; NaN if there are too few keys.
        doubts: why nothing is recommended; empty if the outcomes can be trusted.
    """

    question: Question
    logged: Logged
    keys: ByKey
    binary: bool
    means: tuple[Mean, ...]
    differences: tuple[Difference, ...]
    ratio_p: float
    doubts: tuple[str, ...] = ()


def decide(question: Question, logged: Logged) -> Report:
    """Compare the arms of an experiment by their outcomes.

    Raises:
        ConfigError: a difference as large as `question.effect` is impossible.
    """
    keys, arms = by_key(logged, question.arms), question.arms
    binary = bool(np.isin(keys.mean, (0.0, 1.0)).all())
    if binary and keys.mean.any() and question.effect is not None and question.effect >= 1:
        raise ConfigError(f"--effect must be less than 1 where every outcome is 0 or 1, got {question.effect:g}")
    means = tuple(_mean(keys.mean[keys.arm == index], binary) for index in range(len(arms)))
    differences = tuple(_difference(question, index, means, binary) for index in range(1, len(arms)))
    ratio_p = sample_ratio_p(keys.seen, [arm.share for arm in arms])
    report = Report(question, logged, keys, binary, means, differences, ratio_p)
    return replace(report, doubts=(*question.spoiled, *_doubts(report)))


def sample_ratio_p(counts: Sequence[int], shares: Sequence[int]) -> float:
    """Return the p-value of a chi-square test that keys are divided as the shares say.

    Where fewer than 5 keys are due to an arm, exact binomial tests of each arm (Bonferroni) take its place. They only
    raise the alarm; if they do not, the p-value is NaN, because so few keys prove nothing else.
    """
    total = sum(counts)
    if not total:
        return math.nan
    expected = [share * total / 100 for share in shares]
    if min(expected) >= FEWEST_EXPECTED:
        return float(stats.chisquare(counts, expected).pvalue)
    tests = (stats.binomtest(count, total, share / 100).pvalue for count, share in zip(counts, shares, strict=True))
    exact = len(counts) * float(min(tests))
    return exact if exact < RATIO_ALARM else math.nan


def _mean(values: np.ndarray[tuple[int], np.dtype[np.float64]], binary: bool) -> Mean:
    count = len(values)
    if not count:
        return Mean(0, math.nan, math.nan)
    mean, sd = float(values.mean()), float(values.std(ddof=1)) if count > 1 else math.nan
    found = Mean(count, mean, sd)
    low, high = wilson(found, LEVEL) if binary else _student(found, LEVEL)
    scale = math.sqrt(count) * ROUNDING * max(abs(mean), np.finfo(float).tiny)
    skew = float((((values - mean) / sd) ** 3).mean()) if count > 1 and sd > scale else 0.0
    return replace(found, low=low, high=high, skew=skew)


def wilson(of: Mean, level: float) -> tuple[float, float]:
    """Return Wilson's interval of a proportion."""
    found = stats.binomtest(round(of.mean * of.keys), of.keys).proportion_ci(level, method="wilson")
    return float(found.low), float(found.high)


def _student(of: Mean, level: float) -> tuple[float, float]:
    if of.keys < 2:
        return math.nan, math.nan
    half = float(stats.t.ppf((1 + level) / 2, of.keys - 1)) * of.sd / math.sqrt(of.keys)
    return of.mean - half, of.mean + half


def newcombe(first: Mean, other: Mean, level: float) -> tuple[float, float]:
    """Return Newcombe's interval of the difference of two proportions, `other` - `first`."""
    (low_1, high_1), (low_2, high_2) = wilson(first, level), wilson(other, level)
    difference = other.mean - first.mean
    low = difference - math.hypot(other.mean - low_2, high_1 - first.mean)
    return low, difference + math.hypot(high_2 - other.mean, first.mean - low_1)


def welch(first: Mean, other: Mean, level: float) -> tuple[float, float]:
    """Return Welch's interval of the difference of two means, `other` - `first`; NaN if it cannot be computed.

    It cannot if the outcomes of each arm are equal. Sums of equal numbers, such as 0.1, are rounded, and so differ.
    """
    if min(first.keys, other.keys) < 2:
        return math.nan, math.nan
    parts = first.sd**2 / first.keys, other.sd**2 / other.keys
    error = math.sqrt(sum(parts))
    if error <= _rounding(first, other):
        return math.nan, math.nan
    of_parts = [part / sum(parts) for part in parts]  # their squares neither overflow nor vanish
    freedom = 1 / sum(part**2 / (mean.keys - 1) for part, mean in zip(of_parts, (first, other), strict=True))
    half = float(stats.t.ppf((1 + level) / 2, freedom)) * error
    difference = other.mean - first.mean
    return difference - half, difference + half


def skewness(first: Mean, other: Mean) -> float:
    """Return the skewness of the difference of two means, from which on their interval holds the truth less often.

    It is that of two arms with equal outcomes, as skewed as the more skewed one: a small arm may have none of the rare
    large outcomes yet, and shows neither their variance nor their skewness then. Arms of one size have none.
    """
    of_outcomes = max(abs(first.skew), abs(other.skew))
    parts = 1 / first.keys, 1 / other.keys
    return of_outcomes * abs(parts[0] ** 2 - parts[1] ** 2) / math.hypot(*map(math.sqrt, parts)) ** 3


def _rounding(first: Mean, other: Mean) -> float:
    return ROUNDING * max(abs(first.mean), abs(other.mean))


def _difference(question: Question, index: int, means: Sequence[Mean], binary: bool) -> Difference:
    first, other, arm = means[0], means[index], question.arms[index]
    if not first.keys or not other.keys:
        return Difference(arm, math.nan, math.nan, math.nan, None)
    low, high = (newcombe if binary else welch)(first, other, question.level)
    value = other.mean - first.mean
    if abs(value) <= _rounding(first, other):
        value = 0.0
    wanted = abs(value) if question.effect is None else question.effect
    variances = [first.sd**2, other.sd**2]
    if binary:  # that of the other arm follows from the difference
        sign = -1 if question.less_is_better else 1
        changed = other.mean if question.effect is None else first.mean + sign * wanted
        if not 0 <= changed <= 1:
            changed = min(1.0, max(0.0, first.mean - sign * wanted))
        variances = [mean * (1 - mean) for mean in (first.mean, changed)]
    shares = question.arms[0].share, arm.share
    needed = None if math.isnan(low) else keys_needed(variances, shares, wanted, question.level)
    return Difference(arm, value, low, high, needed)


def keys_needed(variances: Sequence[float], shares: Sequence[int], effect: float, level: float) -> int | None:
    """Return how many keys of all arms together show a difference with a power of 80 %; None if that is unknown.

    It is also None above `MOST_KEYS`.

    Args:
        variances, shares: of the two arms that are compared; shares in percent of all arms.
    """
    if not effect or not all(map(math.isfinite, variances)):
        return None
    z = float(stats.norm.ppf((1 + level) / 2) + stats.norm.ppf(POWER))
    spread = sum(variance * 100 / share for variance, share in zip(variances, shares, strict=True))
    needed = max(float(len(shares)), z**2 * spread / effect / effect)  # a key of each arm, if outcomes never vary
    return math.ceil(needed) if needed < MOST_KEYS else None


def _doubts(report: Report) -> list[str]:
    """Return why the outcomes must not decide, or not yet."""
    keys, logged, means, ratio_p = report.keys, report.logged, report.means, report.ratio_p
    every, lines = sum(keys.seen) + keys.in_two_arms, keys.lines + logged.invalid_lines
    found = []
    if ratio_p < RATIO_ALARM:
        found.append(
            f"the keys are not divided as the shares say (p = {ratio_p:.2g}, below {RATIO_ALARM:g}): outcomes are "
            "lost, or the client routes differently; find the cause before you trust any difference"
        )
    if (wrong := keys.in_two_arms + keys.in_wrong_arm) > MOST_WRONG * every:
        found.append(
            f"{wrong:,} of {counted(every, 'key')} came from another arm than the hash gives (at most 1 % may): the "
            "client does not use this rule and this name, or the keys in the file are not those that it used"
        )
    if logged.invalid_lines > MOST_WRONG * lines:
        found.append(
            f"{logged.invalid_lines:,} of {counted(lines, 'line')} cannot be used (at most 1 % may be); correct them"
        )
    if (fewest := min(mean.keys for mean in means)) < FEWEST:
        found.append(f"an arm has only {counted(fewest, 'usable key')}, and each needs at least {FEWEST}")
    elif any(math.isnan(difference.low) for difference in report.differences):
        found.append(
            "no outcome differs from another one of its arm by more than rounding, so that no interval can be computed"
        )
    elif report.binary and {mean.mean for mean in means} in ({0.0}, {1.0}):
        found.append(
            f"every outcome is {means[0].mean:.0f}, so that there is nothing to compare; each key that was served "
            "needs a line, whatever its outcome is"
        )
    elif not report.binary and (skewed := _skewed(means)):
        found.append(skewed)
    elif report.question.effect is not None:
        have, needed = sum(mean.keys for mean in means), [one.needed for one in report.differences]
        if None in needed:
            found.append(
                f"--effect {report.question.effect:g} needs more than {MOST_KEYS:,.0f} keys; choose a larger one"
            )
        elif (most := max(one or 0 for one in needed)) > have:
            found.append(f"the planned number of {most:,} keys is not reached yet; decide once, when it is")
    return found


def _skewed(means: Sequence[Mean]) -> str:
    """Return that the outcomes are too skewed for the sizes of two arms, or an empty text."""
    found, (first, other) = max(
        ((skewness(means[0], other), (means[0], other)) for other in means[1:]), key=lambda item: item[0]
    )
    if found <= MOST_SKEW:
        return ""
    fewest = min(first.keys, other.keys)
    enough = math.ceil(fewest * (found / MOST_SKEW) ** 2)
    return (
        f"rare large outcomes make the interval of an arm with {fewest:,} keys too narrow; it needs about {enough:,}, "
        "or each key's outcome needs a bound that you choose before you look"
    )


def in_words(report: Report) -> list[str]:
    """Return the report as lines of text."""
    keys, logged, arms = report.keys, report.logged, report.question.arms
    first, kind = arms[0].label, "proportions" if report.binary else "means"
    lines = [
        f"experiment {report.question.experiment}: {counted(keys.lines, 'outcome')} of "
        f"{counted(sum(keys.seen) + keys.in_two_arms, 'key')}; the unit is the key, with the mean of its outcomes "
        f"(keys with several: {keys.several:,})",
        f"{'label':<6}{'version':>8}{'share':>8}{'keys':>12}{'mean':>12}   95 % interval",
    ]
    for arm, mean in zip(arms, report.means, strict=True):
        interval = "none" if math.isnan(mean.low) else f"{mean.low:.5g} to {mean.high:.5g}"
        shown = "none" if math.isnan(mean.mean) else f"{mean.mean:.5g}"
        lines.append(f"{arm.label:<6}{arm.version:>8}{f'{arm.share} %':>8}{mean.keys:>12,}{shown:>12}   {interval}")
    method = "Newcombe's interval from Wilson's" if report.binary else "Welch's interval"
    count = len(report.differences)
    together = f"; {count} comparisons, Bonferroni: 95 % for all intervals together" if count > 1 else ""
    for one in report.differences:
        interval = "no interval" if math.isnan(one.low) else f"95 % interval {one.low:+.5g} to {one.high:+.5g}"
        value = "unknown" if math.isnan(one.value) else f"{one.value:+.5g}"
        lines.append(f"difference {one.arm.label} - {first}: {value}, {interval} (of {kind}, {method}{together})")
    lines.append(
        f"sample ratio: {' + '.join(f'{count:,}' for count in keys.seen)} keys for shares of "
        f"{' + '.join(str(arm.share) for arm in arms)} %, {_ratio(report.ratio_p)}"
    )
    if wrong := keys.in_two_arms + keys.in_wrong_arm:
        lines.append(
            f"left out: {counted(wrong, 'key')}, {keys.in_two_arms:,} that were logged in several arms and "
            f"{keys.in_wrong_arm:,} that the hash gives to another arm"
        )
    if logged.unknown:
        lines.append(
            f"left out: lines of versions or labels that are not in the experiment: {unknown_words(logged.unknown)}"
        )
    if logged.invalid_lines:
        more = f"; and {logged.invalid_lines - len(logged.invalid):,} more" * (
            logged.invalid_lines > len(logged.invalid)
        )
        lines.append(f"left out: {counted(logged.invalid_lines, 'invalid line')}: {'; '.join(logged.invalid)}{more}")
    lines += [_needed(one, report) for one in report.differences]
    lines.append(
        "looking repeatedly: each interval is right for one look. If you look every day and stop at the first interval "
        "without 0, you find a difference in far more than 5 % of the experiments that have none. Choose --effect "
        "before you start, and decide once, when no more outcomes are needed"
    )
    lines.append(recommendation(report))
    return lines


def _ratio(p: float) -> str:
    if math.isnan(p):
        return "which are too few to be checked"
    return f"p = {p:.2g}: {'NOT ' if p < RATIO_ALARM else ''}as the shares say"


def _needed(one: Difference, report: Report) -> str:
    have = sum(mean.keys for mean in report.means)
    if math.isnan(one.value):
        return f"still needed for a difference {one.arm.label} - {report.question.arms[0].label}: unknown"
    of = f"a difference {one.arm.label} - {report.question.arms[0].label} of "
    if report.question.effect is None:
        of += f"{abs(one.value):.5g}, as observed (a difference that you choose with --effect is a better plan)"
    else:
        of += f"{report.question.effect:.5g}"
    if one.needed is None:
        return f"still needed for {of}: unknown, or more than {MOST_KEYS:,.0f}"
    missing = max(0, one.needed - have)
    return f"still needed for {of}: outcomes of {counted(missing, 'new key')} ({one.needed:,} in all arms, power 80 %)"


def recommendation(report: Report) -> str:
    """Return what the outcomes recommend, or why they recommend nothing."""
    if report.doubts:
        return f"recommendation: none, because {'; and '.join(report.doubts)}"
    sign = -1 if report.question.less_is_better else 1
    shown = [one for one in report.differences if one.is_shown]
    better, worse = ([one for one in shown if (sign * one.value > 0) is wanted] for wanted in (True, False))
    first = report.question.arms[0].label
    if better:
        best = max(better, key=lambda one: sign * one.value)
        beside = "" if len(report.question.arms) == 2 else f" (only differences from {first} are compared)"
        return f"recommendation: {best.arm.label}, which is better than {first}{beside}"
    if len(worse) == len(report.differences):
        return f"recommendation: {first}, which is better than {', '.join(one.arm.label for one in worse)}"
    more = ", or collect more" if report.question.effect is None else ", because the planned number is reached"
    return f"recommendation: none, because no version is shown to be better: keep the stable one{more}"

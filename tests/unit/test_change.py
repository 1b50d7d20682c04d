"""The change gate: what clients saw while the candidate replaced the champion and was taken back, and the capacity."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from configs.sections.gates import Change, Gates
from tasks.gates.change import alike, is_doubtful, judge_change
from tasks.gates.latency import judge_latency
from tasks.gates.parity import Tolerance
from tasks.records import Backend, ServedChange, TensorSpec
from tasks.report.plots import change_figure, draw_change
from tasks.report.standing import CHANGE as CHANGED
from tasks.report.standing import block, first_lines, standing_of
from tasks.serving.capacity import CLOSE, highest_rate, keeps_bound
from tasks.serving.change import at_once
from tasks.serving.open_loop import CONNECTIONS, OK, SEED, Reply
from tests.queueing import arrivals, queueing_p99

CHANGE = ServedChange(1, 2, back=3, changed_s=1.0, rolled_back_s=2.0, peak_mb=300, limit_mb=500)
SETTINGS = Change()


def requests(naming: bool = True, **changed: Any) -> dict[str, Any]:
    """Return a request every 10 ms for three seconds, answered after 2 ms; a version answers 0.5 s after its mark."""
    due = np.arange(0, 3, 0.01)
    by = np.where(due < 1.5, 1, np.where(due < 2.5, 2, 3))
    return {
        "due_s": due,
        "sent_s": due,
        "done_s": due + 0.002,
        "status": np.full(len(due), 200),
        "named": by if naming else np.zeros(len(due), np.int64),
        "like_old": by != 2,
        "like_new": by == 2,
        **changed,
    }


def with_(name: str, place: Any, value: Any, naming: bool = True) -> dict[str, Any]:
    """Return the usual requests with other values at some places of one array."""
    array = requests(naming)[name].copy()
    array[place] = value
    return requests(naming, **{name: array})


@pytest.mark.parametrize("named", [True, False])
def test_a_sound_change_passes(named: bool) -> None:
    """With the version named by the answers or recognised by their values, a sound change passes with all figures."""
    found = judge_change(CHANGE, requests(named), SETTINGS)
    assert found.passed, found.summary
    assert (found.figures["failed"], found.figures["wrong"], found.figures["stale"]) == (0, 0, 0)
    assert found.figures["change_s"] == pytest.approx(0.502)
    assert found.figures["rollback_s"] == pytest.approx(0.502)
    assert found.figures["p99_ratio"] == pytest.approx(1)
    assert found.figures["peak_mb"] == 300
    assert found.bounds["peak_mb"] == "at most 500"
    assert found.note == ""


@pytest.mark.parametrize(
    ("seen", "missed", "words"),
    [
        (with_("status", 130, 0), "failed", "1 of 300 requests failed or were refused"),
        (with_("like_new", 180, False), "wrong", "1 of 300 answers are not the validated ones"),
        (with_("named", 180, 7), "wrong", "1 of 300 answers are not the validated ones"),
        (with_("like_old", 50, False, naming=False), "wrong", "1 of 300 answers are not the validated ones"),
    ],
)
def test_one_bad_answer_fails(seen: dict[str, Any], missed: str, words: str) -> None:
    """One request that fails, or one answer that no version was validated with, refuses the candidate and is named."""
    found = judge_change(CHANGE, seen, SETTINGS)
    assert not found.passed
    assert missed in found.evidence["missed"]
    assert words in found.summary


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(("place", "old"), [(170, True), (270, False)])
def test_an_answer_of_the_replaced_version_fails(named: bool, place: int, old: bool) -> None:
    """After the other version has answered, an answer of the replaced one is refused, in both directions."""
    seen = requests(named)
    seen["like_old"][place], seen["like_new"][place] = old, not old
    if named:
        seen["named"][place] = 1 if old else 2
    found = judge_change(CHANGE, seen, SETTINGS)
    assert found.evidence["missed"] == ["stale"]
    assert "1 of 300 answers are of a version that had been replaced before" in found.summary


def test_a_rate_that_is_too_high_is_said() -> None:
    """If requests waited to be sent before the change already, the verdict blames the rate; otherwise it does not."""
    seen = stalled(1.45)
    assert "lower gates.change.rate" not in judge_change(CHANGE, seen, SETTINGS).summary
    seen["sent_s"] = np.where(seen["due_s"] > 0.5, seen["sent_s"] + 2, seen["sent_s"])
    seen["done_s"] = np.maximum(seen["done_s"], seen["sent_s"] + 0.002)
    found = judge_change(CHANGE, seen, SETTINGS)
    assert not found.passed
    assert "Before the change already, 49 of 100 requests waited to be sent" in found.summary
    assert "lower gates.change.rate" in found.summary


def test_answers_that_overlap_are_no_fault() -> None:
    """The old version may still answer a request that was sent before the new one answered another."""
    seen = requests()
    seen["named"][150], seen["like_old"][150], seen["like_new"][150] = 1, True, False
    seen["done_s"][149] = 1.6
    assert judge_change(CHANGE, seen, SETTINGS).passed


def test_versions_with_equal_answers() -> None:
    """Over REST two versions with equal answers cannot be told apart: the gate passes and says so."""
    both = np.ones(300, bool)
    found = judge_change(CHANGE, requests(naming=False, like_old=both, like_new=both), SETTINGS)
    assert found.passed
    assert "no answer shows which version gave it" in found.summary
    assert "change_s" not in found.figures


def stalled(begin_s: float) -> dict[str, Any]:
    """Return the usual requests with a server that answers nothing for 100 ms."""
    seen = requests()
    late = (seen["due_s"] >= begin_s) & (seen["due_s"] < begin_s + 0.1)
    seen["done_s"] = np.where(late, begin_s + 0.102, seen["done_s"])
    return seen


@pytest.mark.parametrize("begin_s", [1.45, 2.45])
def test_a_stall_fails(begin_s: float) -> None:
    """A stall of 100 ms, in the change or the rollback of the quietest rehearsal, is refused with both p99."""
    seen = stalled(begin_s)
    found = judge_change(replace(CHANGE, rounds=3), seen, SETTINGS)
    assert found.evidence["missed"] == ["p99_ratio"]
    assert "p99 rose from 2 to" in found.summary
    assert "in the quietest of 3 rehearsals" in found.summary
    assert is_doubtful(CHANGE, seen, SETTINGS)


def test_a_noisy_machine_decides_nothing() -> None:
    """A machine whose p99 is high in the quietest time before the change, too, refuses nobody."""
    noisy = replace(CHANGE, usual_ms=30, rounds=3)
    assert judge_change(noisy, stalled(1.45), SETTINGS).passed
    assert not judge_change(replace(noisy, usual_ms=20), stalled(1.45), SETTINGS).passed


def test_noise_before_the_change_hides_no_stall() -> None:
    """A p99 that only noise before keeps within its bound is rehearsed again; the usual one of a slow server is not."""
    seen = stalled(1.45)
    noise = (seen["due_s"] >= 0.5) & (seen["due_s"] < 0.55)
    seen["done_s"] = np.where(noise, seen["due_s"] + 0.03, seen["done_s"])
    assert judge_change(CHANGE, seen, SETTINGS).passed
    assert is_doubtful(CHANGE, seen, SETTINGS)
    assert not judge_change(replace(CHANGE, usual_ms=2, rounds=3), seen, SETTINGS).passed
    seen["done_s"] = np.where(noise, seen["due_s"] + 0.06, seen["done_s"])
    assert not is_doubtful(CHANGE, seen, SETTINGS)


@pytest.mark.parametrize("settings", [Change(max_p99_ratio=0), Change(floor_ms=150), Change(max_p99_ratio=60)])
def test_a_stall_within_the_bounds(settings: Change) -> None:
    """No bound, a p99 below the floor, or a ratio within the bound refuses nothing."""
    assert judge_change(CHANGE, stalled(1.45), settings).passed


@pytest.mark.parametrize("settings", [Change(max_p99_ratio=0), Change(floor_ms=150)])
def test_what_no_noise_can_hide_is_not_rehearsed_again(settings: Change) -> None:
    """Without a bound, or below the floor, one rehearsal is enough."""
    assert not is_doubtful(CHANGE, stalled(1.45), settings)


def test_a_stall_before_the_change_is_not_the_candidates() -> None:
    """A stall that came before the change raises no alarm."""
    assert judge_change(CHANGE, stalled(0.5), SETTINGS).passed


def test_a_long_wait_hides_no_stall() -> None:
    """A stall counts against as many requests as there were before the change, however long the change takes."""
    seen = stalled(1.45)
    rest = np.arange(3, 30, 0.01)
    more = {"due_s": rest, "sent_s": rest, "done_s": rest + 0.002}
    more |= {"status": np.full(len(rest), 200), "named": np.full(len(rest), 2)}
    more |= {"like_old": np.zeros(len(rest), bool), "like_new": np.ones(len(rest), bool)}
    early = {name: np.concatenate([array[:250], more[name]]) for name, array in seen.items()}
    found = judge_change(replace(CHANGE, back=0, rolled_back_s=None), early, SETTINGS)
    assert found.evidence["missed"] == ["p99_ratio"]


def test_another_fault_needs_no_further_rehearsal() -> None:
    """A change that fails for another reason as well is not rehearsed again."""
    seen = stalled(1.45)
    seen["status"][100] = 0
    assert not is_doubtful(CHANGE, seen, SETTINGS)


def test_too_long() -> None:
    """A change that takes longer than `max_seconds` is refused; with labels the seconds begin at the label."""
    assert "the change took 0.502 s" in judge_change(CHANGE, requests(), Change(max_seconds=0.4)).summary
    later = replace(CHANGE, labelled_s=1.4)
    assert judge_change(later, requests(), Change(max_seconds=0.55)).figures["change_s"] == pytest.approx(0.102)


def test_a_server_that_was_killed() -> None:
    """A server that was killed at its limit refuses the candidate, with the words about both versions."""
    found = judge_change(replace(CHANGE, killed="the server was killed at its limit of 500 MiB"), {}, SETTINGS)
    assert not found.passed
    assert "version 1 and version 2 loaded at the same time, the server was killed" in found.summary


def test_a_version_that_did_not_go_live() -> None:
    """Why the server did not serve the candidate is the reason of the refusal, with and without recorded requests."""
    problem = "version 2 did not go live: the server refused it"
    for seen in ({}, requests()):
        found = judge_change(replace(CHANGE, back=0, rolled_back_s=None, problem=problem), seen, SETTINGS)
        assert not found.passed
        assert problem in found.summary


def test_what_was_not_rehearsed_is_said() -> None:
    """What could not be rehearsed passes and is said, and so is a rollback that the history does not allow."""
    assert judge_change(ServedChange(1, 2, not_rehearsed="of a reason"), {}, SETTINGS).summary == (
        "not rehearsed: of a reason"
    )
    alone = replace(CHANGE, back=0, rolled_back_s=None, no_way_back="the history does not know the live version")
    seen = with_("like_new", slice(250, 300), True)
    seen["named"][250:], seen["like_old"][250:] = 2, False
    found = judge_change(alone, seen, SETTINGS)
    assert found.passed
    assert "no rollback was rehearsed: the history does not know" in found.summary


Y = TensorSpec("y", "float32", (None, 2))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [([[1.0, 2.0]], True), ([[1.0, 2.0001]], False), ([[1.0, np.nan]], False), ([[1.0, 2.0, 3.0]], False)],
)
def test_alike(answer: list[list[float]], expected: bool) -> None:
    """An answer is the validated one if each number is, by the tolerances of parity; another shape never is."""
    validated = {"y": np.array([[1, 2]], np.float32)}
    assert alike({"y": np.array(answer, np.float32)}, validated, {"y": Tolerance(1e-5, 1e-5)}, [Y]) is expected


def test_alike_where_the_validated_answer_is_no_number() -> None:
    """A champion that answers a row with NaN or an infinity may do so during the change as well, and nothing else."""
    validated = {"y": np.array([[np.nan, np.inf, 3]], np.float32)}
    tolerance = {"y": Tolerance(1e-5, 1e-5)}
    assert alike(validated, validated, tolerance, [Y])
    for other in ([[np.inf, np.inf, 3]], [[np.nan, -np.inf, 3]], [[np.nan, np.inf, 4]], [[0, np.inf, 3]]):
        assert not alike({"y": np.array(other, np.float32)}, validated, tolerance, [Y])


def test_a_rate_that_would_wait_for_hours_is_a_wrong_configuration() -> None:
    """A change waits for 20 requests after each step, so that a rate of one in an hour is refused."""
    with pytest.raises(ValidationError, match=r"greater than or equal to 0.1"):
        Change(rate=0.001, max_p99_ratio=0)


def test_a_percentile_of_few_requests_is_a_wrong_configuration() -> None:
    """A rate and a time with fewer than 100 requests are refused, unless the p99 has no bound."""
    with pytest.raises(ValidationError, match=r"at least 100 requests.*got 10 x 2; raise seconds, or set max_p99"):
        Change(rate=10, seconds=2)
    assert Change(rate=10, seconds=2, max_p99_ratio=0).rate == 10


@pytest.mark.parametrize(
    ("args", "expected"), [((), 4), (("--grpc_max_threads=20",), 10), (("--grpc_max_threads=1",), 1)]
)
def test_requests_that_a_real_server_takes_at_once(
    args: tuple[str, ...], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server on two processors has eight threads for gRPC, or as many as its flag says; half of them are used."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0, 1})
    assert at_once(Backend("docker", "image"), args) == expected
    assert at_once(Backend("embedded"), args) == CONNECTIONS


# --- capacity


@pytest.mark.parametrize("truth", [0.7, 3.0, 40.0, 900.0])
def test_bisection_finds_the_highest_rate(truth: float) -> None:
    """The rate that is found is sustained, and at most 4 % below the highest one, after at most 20 tries."""
    tried: list[float] = []
    found = highest_rate(lambda rate, _: tried.append(rate) or rate <= truth, 50.0, 8000)
    assert truth / CLOSE <= found <= truth
    assert len(tried) <= 20


def test_a_first_try_that_errs_does_no_harm() -> None:
    """A rate that a short try wrongly took for sustained, or for too high, is not trusted by the longer ones."""
    for wrong in (True, False):
        found = highest_rate(lambda rate, n, w=wrong: rate <= 100 or (w and n < 8000 and rate < 300), 50.0, 8000)
        assert 100 / CLOSE <= found <= 100
    slow = highest_rate(lambda rate, n: rate <= (100 if n == 8000 else 30), 50.0, 8000)
    assert 100 / CLOSE <= slow <= 100


def test_no_rate_is_sustained() -> None:
    """A server that sustains nothing has the capacity 0, after a bounded number of tries."""
    tried: list[float] = []
    assert highest_rate(lambda rate, _: bool(tried.append(rate)), 50.0, 8000) == 0
    assert len(tried) < 20


def test_the_time_is_bounded() -> None:
    """When the time is over, the best rate so far is returned."""
    left = iter([True, True, False])
    assert highest_rate(lambda rate, _: rate < 1000, 50.0, 8000, lambda: next(left, False)) == 200


def test_a_long_try_that_the_time_ends_takes_nothing_back() -> None:
    """If the time ends in the first long try, the best rate of the short ones is the capacity, and it is not 0."""
    over: list[int] = []

    def sustains(rate: float, requests: int) -> bool:
        if requests == 8000:
            over.append(requests)
            return False
        return rate <= 100

    assert highest_rate(sustains, 50.0, 8000, lambda: not over) == 100
    assert len(over) == 1


def test_the_time_ends_a_try() -> None:
    """A try of 8,000 requests at one request a second ends with the time, and has not shown that the bound holds."""
    looks = iter([True, False])
    assert not keeps_bound(_Immediate, 1, 1, 8000, 1000, lambda: next(looks, False))


class _Immediate:
    """A connection to nothing, which answers at once."""

    def ask(self, number: int) -> Reply:
        return Reply(OK, b"")

    def close(self) -> None:
        """Close nothing."""


def test_the_capacity_of_a_queue_is_within_ten_percent() -> None:
    """Tries of 8,000 requests find the capacity of a queue with a known service time within 10 % of the truth."""
    service_s, most_s = 0.005, 0.025

    def keeps(requests: int, seed: int) -> Any:
        return lambda rate, _: queueing_p99(arrivals(rate, requests, seed), service_s) <= most_s

    truth = highest_rate(keeps(400_000, 1), 100, 8000)
    assert 100 < truth < 120  # of 200 a second that it can serve at most
    assert highest_rate(keeps(8000, SEED), 100, 8000) == pytest.approx(truth, rel=0.1)


def test_the_bound_of_the_capacity() -> None:
    """A capacity below its bound fails the latency gate; the champion's stands beside it."""
    samples = {"candidate": np.ones(20), "champion": np.ones(20)}
    rates = {"candidate": 900.0, "champion": 800.0}
    settings = Gates.model_validate({"latency": {"max_p99_ms": 5}, "capacity": {"measure": True}})
    for bound, passed in ((300.0, True), (301.0, False)):
        found = judge_latency(samples, rates, 1, 1, settings.latency, {"candidate": 300, "champion": 280}, bound)
        assert found.passed is passed
        assert found.bounds["capacity_per_s"] == f"at least {bound:g}"
    assert (found.figures["capacity_per_s"], found.champion["capacity_per_s"]) == (300, 280)
    assert found.evidence["missed"] == ["capacity_per_s"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"capacity": {"measure": True}}, "capacity.measure needs latency.max_p99_ms"),
        ({"capacity": {"min_requests_per_s": 5}}, "needs capacity.measure: true"),
    ],
)
def test_a_capacity_without_what_it_needs(settings: dict[str, Any], words: str) -> None:
    """A capacity without a bound of the p99, or a bound on what is not measured, is a wrong configuration."""
    with pytest.raises(ValidationError, match=words):
        Gates.model_validate(settings)


# --- what a reviewer sees


def test_the_picture_of_a_change(tmp_path: Path) -> None:
    """The picture marks change and rollback, and shows both versions and lost requests; it needs requests."""
    seen = with_("status", 130, 0)
    figure = change_figure(replace(CHANGE, labelled_s=1.2), seen)
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["rename", "label", "rollback"]
    assert axes.get_legend_handles_labels()[1] == ["champion", "candidate", "no answer"]
    assert draw_change(CHANGE, seen, tmp_path / "change.png")
    assert (tmp_path / "change.png").read_bytes().startswith(b"\x89PNG")
    assert not draw_change(CHANGE, {}, tmp_path / "none.png")


def test_a_reviewer_reads_of_the_change_first() -> None:
    """The first lines of MLflow's page and of the report say what the rehearsal of the change has shown."""
    summary = judge_change(CHANGE, requests(), SETTINGS).summary
    standing = standing_of("digits", {"candidate": "2", "promotion": "promoted", CHANGED: summary}, 1)
    assert f"Change, rehearsed: {summary}" in first_lines(standing, "")
    assert f"<dt>change, rehearsed</dt><dd>{summary}</dd>" in block(standing, "")

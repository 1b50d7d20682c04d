"""The replay gate: other decisions, the interval of their share, slices, inputs, and what refuses a candidate."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.sections.gates import Gates
from tasks.datasets.strings import text_array
from tasks.gates.replay import judge_replay
from tasks.gates.shares import design_effect, share_interval
from tasks.records import ReplayedInput, ReplayedSlice, ServedReplay, Signature, TensorSpec
from tasks.replay.decisions import Rule, Side, flips, lost_numbers
from tasks.replay.files import Request
from tasks.replay.profile import BINS, Profile, stability_index
from tasks.replay.slices import NEW, OTHER, Slicer
from tasks.replay.tally import MOST_KEPT, Answer, Tally

GATES = Gates()
ARGMAX = Rule(Side("argmax"), Side("argmax"), 0, "another class")
HALF = Rule(Side("threshold", 0.5), Side("threshold", 0.5), 0, "another side of 0.5")


def number(tolerance: float) -> Rule:
    return Rule(Side("number"), Side("number"), tolerance, "")


# what counts as another decision ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "ours", "theirs", "flipped"),
    [
        (ARGMAX, [[0.4, 0.6], [0.9, 0.1]], [[0.1, 0.9], [0.2, 0.8]], [False, True]),
        (ARGMAX, [[0.1, 0.2, 0.7]], [[0.4, 0.6]], [True]),
        (HALF, [[0.49], [0.5], [0.9]], [[0.1], [0.49], [0.51]], [False, True, False]),
        (HALF, [[0.9, 0.1], [0.9, 0.9]], [[0.8, 0.2], [0.9, 0.1]], [False, True]),
        (Rule(Side("threshold", 0.5), Side("threshold", 0.0), 0, ""), [[0.6], [0.6]], [[0.1], [-0.1]], [False, True]),
        (Rule(Side("argmax"), Side("label"), 0, ""), [[0.1, 0.9], [0.1, 0.9]], [1, 0], [False, True]),
        (number(0.1), [1.0, 1.05, 2.0], [1.0, 1.0, 1.0], [False, False, True]),
        (number(0.1), [np.nan, np.nan, np.inf], [np.nan, 1.0, np.inf], [False, True, False]),
        (number(np.inf), [1.0], [5.0], [False]),
        (number(1), [[1.0, 2.0]], [[1.0]], [True]),
        (Rule(Side("label"), Side("label"), 0, ""), ["a", "b"], ["a", "ü"], [False, True]),
        (Rule(Side("label"), Side("label"), 0, ""), [True, False], [True, True], [False, True]),
    ],
)
def test_another_decision(rule: Rule, ours: Any, theirs: Any, flipped: list[bool]) -> None:
    """A row flips if its class, one of its labels, its text or, beyond the tolerance, its number differs."""
    a, b = (text_array(v, (len(v),)) if isinstance(v[0], str) else np.array(v) for v in (ours, theirs))
    assert flips(rule, a, b).tolist() == flipped


def test_numbers_that_were_lost() -> None:
    """NaN and infinity count only where the champion answered with a number."""
    ours, theirs = (
        np.array([[np.nan, 1], [np.inf, 1], [1, 1], [np.nan, 1]]),
        np.array([[1, 1], [1, 1], [np.nan, 1]] * 2),
    )
    assert lost_numbers(ours, theirs[:4]).tolist() == [True, True, False, True]
    assert lost_numbers(text_array(["a"], (1,)), text_array(["b"], (1,))).tolist() == [False]


# the interval -----------------------------------------------------------------------------------------------------


def counted_of(flipped: np.ndarray, title: str = "") -> ReplayedSlice:
    """Return the counts of requests, bool of shape (requests, rows in each)."""
    hits, rows = flipped.sum(axis=1), flipped.shape[1]
    squares = int((hits**2).sum()), int((hits * rows).sum()), rows * rows * len(flipped)
    return ReplayedSlice(title, len(flipped), flipped.size, int(hits.sum()), squares)


def replay_of(*slices: ReplayedSlice, **changes: Any) -> ServedReplay:
    whole = slices[0].rows if slices else 0
    found = ServedReplay(
        "r.jsonl", "recorded JSON, unchanged", 100, whole, {}, 0, 0, 0, 0, 0, {"y": "another class"}, slices, (), (), ()
    )
    return replace(found, **changes)


def alike(rng: np.random.Generator, share: float, requests: int, rows: int) -> np.ndarray:
    """Return rows of requests that flip together more often than those of two requests."""
    own = rng.beta(share * 4, (1 - share) * 4, requests)
    return rng.random((requests, rows)) < own[:, None]


@pytest.mark.parametrize(
    ("share", "requests", "rows"), [(0.01, 3000, 1), (0.2, 300, 1), (0.002, 20_000, 1), (0.05, 600, 20)]
)
def test_the_interval_holds_as_often_as_it_says(share: float, requests: int, rows: int) -> None:
    """In 200 simulations the 95 % interval holds the true share 181 to 199 times, of rows that are alike, too."""
    held = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        flipped = alike(rng, share, requests, rows) if rows > 1 else rng.random((requests, 1)) < share
        figures = judge_replay(GATES, replay_of(counted_of(flipped))).figures
        held += figures["flips_low"] <= share <= figures["flips_high"]
    assert 181 <= held <= 199


def test_rows_of_a_request_that_are_alike_count_for_fewer() -> None:
    """Ten requests of a hundred equal rows tell no more than ten rows; without a flip nothing else is known."""
    flipped = np.zeros((10, 100), bool)
    flipped[:3] = True
    one = counted_of(flipped)
    assert design_effect(one.flipped, one.rows, one.requests, one.squares) == pytest.approx(100, rel=0.15)
    none = counted_of(np.zeros((10, 100), bool))
    assert design_effect(none.flipped, none.rows, none.requests, none.squares) == 100
    single = counted_of(np.zeros((1000, 1), bool))
    assert design_effect(single.flipped, single.rows, single.requests, single.squares) == 1
    assert share_interval(0, 1000, 1, 0.95)[1:] == (0, pytest.approx(0.0038, abs=1e-4))
    assert np.isnan(share_interval(0, 0, 1, 0.95).low)


# the verdict ------------------------------------------------------------------------------------------------------


def slices_of(whole: tuple[int, int], **of: tuple[int, int]) -> tuple[ReplayedSlice, ...]:
    """Return slices of one-row requests, each as flipped rows of all rows."""
    return tuple(
        ReplayedSlice(title, rows, rows, flipped, (flipped, flipped, rows))
        for title, (flipped, rows) in {"": whole, **of}.items()
    )


def test_few_flips_pass_and_many_are_refused() -> None:
    """A share above the bound is refused if the interval lies above it, and not before."""
    bound = Gates.model_validate({"replay": {"max_flips": 0.01}})
    passing, unproven, proven = (
        judge_replay(bound, replay_of(*slices_of(of))) for of in ((5, 1000), (14, 1000), (30, 1000))
    )
    assert [passing.passed, unproven.passed, proven.passed] == [True, True, False]
    assert proven.summary.startswith("3 % of 1,000 rows have another decision than the champion's (interval 2.11 % to")
    assert "at most 1 % are allowed (gates.replay.max_flips)" in proven.summary
    assert proven.evidence["missed"] == ["flips"]


def test_a_slice_is_named_and_its_intervals_hold_together() -> None:
    """A slice above the bound is refused by its name; among 40 slices the same share is not proven."""
    whole, of = (60, 20_000), {"city=Oslo": (15, 1500), "city=Rome": (45, 18_500)}
    bound = Gates.model_validate({"replay": {"max_flips": 0.005, "max_slice_ratio": 0}})
    found = judge_replay(bound, replay_of(*slices_of(whole, **of)))
    assert not found.passed
    assert found.summary.startswith("slice city=Oslo: 1 % of 1,500 rows have another decision")
    many = judge_replay(bound, replay_of(*slices_of(whole, **of, **{f"n={n}": (0, 30) for n in range(400)})))
    assert many.passed


def test_a_slice_that_flips_far_more_often_than_the_others() -> None:
    """16 of 2,300 rows against none elsewhere are refused although the bound is not proven; 3 of 10,000 are too few."""
    of = {"city=Köln": (16, 2300), "city=Oslo": (0, 7000)}
    found = judge_replay(GATES, replay_of(*slices_of((16, 9300), **of)))
    assert [one["slice"] for one in found.evidence["slices"] if not one["passed"]] == ["city=Köln"]
    assert "elsewhere 0 %), at most 3 times as many as elsewhere are allowed" in found.summary
    assert judge_replay(GATES, replay_of(*slices_of((3, 10**6), a=(3, 10_000), b=(0, 990_000)))).passed
    assert judge_replay(GATES, replay_of(*slices_of((40, 9300), a=(16, 2300), b=(24, 7000)))).passed
    assert judge_replay(GATES, replay_of(*slices_of((4, 2000), a=(4, 2000)))).passed  # there is no elsewhere
    unbounded = Gates.model_validate({"replay": {"max_slice_ratio": 0}})
    assert judge_replay(unbounded, replay_of(*slices_of((16, 9300), **of))).passed


def test_a_slice_of_few_rows_is_not_judged() -> None:
    """Fewer rows than gates.min_slice_rows prove nothing, and are counted."""
    found = judge_replay(GATES, replay_of(*slices_of((20, 5000), tiny=(20, 29), rest=(0, 4971))))
    assert found.passed
    assert found.evidence["small_slices"] == 1


REFUSAL = {"request": 7, "refused by": "candidate", "words": "400: too old"}


def test_a_request_that_only_the_candidate_refuses() -> None:
    """One such request is a failure; what both refuse, or the champion alone, is told."""
    found = judge_replay(GATES, replay_of(*slices_of((0, 99)), refused=1, refusals=(REFUSAL,)))
    assert not found.passed
    assert "the candidate refused 1 request that the champion answered, first request 7: 400: too old" in found.summary
    other = judge_replay(GATES, replay_of(*slices_of((0, 99)), refused_by_both=2, refused_by_champion=1))
    assert other.passed
    assert "both versions refused 2 requests" in other.summary
    assert "the champion alone refused 1 request" in other.summary


def test_without_a_champion_refusals_need_a_person() -> None:
    """Nothing is compared without a champion, which the gate says; a refusal is left to a person."""
    found = judge_replay(GATES, replay_of(refused=3, refusals=(REFUSAL,)))
    assert found.passed
    assert (
        found.needs_person
        == "the candidate refused 3 recorded requests, and no champion can show whether they are faulty"
    )
    assert "no version is live, so only refusals and the inputs are looked at" in found.summary
    assert not judge_replay(GATES, replay_of()).needs_person


def test_nothing_compared_is_no_approval() -> None:
    """Requests that both versions refuse, and a file of which nothing was sent, leave the decision to a person."""
    both = judge_replay(GATES, replay_of(*slices_of((0, 0)), refused_by_both=100))
    assert both.needs_person == "no row of a recorded request could be compared with the champion"
    assert judge_replay(GATES, replay_of(requests=0)).needs_person == "no recorded request was sent"


def test_a_permitted_break_needs_a_person() -> None:
    """With another signature that is permitted, refusals are expected, and a person sees them."""
    found = judge_replay(GATES, replay_of(*slices_of((0, 9)), refused=2, refusals=(REFUSAL,)), breaking=True)
    assert found.passed
    assert found.needs_person == "the candidate refused 2 recorded requests, which gates.allow_breaking permits"


def test_answers_that_are_no_numbers_any_more() -> None:
    """A row that the candidate alone answers with NaN is a failure, however few there are."""
    found = judge_replay(GATES, replay_of(*slices_of((1, 10**5)), not_finite=1))
    assert not found.passed
    assert "answered 1 row with NaN or infinity" in found.summary


def test_moved_inputs_are_refused_only_by_a_bound_and_beyond_chance() -> None:
    """The stability index is shown; with a bound it is judged, less what chance explains."""
    moved = ReplayedInput("age", 100, 0.3, 0.15, "0 to 9", 2)
    assert judge_replay(GATES, replay_of(inputs=(moved,))).passed
    for bound, passed in ((0.1, False), (0.2, True)):
        gates = Gates.model_validate({"replay": {"max_psi": bound}})
        assert judge_replay(gates, replay_of(inputs=(moved,))).passed is passed
    assert "(0 to 9): 2 values of age" in judge_replay(GATES, replay_of(inputs=(moved,))).summary


# the inputs -------------------------------------------------------------------------------------------------------


def test_the_stability_index_of_no_change_is_what_chance_explains() -> None:
    """Of 200 pairs of samples from one distribution at most 1 in 10 lies above the stated 1 in 20."""
    above = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        first, second = (rng.multinomial(n, np.full(10, 0.1)) for n in (2000, 700))
        index, noise = stability_index(first, second)
        above += index > noise
    assert above <= 20
    assert stability_index(np.array([500, 500]), np.array([900, 100]))[0] == pytest.approx(0.87, abs=0.02)
    assert stability_index(np.array([5, 5]), np.array([0, 0])) == (0, 0)


def rows(age: Any, city: Any) -> dict[str, Any]:
    return {"age": np.array(age, np.float32), "city": text_array(city, (len(city),))}


def test_values_outside_of_the_training_rows_are_named() -> None:
    """Numbers beyond the range, NaN and unknown texts are counted, the first ones with request, row and value."""
    profile = Profile(rows(np.linspace(0, 100, 500), ["a", "b"] * 250))
    for number_ in range(1, 2001):
        profile.add(number_, rows([50, 101 if number_ % 500 == 0 else 3], ["a", "c" if number_ == 7 else "b"]))
    profile.add(2001, rows([np.nan], ["a"]))
    found = {one.name: one for one in profile.found()}
    assert found["age"].outside == 5
    assert list(found["age"].named[0].values()) == [500, 1, 101.0]
    assert found["age"].named[4]["value"] == "nan"
    assert found["city"].outside == 1
    assert found["city"].named == ({"request": 7, "row": 1, "value": "c"},)
    assert (found["age"].values, found["age"].span) == (4001, "0 to 100")
    json.dumps([one.named for one in found.values()])


def test_inputs_with_several_values() -> None:
    """Each element of a vector is an input of its own, a large input is one, and free text is left out."""
    rng = np.random.default_rng(0)
    training = {
        "v": rng.normal(size=(400, 2)),
        "image": rng.random((400, 20, 20)),
        "text": text_array([f"text {n}" for n in range(400)] * 3, (1200,))[:1200],
        "free": text_array([f"free {n}" for n in range(1200)], (1200,)),
    }
    profile = Profile(training)
    profile.add(1, {name: array[:50] + 9 if name == "v" else array[:50] for name, array in training.items()})
    found = {one.name: one for one in profile.found()}
    assert set(found) == {"v[0]", "v[1]", "image", "text"}
    assert found["v[0]"].psi > 1
    assert found["v[0]"].outside == 50
    assert found["image"].values == 50 * 400
    assert found["image"].outside == 0


def test_few_different_numbers_have_a_bin_each() -> None:
    """A change of a code from one value to another shows, although both are in the range."""
    profile = Profile({"code": np.repeat([1, 2, 3], 100)})
    profile.add(1, {"code": np.full(100, 2)})
    (found,) = profile.found()
    assert found.psi > 2
    assert profile.columns["code"][0].expected.tolist() == [0, 100, 100, 100, 0, 0]  # and below, above, not a number
    assert BINS == 10


def test_a_constant_that_moved_and_not_a_number_that_was_known() -> None:
    """Values beyond the training rows are a change, even of a constant; NaN is none where training rows have it."""
    profile = Profile({"constant": np.full(300, 5.0), "gaps": np.where(np.arange(300) % 3, 1.0, np.nan)})
    profile.add(1, {"constant": np.full(300, 7.0), "gaps": np.where(np.arange(300) % 3, 1.0, np.nan)})
    constant, gaps = profile.found()
    assert (constant.name, constant.outside, gaps.outside, gaps.psi) == ("constant", 300, 0, 0)
    assert constant.psi > 2 > constant.noise
    unmoved = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        other = Profile({"x": rng.normal(size=600)})
        other.add(1, {"x": rng.normal(size=400)})
        unmoved += [one.psi > one.noise for one in other.found()]
    assert sum(unmoved) <= 20  # of 200, where chance alone explains 10


def test_slices_of_requests() -> None:
    """Few values are a slice each, many are divided at quarters; texts beyond the 20 most frequent ones share two."""
    cities = [f"c{n}" for n in range(30) for _ in range(40 - n)]
    training: dict[str, Any] = {
        "city": text_array(cities, (len(cities),)),
        "code": np.arange(len(cities)) % 3,
        "age": np.arange(len(cities)),
        "v": np.zeros((len(cities), 2)),
    }
    slicer = Slicer(["city", "code", "age", "v"], training, Profile(training).columns)
    assert slicer.names == ["city", "code", "age"]
    found = {
        title: where.tolist()
        for title, where in slicer.of(
            {
                "city": text_array(["c0", "c29", "new"], (3,)),
                "code": np.array([0, 2, 2]),
                "age": np.array([0, 10**9, 10]),
            }
        )
    }
    assert found["city=c0"] == [True, False, False]
    assert found[f"city={OTHER}"] == [False, True, False]
    assert found[f"city={NEW}"] == [False, False, True]
    assert found["code=2"] == [False, True, True]
    assert [title for title in found if title.startswith("age=")] == ["age=..191", "age=573.."]
    odd = {"city": text_array(["c0"] * 3, (3,)), "code": np.array([1, 7, np.nan]), "age": np.array([0, np.nan, np.inf])}
    found = {title: where.tolist() for title, where in slicer.of(odd)}
    assert found[f"code={NEW}"] == [False, True, False]  # and not in the slice of the nearest value
    assert found["code=(not a number)"] == [False, False, True]
    assert found["age=(not a number)"] == [False, True, False] and found["age=573.."] == [False, False, True]


# what is kept -----------------------------------------------------------------------------------------------------


def tally_of(rules: Mapping[str, Rule], training: Mapping[str, Any]) -> Tally:
    profile = Profile(training)
    signature = Signature((TensorSpec("age", "float32", (None,)),), (TensorSpec("y", "float32", (None, 1)),))
    return Tally(Path("r"), "m", 1, signature, signature, rules, Slicer(["age"], training, profile.columns), profile)


def test_a_tally_keeps_few_rows_however_many_flip() -> None:
    """Of 100,000 flipped rows and 100 refusals, the first of each slice and kind are kept, and all are counted."""
    tally = tally_of({"y": HALF}, {"age": np.arange(1000, dtype=np.float32)})
    ages = np.arange(1000, dtype=np.float32)
    yes, no = Answer({"y": np.ones((1000, 1))}), Answer({"y": np.zeros((1000, 1))})
    for at in range(100):
        tally.add(Request(at + 1), {"age": ages}, yes, no)
        tally.add(Request(at + 101), None, Answer(None, "no"), no)
    found = tally.found()
    assert (found.slices[0].flipped, found.rows, found.refused, found.unread) == (100_000, 100_000, 100, 100)
    assert len(found.flipped) == 20 <= MOST_KEPT
    assert len({tuple(one["slices"]) for one in found.flipped}) == 4
    assert len(found.refusals) == 5
    json.dumps([found.flipped, found.refusals])


def test_a_version_that_hangs_is_not_asked_for_ever() -> None:
    """After ten requests that one version did not answer in time, the tally asks for no more, and says so."""
    tally = tally_of({"y": HALF}, {"age": np.arange(9.0)})
    for at in range(10):
        assert not tally.is_hopeless
        tally.add(
            Request(at + 1), None, Answer(None, "no answer within 1 s", is_late=True), Answer({"y": np.ones((1, 1))})
        )
    assert tally.is_hopeless
    found = tally.found()
    assert found.refused == 10
    assert found.notes == ("after 10 requests that were not answered in time no further one was sent",)


def test_requests_without_rows_or_without_values() -> None:
    """A request of no rows, and rows of no values, are counted as what they are and break nothing."""
    training = {"age": np.arange(9.0), "tags": np.ones((9, 3))}
    tally = tally_of({"y": HALF}, training)
    empty, full = (Answer({"y": np.ones((rows_, 1))}) for rows_ in (0, 2))
    tally.add(Request(1), {"age": np.zeros(0), "tags": np.zeros((0, 3))}, empty, empty)
    tally.add(Request(2), {"age": np.ones(2), "tags": np.ones((2, 0))}, full, full)
    found = tally.found()
    assert (found.requests, found.rows, found.slices[0].flipped) == (2, 2, 0)
    assert {one.name: one.values for one in found.inputs} == {"age": 2}  # of no values nothing is compared
    assert judge_replay(GATES, found).passed


def test_answers_of_another_length_are_a_refusal() -> None:
    """A candidate that answers for another number of rows than the champion has not answered."""
    tally = tally_of({"y": HALF}, {"age": np.arange(9.0)})
    tally.add(Request(1), None, Answer({"y": np.ones((2, 1))}), Answer({"y": np.ones((3, 1))}))
    assert tally.found().refusals[0]["words"] == "it has 2 and 3 answers"


def test_answers_of_two_lengths_are_nobodys_refusal_if_both_versions_give_them() -> None:
    """A request of columns of different lengths gets as odd answers from an equal candidate."""
    tally = tally_of({"y": HALF, "z": HALF}, {"age": np.arange(9.0)})
    odd = Answer({"y": np.ones((2, 1)), "z": np.ones((1, 1))})
    tally.add(Request(1), None, odd, odd)
    found = tally.found()
    assert (found.refused, found.refused_by_both, found.rows) == (0, 1, 0)
    assert judge_replay(GATES, found).passed and not found.inputs

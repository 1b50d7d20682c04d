"""Experiments on real users: who gets which version, what the written client does, what outcomes are read to say."""

from __future__ import annotations

import csv
import gzip
import hashlib
import re
import subprocess
import sys
import types
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from configs.errors import ConfigError
from flows import ab
from tasks.errors import WrongFile
from tasks.experiment.client import EXAMPLES, client_code
from tasks.experiment.decide import (
    LEVEL,
    Difference,
    Mean,
    Question,
    Report,
    decide,
    in_words,
    keys_needed,
    newcombe,
    recommendation,
    sample_ratio_p,
    welch,
    wilson,
)
from tasks.experiment.outcomes import by_key, read_outcomes
from tasks.experiment.routing import LABELS, arm_of, bucket
from tasks.production.experiments import plan
from tasks.records import Arm

NAME = "trial"


def arms_of(*shares: int) -> tuple[Arm, ...]:
    return tuple(Arm(LABELS[i], 4 + i, f"{i}" * 64, share) for i, share in enumerate(shares))


HALVES = arms_of(50, 50)
KEYS = [f"user-{number}" for number in range(4000)]


def test_the_rule_in_words() -> None:
    """The bucket is what docs/ab.md says: the first 8 bytes of SHA-256 of NAME/KEY, big-endian, modulo 10,000."""
    page = Path("docs/ab.md").read_text(encoding="utf-8")
    for key in EXAMPLES[:4]:
        digest = hashlib.sha256(f"{NAME}/{key}".encode()).hexdigest()
        found = int(digest[:16], 16) % 10_000
        assert bucket(NAME, key) == found
        assert f"| `{key}` | `{digest[:16]}` | {found:,} | {arm_of(NAME, HALVES, key).label} |" in page


@pytest.mark.parametrize("shares", [(50, 50), (98, 1, 1), (10,) * 10, (33, 33, 34)])
def test_shares_are_kept(shares: tuple[int, ...]) -> None:
    """Of many keys, each arm gets its share, up to what chance explains."""
    arms = arms_of(*shares)
    counts = Counter(arm_of(NAME, arms, f"{number}").label for number in range(20_000))
    assert sample_ratio_p([counts[arm.label] for arm in arms], shares) > 0.001


def test_experiments_are_independent_of_each_other() -> None:
    """A key's arm in one experiment says nothing about its arm in another one."""
    pairs = Counter((arm_of("one", HALVES, key).label, arm_of("two", HALVES, key).label) for key in KEYS)
    table = [[pairs[first, second] for second in "ab"] for first in "ab"]
    assert stats.chi2_contingency(table).pvalue > 0.001


def module_of(code: str) -> Any:
    """Return the written client as a module."""
    found = types.ModuleType("client")
    exec(compile(code, "client.py", "exec"), found.__dict__)
    return found


@given(st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from([(50, 50), (1, 99), (20, 30, 50)]))
def test_the_written_client_routes_as_the_report_expects(key: str, shares: tuple[int, ...]) -> None:
    """For any key, the file that is written and the function behind the report give the same bucket and label."""
    arms = arms_of(*shares)
    client = module_of(client_code(NAME, arms, "digits", ["http://h:8501"]))
    assert client.bucket(key) == bucket(NAME, key)
    assert client.label(key) == arm_of(NAME, arms, key).label
    assert client.url(key) == f"http://h:8501/v1/models/digits/labels/{client.label(key)}:predict"


@pytest.mark.parametrize("key", [42, 42.0, True, None, b"user-1", np.int64(42)])
def test_a_key_that_is_not_text(key: Any) -> None:
    """A key that the log could write in another way than it was hashed is refused, with what is right."""
    with pytest.raises(TypeError, match="a key must be text, as in the log of outcomes, such as str.user_id., got "):
        module_of(client_code(NAME, HALVES, "digits", ["http://h:8501"])).label(key)


def test_the_written_client_is_a_program(tmp_path: Path) -> None:
    """Run as a program, it checks its own examples and shows where keys go."""
    file = tmp_path / "client.py"
    file.write_text(client_code(NAME, HALVES, "digits", ["grpc://h:1", "https://u:planted@h:8501"]), encoding="utf-8")
    done = subprocess.run([sys.executable, str(file), "user-1"], capture_output=True, text=True, check=True)
    label = arm_of(NAME, HALVES, "user-1").label
    url = f"https://h:8501/v1/models/digits/labels/{label}:predict"
    assert done.stdout == f"user-1 {bucket(NAME, 'user-1')} {label} {url}\n"
    assert "planted" not in file.read_text(encoding="utf-8")
    over_grpc = client_code(NAME, HALVES, "digits", ["grpc://h:1"])
    assert "MODEL_URL = '/v1/models/digits'  # put the address of the REST interface before it" in over_grpc
    wrong = file.read_text(encoding="utf-8").replace("'user-1': (", "'user-1': (1")
    file.write_text(wrong, encoding="utf-8")
    assert subprocess.run([sys.executable, str(file)], capture_output=True, check=False).returncode == 1


def test_a_client_outlives_its_experiment() -> None:
    """After the end, the server does not know the label; the client asks for stable, and the log says so."""
    client = module_of(client_code(NAME, HALVES, "digits", ["http://h:8501"]))
    asked: list[str] = []

    def ended(status: int, text: str) -> Callable[..., Any]:
        def post(url: str, json: Any, headers: Any, timeout: float) -> Any:
            asked.append(url.rpartition("/")[2])
            answer = client.requests.Response()
            answer.status_code, answer._content = (200, b'{"predictions": [1]}') if "stable" in url else (status, text)
            return answer

        return post

    for status, text in ((400, b'{"error": "Unrecognized servable version label: a"}'), (404, b"{}")):
        assert client.predict("user-1", [[1.0]], ended(status, text)) == ([1], "stable")
    assert asked[-1] == "stable:predict"
    for status, text in ((400, b'{"error": "wrong shape"}'), (503, b"")):  # no sign of an end
        with pytest.raises(client.requests.HTTPError):
            client.predict("user-1", [[1.0]], ended(status, text))


def written(path: Path, rows: Sequence[Sequence[object]], header: str = "key,version,outcome") -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        stream.write(f"{header}\n")
        csv.writer(stream).writerows(rows)
    return path


def outcomes(
    rate: dict[int, float], keys: Sequence[str] = KEYS, arms: tuple[Arm, ...] = HALVES
) -> list[tuple[str, int, int]]:
    """Return an outcome of 0 or 1 for each key, as the written client logs them."""
    random = np.random.default_rng(1)
    found = [(key, arm_of(NAME, arms, key).version) for key in keys]
    return [(key, version, int(random.random() < rate[version])) for key, version in found]


def asked(path: Path, arms: tuple[Arm, ...] = HALVES, **question: Any) -> Report:
    return decide(Question(NAME, arms, **question), read_outcomes(path, NAME, arms))


def test_a_real_difference_is_recommended(tmp_path: Path) -> None:
    """A version that is much better is named, with its interval, and what the client logged raises no doubt."""
    report = asked(written(tmp_path / "o.csv", outcomes({4: 0.2, 5: 0.4})))
    [one] = report.differences
    assert report.binary and report.doubts == ()
    assert 0.1 < one.low < 0.2 < one.high < 0.3
    assert recommendation(report) == "recommendation: b, which is better than a"
    text = "\n".join(in_words(report))
    for words in ("4,000 outcomes of 4,000 keys", "as the shares say", "still needed", "looking repeatedly"):
        assert words in text
    less = asked(tmp_path / "o.csv", less_is_better=True)
    assert recommendation(less) == "recommendation: a, which is better than b"


def test_no_difference_is_not_recommended(tmp_path: Path) -> None:
    """Two equal versions: the interval contains 0, and nobody wins."""
    report = asked(written(tmp_path / "o.csv", outcomes({4: 0.3, 5: 0.3})))
    assert report.differences[0].low < 0 < report.differences[0].high
    assert "no version is shown to be better" in recommendation(report)


def test_the_planned_number_is_waited_for(tmp_path: Path) -> None:
    """With a planned effect, a difference that shows too early is not recommended; with enough keys it is."""
    path = written(tmp_path / "o.csv", outcomes({4: 0.2, 5: 0.4}))
    early = asked(path, effect=0.01)
    assert "the planned number of" in recommendation(early)
    assert recommendation(asked(path, effect=0.1)) == "recommendation: b, which is better than a"
    with pytest.raises(ConfigError, match="--effect must be less than 1"):
        asked(path, effect=1.5)


def test_the_key_is_the_unit(tmp_path: Path) -> None:
    """Several outcomes of one key count once, with their mean; a loud key does not narrow the interval."""
    rows = outcomes({4: 0.2, 5: 0.4})
    once = asked(written(tmp_path / "once.csv", rows))
    report = asked(written(tmp_path / "often.csv", [*rows, *rows[:1] * 5000]))
    assert report.keys.several == 1
    assert [mean.keys for mean in report.means] == [mean.keys for mean in once.means]
    assert report.differences == once.differences
    mixed = asked(written(tmp_path / "mixed.csv", [*rows, (rows[0][0], rows[0][1], 1 - rows[0][2])]))
    assert not mixed.binary  # one key has the mean 0.5, so that the means are compared by Welch's interval
    assert mixed.differences[0].low == pytest.approx(once.differences[0].low, abs=0.002)


def test_what_makes_outcomes_doubtful(tmp_path: Path) -> None:
    """Lost outcomes, another client's rule, keys in two arms, broken lines, too few keys: nothing is recommended."""
    rows = outcomes({4: 0.2, 5: 0.4})
    lost = [row for number, row in enumerate(rows) if row[1] == 4 or number % 5]
    swapped = [(key, 9 - version, outcome) for key, version, outcome in rows]
    twice = [*rows, *((key, 9 - version, outcome) for key, version, outcome in rows[:100])]
    broken = [*rows, *((key, version, "") for key, version, _ in rows[:100])]
    constant = [(key, version, 7.5) for key, version, _ in rows]
    for name, doubtful, words in (
        ("lost", lost, "the keys are not divided as the shares say"),
        ("swapped", swapped, "4,000 of 4,000 keys came from another arm"),
        ("twice", twice, "100 of 4,000 keys came from another arm"),
        ("broken", broken, "100 of 4,100 lines cannot be used"),
        ("few", rows[:20], "usable keys, and each needs at least 30"),
        ("one arm", [row for row in rows if row[1] == 4], "an arm has only 0 usable keys"),
        ("constant", constant, "no outcome differs from another one of its arm"),
    ):
        report = asked(written(tmp_path / f"{name}.csv", doubtful))
        assert words in recommendation(report), name
        assert in_words(report)[-1].startswith("recommendation: none, because ")
    spoiled = asked(written(tmp_path / "o.csv", rows), spoiled=("the label 'a' names version 3",))
    assert recommendation(spoiled).startswith("recommendation: none, because the label 'a' names version 3")


@pytest.mark.parametrize("value", [0.1, 0.3, 19.99, 123456.789, 7.0])
@pytest.mark.parametrize("often", [1, 3])
def test_equal_outcomes_recommend_nothing(tmp_path: Path, value: float, often: int) -> None:
    """Sums of equal outcomes are rounded; the rounding is neither a difference nor a variance."""
    rows = [(key, version, value) for key, version, _ in outcomes({4: 1, 5: 1})]
    report = asked(written(tmp_path / "o.csv", [*rows, *[row for row in rows[::2] if row[1] == 5] * (often - 1)]))
    [one] = report.differences
    assert (one.value, np.isnan(one.low), one.needed) == (0.0, True, None)
    assert "no outcome differs from another one of its arm" in recommendation(report)
    assert "the planned number" not in recommendation(asked(tmp_path / "o.csv", effect=0.01))


@pytest.mark.parametrize("value", [0, 1])
def test_only_one_outcome_was_logged(tmp_path: Path, value: int) -> None:
    """A log of successes alone, or of failures alone, is said to be one."""
    rows = [(key, version, value) for key, version, _ in outcomes({4: 1, 5: 1})]
    for effect in (None, 0.2):
        report = asked(written(tmp_path / "o.csv", rows), effect=effect)
        assert f"none, because every outcome is {value}, so that there is nothing to" in recommendation(report)


def test_a_plan_that_nobody_can_reach(tmp_path: Path) -> None:
    """If the planned effect needs more keys than anybody has, nothing is recommended before."""
    path = written(tmp_path / "o.csv", outcomes({4: 0.2, 5: 0.4}))
    report = asked(path, effect=1e-9)
    assert recommendation(report) == (
        "recommendation: none, because --effect 1e-09 needs more than 1,000,000,000,000 keys; choose a larger one"
    )
    assert "still needed for a difference b - a of 1e-09: unknown, or more than 1,000" in "\n".join(in_words(report))
    equal = asked(written(tmp_path / "e.csv", outcomes({4: 0.3, 5: 0.3})), effect=0.2)
    assert recommendation(equal).endswith("keep the stable one, because the planned number is reached")


def test_a_small_arm_whose_outcomes_are_kept_alone(tmp_path: Path) -> None:
    """That nearly all outcomes of the large arm are lost is seen, although few keys are due to the small one."""
    arms = arms_of(1, 99)
    rows = outcomes({4: 0.2, 5: 0.6}, [f"user-{number}" for number in range(8000)], arms)
    small = [row for row in rows if row[1] == 4]
    report = asked(written(tmp_path / "o.csv", [*small, *[row for row in rows if row[1] == 5][:100]]), arms)
    assert sum(report.keys.seen) < 500  # so that fewer than 5 are due to the arm of 1 %
    assert "the keys are not divided as the shares say" in recommendation(report)


def test_the_observed_difference_needs_what_its_own_means_need(tmp_path: Path) -> None:
    """The number for a difference downwards is not that for an equal one upwards, whose outcomes vary more."""
    report = asked(written(tmp_path / "o.csv", outcomes({4: 0.3, 5: 0.1})))
    [one], (first, other) = report.differences, report.means
    variances = [mean.mean * (1 - mean.mean) for mean in (first, other)]
    assert one.needed == keys_needed(variances, (50, 50), abs(one.value), LEVEL)
    planned = [
        asked(tmp_path / "o.csv", effect=0.2, less_is_better=less).differences[0].needed or 0 for less in (True, False)
    ]
    assert planned[0] < planned[1]


def test_a_few_wrong_keys_are_left_out(tmp_path: Path) -> None:
    """Keys in two arms or in a wrong one are counted and left out, and less than one in a hundred decides nothing."""
    rows = outcomes({4: 0.2, 5: 0.4})
    (first, version, outcome), (second, wrong, other) = rows[:2]
    rows = [*rows[2:], (first, version, outcome), (first, 9 - version, outcome), (second, 9 - wrong, other)]
    report = asked(written(tmp_path / "o.csv", rows))
    assert (report.keys.in_two_arms, report.keys.in_wrong_arm, report.doubts) == (1, 1, ())
    assert len(report.keys.mean) == 3998
    assert any("left out: 2 keys, 1 that were logged in several arms and 1 that" in line for line in in_words(report))


def test_every_bad_line_is_named(tmp_path: Path) -> None:
    """Lines without a usable outcome are named by their number; those of other versions are counted by version."""
    lines = [
        "key,version,outcome,comment", "u1,4,1,", "u2,4", "u3,4,,", 'u4,4,"two\nlines",', ",5,1,", "u5,9,1,", "u6,,1,",
        "u7,4,nan,", "u8,4.0,1e999,", "u9,4,1_0,", "u10,4,1e101,", "", "u11, 5 ,True,", "u12,stable,0,", "u13,4,-3.5,",
    ]  # fmt: skip
    path = tmp_path / "o.csv"
    path.write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    assert read_outcomes(
        written(tmp_path / "blank.csv", [("u1", 4, 1, "")], "\n\nkey,version,outcome"), NAME, HALVES
    ).values
    logged = read_outcomes(path, NAME, HALVES)
    assert [*logged.values] == [1.0, 1.0, -3.5]
    assert [line.partition(":")[0] for line in logged.invalid] == [
        "line 3", "line 4", "line 6", "line 7", "line 10", "line 11", "line 12", "line 13",
    ]  # fmt: skip
    assert "got 'two lines'" in logged.invalid[2]
    assert logged.unknown == {"9": 1, "(empty)": 1, "stable": 1}
    text = "\n".join(in_words(decide(Question(NAME, HALVES), logged)))
    assert "left out: 8 invalid lines: line 3: it has 2 columns, and needs 3;" in text
    assert "versions or labels that are not in the experiment: '9' (1 line)" in text


def test_labels_instead_of_versions(tmp_path: Path) -> None:
    """A log may name the label; where it also names the version, that counts."""
    rows = [(key, arm_of(NAME, HALVES, key).label, 1) for key in KEYS[:10]]
    by_label = by_key(read_outcomes(written(tmp_path / "l.csv", rows, "key,label,outcome"), NAME, HALVES), HALVES)
    assert (len(by_label.arm), by_label.in_wrong_arm) == (10, 0)
    both = [(*row, arm_of(NAME, HALVES, row[0]).version, "z") for row in rows]
    header = "Key,label_,OUTCOME,version,label"
    found = by_key(read_outcomes(written(tmp_path / "b.csv", both, header), NAME, HALVES), HALVES)
    assert (found.arm == by_label.arm).all()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "must begin with a line of names, separated by commas, that has key"),
        (b"key,outcome\nu,1\n", "got key,outcome"),
        (b"key;version;outcome\nu;4;1\n", "once each, got key;version;outcome"),
        (b"key,version,outcome,key\nu,4,1,u\n", "once each, got key,version,outcome,key"),
        (b"key,version,outcome\n", r"has none \(no lines\)"),
        (b"key,version,outcome\nu,7,1\nv,8,1\n", r"none \(unknown versions or labels: 7, 8"),
        (b"key,version,outcome\nu,4,yes\n", "line 2: the outcome must be a number, got 'yes'"),
        (b"key,version,outcome\n\xff,4,1\n", "must name a file in UTF-8"),
        (gzip.compress(b"key,version,outcome\nu,4,1\n", mtime=0), "in UTF-8 that is not compressed"),
        (b'key,version,outcome,note\nu,4,1,"a"\nv,4,1,"b\nw,5,1,c\nx,5,0,d\n', "line 3 begins what cannot be read"),
        (b'key,version,outcome,note\nv,4,1,"b\nw,5,1,"c\nx,5,0,d\n', "line 2 begins what cannot be read"),
        (
            b"key,version,outcome\nu,4,0,5\nDoe, Jane,4,1\n",
            "line 2: it has 4 columns, and the heading has 3; line 3: it",
        ),
        (b"key,version,outcome\n" + b"x" * 200_000 + b",4,1\n", "field larger than field limit"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, content: bytes, words: str) -> None:
    """A file that is no table of outcomes is one clear error of a file that the user named."""
    (tmp_path / "o.csv").write_bytes(content)
    with pytest.raises(WrongFile, match=words):
        read_outcomes(tmp_path / "o.csv", NAME, HALVES)


def test_no_file_and_a_directory(tmp_path: Path) -> None:
    """So is a file that is not there, and a directory."""
    for path in (tmp_path / "absent.csv", tmp_path):
        with pytest.raises(WrongFile, match="--decide must name a readable CSV file"):
            read_outcomes(path, NAME, HALVES)


def of_binary(values: Any) -> Mean:
    return Mean(len(values), float(np.mean(values)), float(np.std(values, ddof=1)))


@pytest.mark.parametrize(("p", "q", "n", "m"), [(0.1, 0.13, 300, 500), (0.02, 0.02, 200, 1000), (0.5, 0.6, 60, 60)])
def test_intervals_of_proportions_cover_the_truth(p: float, q: float, n: int, m: int) -> None:
    """In simulated experiments, 95 % intervals of the difference hold the true one in 93.5 to 97.5 % of cases."""
    random, held = np.random.default_rng(7), 0
    for _ in range(1500):
        k, j = random.binomial(n, p), random.binomial(m, q)
        low, high = newcombe(Mean(n, k / n, 0), Mean(m, j / m, 0), LEVEL)
        held += low <= q - p <= high
    assert 0.935 <= held / 1500 <= 0.975


def test_newcombes_own_example() -> None:
    """Method 10 gives 0.0524 to 0.3339 for 56 of 70 against 48 of 80, as in Table II of Newcombe's article."""
    low, high = newcombe(Mean(80, 48 / 80, 0), Mean(70, 56 / 70, 0), 0.95)
    assert (round(low, 4), round(high, 4)) == (0.0524, 0.3339)
    for count in (0, 80):
        low, high = wilson(Mean(80, count / 80, 0), 0.95)
        assert 0 <= low < high <= 1


@pytest.mark.parametrize("skewed", [False, True])
def test_intervals_of_means_cover_the_truth(skewed: bool) -> None:
    """So do those of means, with unequal variances and sizes, and with skewed outcomes."""
    random, held = np.random.default_rng(8), 0
    for _ in range(2000):
        if skewed:
            first, other, truth = random.exponential(1, 150), random.exponential(2, 200), 1.0
        else:
            first, other, truth = random.normal(0, 1, 40), random.normal(0.5, 4, 90), 0.5
        low, high = welch(of_binary(first), of_binary(other), LEVEL)
        held += low <= truth <= high
        if not held % 500:  # the same as the library's
            found = stats.ttest_ind(other, first, equal_var=False).confidence_interval(LEVEL)
            assert (low, high) == pytest.approx((found.low, found.high))
    assert 0.935 <= held / 2000 <= 0.965


def test_the_sample_ratio_alarm_is_rarely_false() -> None:
    """Where keys are divided as the shares say, p < 0.05 in 4 to 6 % of experiments, and the alarm in at most 0.3 %."""
    random, shares = np.random.default_rng(9), (50, 30, 20)
    found = np.array([sample_ratio_p(row, shares) for row in random.multinomial(5000, [0.5, 0.3, 0.2], 4000).tolist()])
    assert 0.04 <= (found < 0.05).mean() <= 0.06
    assert (found < 0.001).mean() <= 0.003
    assert sample_ratio_p([10_600, 10_000], (50, 50)) < 0.001
    assert np.isnan([sample_ratio_p([0, 0], (50, 50)), sample_ratio_p([300, 4], (99, 1))]).all()


@pytest.mark.parametrize("size", [1e-150, 1e-90, 1e90])
def test_outcomes_of_any_size(tmp_path: Path, size: float) -> None:
    """The smallest and the largest outcomes have the same interval in their own unit, or none; nothing overflows."""
    usual = [(key, version, outcome + 0.5 * (number % 3)) for number, (key, version, outcome) in enumerate(
        outcomes({4: 0.2, 5: 0.4}))]  # fmt: skip
    [one] = asked(written(tmp_path / "one.csv", usual)).differences
    report = asked(written(tmp_path / "o.csv", [(key, version, value * size) for key, version, value in usual]))
    [other] = report.differences
    assert np.isnan(other.low) or (other.low, other.high) == pytest.approx((one.low * size, one.high * size))
    assert in_words(report)
    assert in_words(asked(tmp_path / "o.csv", effect=1e-300))


def test_skewed_outcomes_in_a_small_arm(tmp_path: Path) -> None:
    """Where an arm is too small for rare large amounts, nothing is recommended; arms of one size need no more."""
    random, recommended = np.random.default_rng(12), {5: 0, 50: 0}
    for share in recommended:
        arms = arms_of(share, 100 - share)
        for number in range(60):
            keys = [f"{number}-{key}" for key in range(1000)]
            paid = np.where(random.random(1000) < 0.05, random.lognormal(3, 1, 1000), 0.0)
            rows = [(key, arm_of(NAME, arms, key).version, amount) for key, amount in zip(keys, paid, strict=True)]
            report = asked(written(tmp_path / "o.csv", rows), arms)
            recommended[share] += not recommendation(report).startswith("recommendation: none")
            assert ("rare large outcomes make the interval" in recommendation(report)) == (share == 5)
    assert recommended[5] == 0
    assert recommended[50] <= 6
    better = [(key, version, 50 + (version == 5) + random.exponential()) for key, version, _ in outcomes({4: 1, 5: 1})]
    assert recommendation(asked(written(tmp_path / "o.csv", better))) == "recommendation: b, which is better than a"


def test_three_arms_share_one_error() -> None:
    """With two comparisons, both intervals hold the truth together in at least 94 % of experiments (Bonferroni)."""
    random, held = np.random.default_rng(10), 0
    level = Question(NAME, arms_of(40, 30, 30)).level
    for _ in range(1500):
        first, *others = (of_binary(random.normal(0, 1, 100)) for _ in range(3))
        intervals = [welch(first, other, level) for other in others]
        held += all(low <= 0 <= high for low, high in intervals)
    assert 0.94 <= held / 1500 <= 0.97


def test_the_number_of_outcomes_has_the_power() -> None:
    """Experiments of the size that is asked for show the difference in 77 to 83 % of cases."""
    shares, p, q = (70, 30), 0.3, 0.35
    needed = keys_needed([p * (1 - p), q * (1 - q)], shares, q - p, LEVEL)
    assert needed is not None
    random, shown = np.random.default_rng(11), 0
    n, m = (needed * share // 100 for share in shares)
    for _ in range(1500):
        low, _ = newcombe(Mean(n, random.binomial(n, p) / n, 0), Mean(m, random.binomial(m, q) / m, 0), LEVEL)
        shown += low > 0
    assert 0.77 <= shown / 1500 <= 0.83
    assert keys_needed([0.0, 0.0], shares, 0.1, LEVEL) == 2
    assert keys_needed([1.0, 1.0], shares, 0.0, LEVEL) is None


def test_arms_without_any_variation(tmp_path: Path) -> None:
    """Where every outcome of one arm is 0 and of the other 1, nothing more is needed, and that is what is said."""
    rows = [(key, arm_of(NAME, HALVES, key)) for key in map(str, range(200))]
    path = written(tmp_path / "a.csv", [(key, arm.version, arm.label == "b") for key, arm in rows])
    lines = "\n".join(in_words(decide(Question(NAME, HALVES), read_outcomes(path, NAME, HALVES))))
    assert "of 1, as observed (a difference that you choose with --effect is a better plan): outcomes of 0 new" in lines
    assert "recommendation: b" in lines


def test_one_of_each(tmp_path: Path) -> None:
    """What there is once is said in the singular."""
    arm = arm_of(NAME, HALVES, "u")
    path = written(tmp_path / "a.csv", [("u", arm.version, 1), ("v", 99, 1), ("", arm.version, 1)])
    lines = "\n".join(in_words(decide(Question(NAME, HALVES), read_outcomes(path, NAME, HALVES))))
    assert "1 outcome of 1 key;" in lines
    assert "'99' (1 line)" in lines
    assert "left out: 1 invalid line:" in lines
    assert not re.search(r"(?<!\+ )\b1 (outcomes|keys|lines|invalid lines|usable keys|new keys)\b", lines)


def test_the_best_of_three(tmp_path: Path) -> None:
    """Of several better versions the one with the largest difference is named, and what was not compared is said."""
    arms = arms_of(40, 30, 30)
    report = asked(written(tmp_path / "o.csv", outcomes({4: 0.1, 5: 0.4, 6: 0.6}, arms=arms)), arms)
    assert all(one.is_shown for one in report.differences)
    assert recommendation(report) == (
        "recommendation: c, which is better than a (only differences from a are compared)"
    )
    assert "2 comparisons, Bonferroni" in "\n".join(in_words(report))
    assert not Difference(arms[1], 0.1, float("nan"), float("nan"), None).is_shown


@pytest.mark.parametrize(
    ("numbers", "shares", "name", "words"),
    [
        ([4], [100], "", "must name 2 to 10 versions"),
        ([*range(1, 12)], [*[9] * 10, 10], "", "must name 2 to 10 versions"),
        ([4, 4], [50, 50], "", "different versions, got 4,4"),
        ([4, 5], [100], "", "one share for each of 2 versions, got 1"),
        ([4, 5], [50, 49], "", "whose sum is 100, got 50,49, whose sum is 99"),
        ([4, 5], [0, 100], "", "of at least 1"),
        ([4, 5], [50, 50], "a/b", "--name must be 1 to 64"),
        ([4, 5], [50, 50], "x" * 65, "--name must be 1 to 64"),
    ],
)
def test_a_plan_that_cannot_be(numbers: list[int], shares: list[int], name: str, words: str) -> None:
    """Too few, too many or equal versions, shares that do not fit, and unusable names are refused."""
    with pytest.raises(ConfigError, match=words):
        plan(numbers, shares, name)


def test_a_plan() -> None:
    """The labels follow the order of the versions; without a name, each experiment has a salt of its own."""
    made = plan([5, 4, 7], [20, 30, 50], "")
    assert [str(arm) for arm in made.arms] == ["a: version 5 (20 %)", "b: version 4 (30 %)", "c: version 7 (50 %)"]
    assert made.name.startswith("5-4-7-20")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("--versions 4,5", "--versions and --shares belong together"),
        ("--shares 50,50", "--versions and --shares belong together"),
        ("--versions 4,x --shares 50,50", "a version must be a whole number"),
        ("--versions 4,5 --shares 50,5o", "shares must be whole percentages"),
        ("--versions 4,5 --shares 50.5,49.5", "shares must be whole percentages"),
        ("--versions 4,5 --shares=-50,150", "shares must be whole percentages"),
        ("--name x", "--name needs --versions"),
        ("--stop --to b", "not allowed with argument"),
        ("--stop --versions 4,5 --shares 50,50", "--stop takes only --by"),
        ("--to b --effect 1", "--to takes only --by"),
        ("--effect 1", "--effect needs --decide"),
        ("--less-is-better", "--less-is-better needs --decide"),
        ("--decide o.csv --effect 0", "an effect must be a positive number"),
        ("--decide o.csv --effect nan", "an effect must be a positive number"),
        ("--decide o.csv --by ann", "takes no --by"),
        ("--by ann", "--by NAME needs a change"),
        ("--client absent/x.py", "--client must be a file that can be written"),
        ("", "needs promote.layout: labels"),
        ("--stop", "needs promote.layout: labels"),
        ("--versions 4,5 --shares 50,50", "needs promote.layout: labels"),
    ],
)
def test_bad_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str], given: str, words: str) -> None:
    """Options that mean nothing together, values that cannot be, and another layout are exit code 2 in one line."""
    assert (code(tmp_path, given), words in capsys.readouterr().err) == (2, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cfg.yaml"]


def code(directory: Path, given: str, more: str = "") -> int:
    (directory / "cfg.yaml").write_text(f"name: m\nmodels_root: models\nwork_dir: work\n{more}")
    try:
        return ab.main(["--config", str(directory / "cfg.yaml"), *given.split()])
    except SystemExit as exc:
        return int(str(exc.code))


LABELLED = "promote: {layout: labels, live_url: 'http://127.0.0.1:9'}\n"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("--stop", "no experiment of 'm' runs"),
        ("--to b", "no experiment of 'm' runs"),
        ("--decide o.csv", "no experiment of 'm' runs; for one that has ended, add its --versions"),
        ("--decide o.csv --versions 4,5 --shares 50,50", "needs --name"),
        ("--decide o.csv --versions 4,5 --shares 50,50 --name e", "--decide must name a readable CSV file"),
        ("--versions 4,5 --shares 50,50", "that passed and were promoted, as the canary or as stable, got 4; these"),
        ("--versions 4,5 --shares 50,51", "whose sum is 100"),
    ],
)
def test_nothing_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str], given: str, words: str) -> None:
    """Where nothing was promoted and no experiment runs, every action says so with exit code 2 and writes nothing."""
    assert (code(tmp_path, given, LABELLED), words in capsys.readouterr().err) == (2, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cfg.yaml"]


def test_the_state_where_nothing_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without any option, the state is shown."""
    assert code(tmp_path, "", LABELLED) == 0
    assert capsys.readouterr().out == "no experiment of 'm' runs; start one with --versions and --shares\n"


def test_an_ended_experiment_is_decided(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Outcomes that arrive after the end are read with the versions, shares and name that the experiment had."""
    path = written(tmp_path / "o.csv", outcomes({4: 0.2, 5: 0.4}))
    given = f"--decide {path} --versions 4,5 --shares 50,50 --name {NAME}"
    assert code(tmp_path, given, LABELLED) == 0
    assert "recommendation: b, which is better than a" in capsys.readouterr().out
    assert sorted(found.name for found in tmp_path.iterdir()) == ["cfg.yaml", "o.csv"]


def test_a_client_replaces_only_a_client(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is not the client of an experiment is not overwritten; an older client may be."""
    (tmp_path / "my_model.py").write_text("def build(): ...\n")
    assert code(tmp_path, f"--client {tmp_path / 'my_model.py'}", LABELLED) == 2
    assert "which is neither" in capsys.readouterr().err
    assert (tmp_path / "my_model.py").read_text() == "def build(): ...\n"
    (tmp_path / "client.py").write_text(client_code(NAME, HALVES, "m", []), encoding="utf-8")
    assert code(tmp_path, f"--client {tmp_path / 'client.py'}", LABELLED) == 2
    assert "--client needs an experiment" in capsys.readouterr().err

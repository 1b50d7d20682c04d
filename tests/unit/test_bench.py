"""The table of `make bench`: what counts as slower, and what is kept."""

import json
import subprocess
import sys

import pytest

from benchmarks.run import BENCHMARKS, PICTURE, RESULTS, Row, commands, compare, lost, report, run

WRITES = "import json, pathlib, sys; pathlib.Path(sys.argv[sys.argv.index('--json') + 1]).write_text(sys.argv[1])"


def results(**ratios):
    return {"ratios": {what.replace("_", " "): rounds for what, rounds in ratios.items()}}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "docs").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("now", "before", "verdict"),
    [
        ([1.3, 1.4, 1.5], [1.0, 1.1, 1.2], "slower"),
        ([1.0, 1.1, 1.2], [1.3, 1.4, 1.5], "faster"),
        ([1.2, 1.4, 1.5], [1.0, 1.1, 1.2], "same"),  # the rounds touch
        ([1.01, 1.02, 1.03], [0.98, 0.99, 1.0], "same"),  # apart, and by less than noise
        ([1.2], [1.0], "same"),  # one round alone can be noise
        ([1.3], [1.0], "slower"),
        ([0.7], [1.0], "faster"),
        ([1.2, 1.3, 1.4], [1.0], "slower"),
        ([0.0], [0.0], "same"),
        ([1.0], (), "new"),
    ],
)
def test_slower_is_what_lies_apart_by_more_than_noise(now, before, verdict):
    assert Row("a", "b", now, before).verdict == verdict


def test_a_run_is_compared_with_the_same_words_and_names_what_is_gone():
    before = {"a": results(kept=[1.0], gone=[2.0]), "other": results(x=[1.0])}
    now = {"a": results(kept=[3.0], added=[4.0])}
    assert [(row.what, row.verdict) for row in compare(now, before)] == [("kept", "slower"), ("added", "new")]
    assert lost(now, before) == ["a: gone"]


def test_the_report_names_what_got_slower_and_keeps_what_did_not_run(root, capsys):
    before = {"a": results(time=[1.0]), "other": results(x=[1.0])}
    report({"a": results(time=[2.0])}, before, root)
    assert "slower: a, time: 2 instead of 1 times" in capsys.readouterr().out
    written = json.loads((root / RESULTS).read_text())
    assert written == {"a": results(time=[2.0]), "other": results(x=[1.0])}
    picture = (root / PICTURE).read_text()
    assert picture.count("<svg") == 1
    assert "a: time" in picture
    assert "other: x" in picture


def test_the_same_figures_give_the_same_picture(root):
    report({"a": results(time=[2.0, 2.5])}, {}, root)
    first = (root / PICTURE).read_bytes()
    report({"a": results(time=[2.0, 2.5])}, {}, root)
    assert (root / PICTURE).read_bytes() == first


def test_a_benchmark_hands_over_one_value_a_round():
    found = run("a", [sys.executable, "-c", WRITES, '{"time": [1.23456, 2]}'])
    assert found["ratios"] == {"time": [1.235, 2.0]}
    assert found["versions"]["python"] == sys.version.split()[0]


@pytest.mark.parametrize("written", ["{}", '{"time": []}'])
def test_a_benchmark_without_a_ratio_is_a_failure(written):
    with pytest.raises(ValueError, match="a wrote no ratio"):
        run("a", [sys.executable, "-c", WRITES, written])


def test_a_benchmark_that_fails_is_a_failure():
    with pytest.raises(subprocess.CalledProcessError):
        run("a", [sys.executable, "-c", "raise SystemExit(3)"])


def test_every_benchmark_has_its_module_and_the_option():
    for name, command in commands((), "").items():
        shown = subprocess.run([*command[:3], "--help"], capture_output=True, text=True, check=True).stdout
        assert "--json FILE" in shown, name
        for option in command[3:]:
            assert option in shown or not option.startswith("--")


def test_an_image_is_measured_beside_the_embedded_server():
    found = commands(["gates", "publish"], "some/image:1")
    assert list(found) == ["gates", "gates, container", "publish"]
    assert found["gates, container"][-2:] == ["--image", "some/image:1"]


def test_names_can_be_typed():
    assert all(name == name.lower() for name in BENCHMARKS)

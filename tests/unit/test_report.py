"""The reviewer's page, its tables and its pictures."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.schema import Config
from configs.sections.gates import Gates
from tasks.datasets.rows import Rows, save_arrays, save_rows
from tasks.gates.reading import undeclared
from tasks.gates.replay import judge_replay
from tasks.gates.scores import Scored
from tasks.records import (
    Candidate,
    Champion,
    GateResult,
    GraphFacts,
    Probe,
    Reading,
    ReplayedInput,
    ReplayedSlice,
    ServedAnswers,
    ServedChampion,
    ServedLatency,
    ServedReplay,
    ServerFacts,
    Signature,
    Splits,
    TensorSpec,
    TrainedModel,
    ValidationReport,
)
from tasks.report.differences import differences_table
from tasks.report.judged import calibrate, confuse
from tasks.report.page import render_page
from tasks.report.pictures import draw_pictures
from tasks.report.plots import (
    draw_calibration,
    draw_confusion,
    draw_curves,
    draw_latency,
    draw_parity,
    draw_residuals,
)
from tasks.report.tables import gate_rows, gate_table_markdown, signature_difference

HOSTILE = "<script>alert('x')</script>"
PIXELS = TensorSpec("pixels", "float32", (None, 64))
CLASSES = TensorSpec("probabilities", "float32", (None, 10))
GRAPH = GraphFacts((), (), 60_000, 17_000, 77_355, 4_810)
SPLITS = Splits(
    Path("train.npz"),
    Path("validation.npz"),
    Path("test.npz"),
    {"train": 1078, "validation": 360, "test": 359},
    "ab" * 32,
    "configs.digits:load",
    ("features: float32 (64)", "target: int64 ()"),
)
TRAINED = TrainedModel(
    Path("model.keras"),
    {
        "accuracy": tuple(1 - 0.5 / n for n in range(1, 31)),
        "loss": tuple(1.8 / n for n in range(1, 31)),
        "val_accuracy": tuple(1 - 0.6 / n for n in range(1, 31)),
        "val_loss": tuple(1.2 / n + 0.1 for n in range(1, 31)),
    },
    4810,
    28,
)


def config(**changes: Any) -> Config:
    return Config.model_validate(
        {"name": "digits", "data": {"load": "configs.digits:load"}, "model": {"build": "configs.digits:build"}}
        | changes
    )


def digits(n_rows: int = 359, n_classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Return targets int64 (n,) and probabilities float32 (n, k) that are right for about nine rows in ten."""
    rng = np.random.default_rng(0)
    target = rng.integers(0, n_classes, n_rows)
    scores = rng.normal(size=(n_rows, n_classes))
    scores[np.arange(n_rows), target] += 4
    shares = np.exp(scores)
    return target, (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)


def read(target: np.ndarray, served: np.ndarray) -> Scored:
    """Return answers that are read by themselves."""
    return Scored(target, served, undeclared(Gates(), target, served))


def build(
    folder: Path,
    target: Mapping[str, np.ndarray],
    served: Mapping[str, np.ndarray],
    gates: Sequence[GateResult],
    champion: bool = False,
) -> ValidationReport:
    """Return a report of real files: what was served is one rounding away from what the model answers in process."""
    in_process = {k: np.nextafter(v, np.float32(0)) if v.dtype.kind == "f" else v for k, v in served.items()}
    save_arrays(folder / "requests.npz", {"pixels": np.zeros((3, 64), np.float32)})
    save_arrays(folder / "reference.npz", in_process)
    save_arrays(folder / "answers.npz", served)
    save_rows(folder / "targets.npz", Rows({}, target))
    (folder / "server.log").write_text("\n".join(f"line {n} of the log" for n in range(1, 101)))
    rng = np.random.default_rng(1)
    samples = {"candidate": rng.gamma(9, 0.1, 200) + 0.5, "champion": rng.gamma(9, 0.12, 200) + 0.6}
    save_arrays(folder / "latency.npz", samples if champion else {"candidate": samples["candidate"]})
    signature = Signature((PIXELS,), (CLASSES,))
    answers = ServedAnswers(
        ServerFacts("docker", "", "tensorflow/serving:2.19.1", "sha256:0f0f", "2.19.1", 1.25, folder / "server.log"),
        signature,
        folder / "answers.npz",
        len(next(iter(served.values()))),
        52_957.3,
        probes=(
            Probe("an empty batch", True, 200, True, '{"predictions": []}'),
            Probe("wrong dtype", False, 400, True, '{"error": "Failed to process element: 0"}'),
            Probe("a body that is no JSON", False, 0, True, ""),
        ),
        latency=ServedLatency(
            folder / "latency.npz", {"candidate": 712.4, "champion": 640.1} if champion else {"candidate": 712.4},
            311, 14.2,
        ),
        champion=ServedChampion(
            Signature((PIXELS,), (replace(CLASSES, shape=(None, 9)), TensorSpec("digit", "int64", (None,)))), None
        )
        if champion
        else None,
    )  # fmt: skip
    return ValidationReport(
        Candidate(
            "digits", 3, folder / "candidates/digits/3", "c9" * 32, signature, 77_355,
            folder / "requests.npz", folder / "reference.npz", folder / "targets.npz",
        ),
        GRAPH,
        answers,
        tuple(gates),
        Champion(2, folder / "models/digits/2", "d1" * 32, GRAPH) if champion else None,
    )  # fmt: skip


def classification(folder: Path) -> ValidationReport:
    """Return a rejected classifier beside a champion, with everything that gates leave behind."""
    target, served = digits()
    worst = {
        "output": "probabilities", "row": 17, "element": [3], "served": 0.97123456, "in_process": 0.97123462,
        "difference": 6e-8, "inputs": {"pixels": [float(n % 17) for n in range(64)]},
    }  # fmt: skip
    slices = [
        {"slice": "sex=male", "rows": 142, "judged": True, "passed": True,
         "metrics": {"accuracy": 0.9587, "log_loss": 0.1312}, "champion": {"accuracy": 0.9412, "log_loss": 0.1401}},
        {"slice": "sex=female", "rows": 131, "judged": True, "passed": False,
         "reason": "accuracy is 0.8911, which is 0.05 worse than the champion's",
         "metrics": {"accuracy": 0.8911, "log_loss": 0.3342}, "champion": {"accuracy": 0.9402, "log_loss": 0.1377}},
        {"slice": "sex=unknown", "rows": 12, "judged": False, "passed": True,
         "metrics": {"accuracy": 0.75}, "champion": {}},
    ]  # fmt: skip
    gates = [
        GateResult("safety", True, "no operation reaches outside the graph", {"graph_mb": 0.06}, {"graph_mb": "MB"},
                   {"graph_mb": "at most 256 MB"}),
        GateResult("size", True, "0.0774 MB, 4,810 weights", {"mb": 0.077355, "parameters": 4810}, {"mb": "MB"},
                   {}, {"mb": 0.0712, "parameters": 4240}),
        GateResult("contract", True, "all 2 inputs and outputs are served as exported", {"differences": 0}),
        GateResult("parity", True, "largest difference 6e-08 over 359 rows (at most 1e-05 + 1e-05 x value)",
                   {"max_abs_difference": 6e-8, "rows": 359, "rows_differing": 0},
                   bounds={"max_abs_difference": "at most 1e-05 + 1e-05 x value"}, evidence={"worst": [worst]}),
        GateResult("quality", False, "accuracy 0.9248 (at least 0.95), worse than the champion's 0.961",
                   {"accuracy": 0.9248, "log_loss": 0.2817}, {}, {"accuracy": "at least 0.95"},
                   {"accuracy": 0.961, "log_loss": 0.13}, {"slices": slices}),
        GateResult("latency", True, "p95 1.93 ms, 712 requests/s", {"p50_ms": 1.36, "p95_ms": 1.93},
                   {"p50_ms": "ms", "p95_ms": "ms"}, {"p95_ms": "at most 20 ms"}, {"p50_ms": 1.63, "p95_ms": 2.4}),
        GateResult("robustness", True, "14 malformed and extreme requests answered as they should",
                   evidence={"failed": ["a body that is no JSON"]}),
    ]  # fmt: skip
    return build(folder, {"target": target}, {"probabilities": served}, gates, champion=True)


def regression(folder: Path) -> ValidationReport:
    rng = np.random.default_rng(2)
    target = rng.normal(100, 20, (400, 1)).astype(np.float32)
    served = target + rng.normal(0, 3, (400, 1)).astype(np.float32)
    quality = GateResult("quality", True, "rmse 3.01 (at most 5)", {"rmse": 3.01}, {}, {"rmse": "at most 5"})
    return build(folder, {"price": target}, {"price": served}, [quality])


def page(report: ValidationReport, settings: Config | None = None, **facts: str) -> str:
    return render_page(settings or config(), SPLITS, TRAINED, report, facts)


def bare_page(report: ValidationReport, settings: Config | None = None) -> str:
    """Return the page of a model that was trained elsewhere, as it is quicker to draw."""
    bare = replace(report, served=report.served and replace(report.served, latency=None))
    return render_page(settings or config(), SPLITS, replace(TRAINED, history={}), bare, {})


@pytest.fixture(scope="module")
def classified(tmp_path_factory: pytest.TempPathFactory) -> tuple[ValidationReport, str]:
    """Return the classifier's report and its page, which tests only read."""
    report = classification(tmp_path_factory.mktemp("classified"))
    return report, page(report, git_commit="0123abc", run="https://mlflow.example/#/runs/1")


class Outline(HTMLParser):
    """What a browser makes of a page: elements with their attributes, and the text of each section."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.titles: list[str] = []
        self.sections: dict[str, str] = {"": ""}
        self._here, self._open = "", ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = tag

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open == "title":
            self.titles.append(data)
        elif self._open == "h2":
            self._here = data
            self.sections[data] = ""
        elif self._open != "style":
            self.sections[self._here] += f"{data} "

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def test_the_verdict_and_its_reason_come_first(classified: tuple[ValidationReport, str]) -> None:
    """Above every section stand the verdict in words, the model, its version and the failed gate's summary."""
    report, html = classified
    head = Outline(html).sections[""]
    assert re.search(r"Rejected\s+digits version 3", head)
    assert "1 of 7 gates failed. quality: accuracy 0.9248 (at least 0.95), worse than the champion's 0.961" in head
    passed = Outline(page(replace(report, gates=report.gates[:4]))).sections[""]
    assert re.search(r"Passed\s+digits version 3", passed)
    assert "All 4 gates passed" in passed


def test_a_person_who_must_decide_is_told_why(classified: tuple[ValidationReport, str]) -> None:
    """A report that passed but needs a person says so and why beside the verdict, once for several servers."""
    undecided = GateResult("quality", True, "accuracy 0.9", {"rows_seen": 51}, needs_person="<it has seen the rows>")
    report = replace(classified[0], gates=(undecided, replace(undecided, name="quality.2")), new_rows=1234)
    outline = Outline(page(report))
    assert "A person must decide: <it has seen the rows>." in outline.sections[""]
    data = " ".join(outline.sections["Data"].split())
    assert "new since the champion 1,234" in data
    assert "champion has seen 51" in data


def test_labels_and_rows_that_splits_share(classified: tuple[ValidationReport, str]) -> None:
    """The data section has the share of each label in each split, and how many rows several splits share."""
    shares = {"species": {"<b>": {"train": 0.25, "validation": 0.5, "test": 0.125}}}
    report = replace(classified[0], shared_rows=3)
    html = render_page(config(), replace(SPLITS, shares=shares), TRAINED, report, {})
    data = " ".join(Outline(html).sections["Data"].split())
    assert "species <b> 25.0% 50.0% 12.5%" in data
    assert "different rows in several splits 3" in data


def test_rounded_numbers_are_said(classified: tuple[ValidationReport, str]) -> None:
    """What a cast changes most is among what the candidate is made of; where nothing changes, there is no such line."""
    rounded = {"input 'x'": "float64 to float32, by at most 64 (1.5 to <b>)"}
    html = render_page(config(), SPLITS, replace(TRAINED, rounded=rounded), classified[0], {})
    assert "input &#39;x&#39; from float64 to float32, by at most 64 (1.5 to &lt;b&gt;)" in html
    assert "rounded" not in render_page(config(), SPLITS, TRAINED, classified[0], {})


def test_slices_are_shown_like_with_like(classified: tuple[ValidationReport, str]) -> None:
    """Where rows were left out beside the champion, a slice shows how many were compared, and both over those."""
    part = {
        "slice": "a=1", "rows": 100, "unseen_rows": 40, "judged": True, "passed": True, "reason": "",
        "metrics": {"accuracy": 0.9}, "compared": {"accuracy": 0.8}, "champion": {"accuracy": 0.7},
    }  # fmt: skip
    report = replace(classified[0], gates=(GateResult("quality", True, "", evidence={"slices": [part]}),))
    shown = " ".join(Outline(page(report)).sections["Slices"].split())
    assert "rows rows compared accuracy accuracy, compared accuracy, champion" in shown
    assert "100 40 0.9 0.8 0.7" in shown


def test_no_gate_is_no_approval(classified: tuple[ValidationReport, str]) -> None:
    """A report without gates reads Rejected and says why."""
    head = Outline(page(replace(classified[0], gates=()))).sections[""]
    assert "Rejected" in head
    assert "No gate judged this version, so it is not approved." in head


def test_sections_of_a_classifier_stand_in_the_order_of_a_review(classified: tuple[ValidationReport, str]) -> None:
    """A classifier with a champion has every section, in order, and the numbers that belong there."""
    outline = Outline(classified[1])
    assert [name for name in outline.sections if name] == [
        "Gates", "Data", "Training", "Answers", "Latency", "Slices", "Worst rows", "Robustness", "Signature", "Server",
        "Provenance",
    ]  # fmt: skip
    expected = {
        "Gates": ["at least 0.95", "0.961", "1.93 ms", "at most 20 ms", "2.4 ms"],
        "Data": ["rows 1,078 360 359"],
        "Training": ["val_loss is 0.1429 at epoch 28 of 30"],
        "Answers": ["Confusion matrix of probabilities", "Calibration", "Parity of probabilities", "5.96e-08"],
        "Latency": ["712.4", "640.1", "champion"],
        "Slices": ["sex=female", "FAIL", "0.8911", "0.9402", "too few rows", "0.05 worse than"],
        "Worst rows": ["0.97123456", "0.97123462", "pixels: 0, 1, 2", "(64 values)"],
        "Robustness": ["wrong dtype", "pass", "400", "a body that is no JSON FAIL", "no answer"],
        "Signature": ["float32 (?, 10)", "float32 (?, 9)", "DIFFERENT", "output digit"],
        "Server": ["tensorflow/serving:2.19.1", "sha256:0f0f", "1.25 s", "line 61 of the log", "line 100 of the log"],
        "Provenance": ["c9" * 32, "ab" * 32, "1,078 train", "configs.digits:load", "0123abc", "max_graph_mb: 256.0"],
    }
    for section, words in expected.items():
        for word in words:
            assert word in outline.sections[section], (section, word)
    assert "line 60 of the log" not in outline.sections["Server"]
    assert ("a", {"href": "https://mlflow.example/#/runs/1", "rel": "noreferrer"}) in outline.elements


def test_the_confusion_sentence_counts_what_was_served(classified: tuple[ValidationReport, str]) -> None:
    """The picture's own sentence has the share of right rows, as computed from the answers."""
    target, served = digits()
    right = int((served.argmax(axis=1) == target).sum())
    titles = Outline(classified[1]).titles
    assert any(f"{right} of 359 rows ({right / 359:.1%})" in title for title in titles)


def test_regression_shows_residuals_and_no_classes(tmp_path: Path) -> None:
    """Numbers as targets give a residual plot with its root mean square, no confusion matrix and no calibration."""
    report = regression(tmp_path)
    outline = Outline(page(report))
    answers = outline.sections["Answers"]
    assert re.search(r"root mean square (2\.9|3\.0|3\.1)", answers)
    assert "Confusion" not in answers
    assert "Calibration" not in answers
    assert "champion" not in outline.sections["Gates"]
    assert "no other version was live" in outline.sections[""]


def test_two_outputs_one_of_text(tmp_path: Path) -> None:
    """The configured output is the judged one, and an output of text has no picture."""
    target, served = digits()
    names = np.array(["zero"] * len(target))
    report = build(
        tmp_path, {"scores": target, "name": names}, {"scores": served, "name": names}, [GateResult("parity", True, "")]
    )
    several = config(gates={"metric_output": "scores"})
    assert "Confusion matrix of scores" in bare_page(report, several)
    assert "Parity of scores" in bare_page(report, several)
    assert "Parity of name" not in bare_page(report, several)
    text = config(gates={"metric_output": "name"})
    assert "Confusion" not in bare_page(report, text)
    unnamed = bare_page(report)  # no output is named: nothing to judge, nothing to draw of it, no error
    assert "Confusion" not in unnamed
    assert "Parity of scores" in unnamed


def test_an_output_keeps_the_name_that_keras_gave_its_target(tmp_path: Path) -> None:
    """With several targets the one of Keras' name belongs to the output that is served under another."""
    target, served = digits()
    report = build(
        tmp_path, {"scores": target, "other": target}, {"probabilities": served}, [GateResult("parity", True, "")]
    )
    assert "Confusion" in bare_page(report, config(export={"outputs": {"probabilities": "scores"}}))
    assert "Confusion" not in bare_page(report)


def test_a_candidate_that_no_server_loaded_still_has_a_page(tmp_path: Path) -> None:
    """Without served answers the sections that need them are left out, and the rest stands."""
    refused = GateResult("safety", False, "ReadFile in node 'x' reaches outside the graph", {"operations": 1})
    report = replace(classification(tmp_path), served=None, gates=(refused,))
    outline = Outline(page(report))
    assert [name for name in outline.sections if name] == ["Gates", "Data", "Training", "Signature", "Provenance"]
    assert "not loaded by any server" in outline.sections[""]
    assert "ReadFile in node 'x'" in outline.sections[""]
    assert "float32 (?, 64)" in outline.sections["Signature"]


def test_what_comes_from_outside_stays_text(tmp_path: Path) -> None:
    """A script in a name, value, log, summary, fact or setting is shown and never becomes an element."""
    report = classification(tmp_path)
    assert report.served is not None
    (tmp_path / "server.log").write_text(HOSTILE)
    save_arrays(tmp_path / "answers.npz", {HOSTILE: digits()[1]})
    save_arrays(tmp_path / "reference.npz", {HOSTILE: digits()[1]})
    worst = [{"output": HOSTILE, "row": 1, "served": HOSTILE, "inputs": {HOSTILE: HOSTILE}}]
    slices = [{"slice": HOSTILE, "rows": 40, "judged": True, "passed": True, "metrics": {HOSTILE: 1.0}}]
    hostile = replace(
        report,
        gates=(
            GateResult("parity", False, HOSTILE, {HOSTILE: 1}, {HOSTILE: HOSTILE}, {HOSTILE: HOSTILE}, {HOSTILE: 2},
                       {"worst": worst}),
            GateResult("quality", True, HOSTILE, evidence={"slices": slices}),
        ),
        served=replace(report.served, probes=(Probe(HOSTILE, False, 400, True, HOSTILE),)),
    )  # fmt: skip
    settings = config(data={"load": "configs.digits:load", "params": {"x": HOSTILE}})
    trained = replace(TRAINED, history={HOSTILE: (1.0, 0.5), "$\\frac$": (1.0, 2.0)})
    splits = replace(SPLITS, features=(HOSTILE,), source=HOSTILE)
    html = render_page(settings, splits, trained, hostile, {HOSTILE: HOSTILE, "link": f"https://x.example/{HOSTILE}"})
    outline = Outline(html)
    assert outline.count("script") == 0
    assert "<script" not in html
    for section in ("", "Gates", "Training", "Answers", "Slices", "Worst rows", "Robustness", "Server", "Provenance"):
        assert HOSTILE in outline.sections[section], section
    assert not [attrs for _, attrs in outline.elements for name in attrs if name.startswith("on")]


def test_passwords_in_addresses_are_not_passed_on(tmp_path: Path) -> None:
    """The password of the tracking database is hidden, its user and host are not."""
    settings = config(tracking={"uri": "postgresql://me:s3cret@db.example/mlflow"})
    html = page(regression(tmp_path), settings, tracking="https://me:s3cret@mlflow.example")
    assert "s3cret" not in html
    assert "postgresql://***@db.example/mlflow" in html


def test_terminal_colours_and_broken_names_do_no_harm(tmp_path: Path) -> None:
    """A log's colours are taken out, and a file name that is no UTF-8 does not keep the page from being written."""
    report = regression(tmp_path)
    (tmp_path / "server.log").write_bytes(b"\x1b[31mred\x1b[0m \xff\x00 end\n")
    strange = replace(report, candidate=replace(report.candidate, version_dir=Path("/models/\udcff/3")))
    html = bare_page(strange)
    assert "red \ufffd end" in html
    assert "\x1b" not in html
    assert "/models/?/3" in html.encode("utf-8").decode()


def test_the_page_needs_nothing_from_outside(classified: tuple[ValidationReport, str]) -> None:
    """No element loads anything, every id is there once, and references lead to ids of the page or into the text."""
    html = classified[1].replace("https://mlflow.example/#/runs/1", "#latency-title")  # a link that was asked for
    outline = Outline(html)
    assert {"script", "link", "iframe", "img", "object"} & {tag for tag, _ in outline.elements} == set()
    references = [v or "" for _, attrs in outline.elements for k, v in attrs.items() if k.endswith(("href", "src"))]
    ids = Counter(attrs["id"] for _, attrs in outline.elements if "id" in attrs)
    assert references
    assert all(ref.startswith("data:image/png;base64,") or ref.removeprefix("#") in ids for ref in references)
    assert set(re.findall(r"url\(#([^)]+)\)", html)) <= set(ids)
    assert set(ids.values()) == {1}
    assert "http" not in re.sub(r"http-equiv|\bhttps?\b(?!:)", "", html)
    assert len(html) < 1_000_000


def test_the_same_rehearsal_gives_the_same_page(classified: tuple[ValidationReport, str]) -> None:
    """Rendering twice gives the same bytes: a page can be compared and cached."""
    report, html = classified
    assert page(report, git_commit="0123abc", run="https://mlflow.example/#/runs/1") == html


def test_the_page_can_be_read_without_seeing_it(classified: tuple[ValidationReport, str]) -> None:
    """One h1, no skipped level, a language, and on every picture a sentence with a number."""
    html = classified[1]
    outline = Outline(html)
    assert ("html", {"lang": "en"}) in outline.elements
    levels = [int(tag[1]) for tag, _ in outline.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip([0, *levels], levels, strict=False))
    titles = dict(re.findall(r'<title id="([^"]+)">([^<]+)</title>', html))
    pictures = [attrs for tag, attrs in outline.elements if tag == "svg"]
    assert len(pictures) == 6  # accuracy, loss, confusion, calibration, parity, latency
    for attrs in pictures:
        assert attrs["role"] == "img"
        sentence = titles[attrs["aria-labelledby"] or ""]
        assert re.search(r"\d.*\.$", sentence), sentence


def test_pictures_take_the_colour_of_the_page(classified: tuple[ValidationReport, str]) -> None:
    """Text and axes are drawn in currentColor, so that they can be read on a dark page too."""
    html = classified[1]
    svgs = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert svgs
    for svg in svgs:
        assert "currentColor" in svg
        fills = re.findall(r"<text style=\"([^\"]*)\"", svg)
        assert fills
        assert all("fill: currentColor" in style and "font-family" not in style for style in fills)
        assert not re.search(r"(fill|stroke): (#000000|#ffffff|black|white)", svg)


def test_many_rows_and_classes_keep_the_page_small(tmp_path: Path) -> None:
    """Fifty thousand rows become a bitmap, and more than 30 classes no confusion matrix."""
    target, served = digits(50_000, 30)
    report = build(tmp_path, {"target": target}, {"probabilities": served}, [GateResult("parity", True, "")])
    html = bare_page(report)
    assert "Confusion" in html
    assert html.count("<use") < 1000  # fifty thousand dots are one bitmap, not shapes
    assert len(html) < 500_000
    target, served = digits(500, 31)
    report = build(tmp_path, {"target": target}, {"probabilities": served}, [GateResult("parity", True, "")])
    html = bare_page(report)
    assert "Confusion" not in html
    assert "Calibration" in html


@pytest.mark.parametrize(
    ("target", "served"),
    [
        (np.zeros((5, 4, 4), np.float32), np.zeros((5, 4, 4), np.float32)),
        (np.zeros((5, 3), np.int64), np.zeros((5, 3), np.float32)),
        (np.zeros(5, np.int64), np.zeros((5, 3, 2), np.float32)),
        (np.full(5, 7), np.full(5, 3.5, np.float32)),
        (np.array([0, 1, 1]), np.full(3, np.nan, np.float32)),
        (np.array([1.0, 2.0], np.float32), np.full(2, np.inf, np.float32)),
        (np.array(["a", "b"]), np.array(["a", "b"])),
        (np.array([0, 1]), np.array([[0.5, 0.5]], np.float32)),
        (np.array([True, False]), np.array([[0.9], [0.1]], np.float32)),
    ],
)
def test_odd_answers_leave_a_page(tmp_path: Path, target: np.ndarray, served: np.ndarray) -> None:
    """Whatever shapes and values were served, a page comes out."""
    report = build(tmp_path, {"y": target}, {"y": served}, [GateResult("parity", False, "shapes differ")])
    assert "Rejected" in bare_page(report)
    draw_pictures(config(), TRAINED, report, tmp_path)


def test_odd_evidence_leaves_a_page(classified: tuple[ValidationReport, str]) -> None:
    """Evidence of another shape than expected is left out; an absent key shows as an empty cell."""
    report, _ = classified
    gates = (
        GateResult("quality", True, "", evidence={"slices": [{"slice": "a=1"}, "what", {}]}),
        GateResult("parity", True, "", {"x": float("nan")}, evidence={"worst": {"row": 1}}),
    )
    outline = Outline(page(replace(report, gates=gates)))
    assert "a=1" in outline.sections["Slices"]
    assert "Worst rows" not in outline.sections
    assert "not a number" in outline.sections["Gates"]


def test_confusion_counts_rows_by_target() -> None:
    """Rows of the matrix are targets, columns what was served, and a class that never occurs has its place."""
    scores = np.array([[0.9, 0.1, 0], [0.2, 0.8, 0], [0.3, 0.7, 0]], np.float32)
    found = confuse(read(np.array([0, 0, 1]), scores))
    assert found is not None
    assert found.classes == (0, 1, 2)
    assert found.counts.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]


def test_calibration_error_of_known_answers() -> None:
    """Answers of 0.85 that come true half of the time are 0.35 off; logits have no calibration."""
    found = calibrate(read(np.array([0, 1] * 50), np.full(100, 0.85, np.float32)))
    assert found is not None
    assert found.rows.tolist() == [100]
    assert found.error == pytest.approx(0.35, abs=1e-6)
    assert calibrate(read(np.array([0, 1]), np.array([[3.0, -1.0], [0.0, 2.0]], np.float32))) is None


def test_pictures_follow_the_gates_reading() -> None:
    """Logits have the calibration and confusion of their probabilities; several labels have a calibration only."""
    target, shares = digits()
    of_shares = read(target, shares)
    of_logits = Scored(target, np.log(shares.astype(np.float64)), Reading("multiclass", "logits"))
    ours, theirs = calibrate(of_logits), calibrate(of_shares)
    assert ours is not None
    assert theirs is not None
    assert ours.error == pytest.approx(theirs.error, abs=1e-6)
    found, expected = confuse(of_logits), confuse(of_shares)
    assert found is not None
    assert expected is not None
    assert found.counts.tolist() == expected.counts.tolist()
    labels = Scored(np.eye(10)[target], np.full((len(target), 10), 0.1), Reading("multilabel", "probabilities"))
    assert confuse(labels) is None
    calibration = calibrate(labels)
    assert calibration is not None
    assert (calibration.error, calibration.rows.sum()) == (pytest.approx(0, abs=1e-9), 10 * len(target))


def test_gate_rows_begin_with_the_summary(classified: tuple[ValidationReport, str]) -> None:
    """A gate's first row is what it says; figures with a bound or a champion's follow, with units and meaning."""
    rows = [row for row in gate_rows(classified[0]) if row.gate == "latency"]
    assert [(row.figure, row.value, row.bound, row.champion) for row in rows] == [
        ("", "p95 1.93 ms, 712 requests/s", "", ""),
        ("p50_ms", "1.36 ms", "", "1.63 ms"),
        ("p95_ms", "1.93 ms", "at most 20 ms", "2.4 ms"),
    ]
    assert rows[2].meaning == "95% of the requests took no longer"
    assert {row.verdict for row in rows} == {"pass"}
    assert {row.verdict for row in gate_rows(classified[0]) if row.gate == "quality"} == {"FAIL"}


def test_a_figure_stands_once(classified: tuple[ValidationReport, str]) -> None:
    """Where figures have rows of their own, a gate's first row is its note; the one that was missed is marked."""
    judged = GateResult(
        "quality", False, "accuracy 0.9248 (at least 0.95); read as multiclass logits", {"accuracy": 0.9248},
        bounds={"accuracy": "at least 0.95"}, evidence={"missed": ["accuracy"]}, note="read as multiclass logits",
    )  # fmt: skip
    report = replace(classified[0], gates=(judged, replace(judged, name="other", figures={}, bounds={})))
    rows = gate_rows(report)
    assert [(row.figure, row.value, row.missed) for row in rows if row.gate == "quality"] == [
        ("", "read as multiclass logits", False), ("accuracy", "0.9248", True),
    ]  # fmt: skip
    assert [row.value for row in rows if row.gate == "other"] == [judged.summary]
    section = Outline(page(report)).sections["Gates"]
    assert section.count("0.9248") == 2  # once a gate
    assert "missed" in section


def test_what_figures_mean_stands_beside_them(classified: tuple[ValidationReport, str]) -> None:
    """Names that nobody can guess are explained where they stand."""
    gates = (
        GateResult("safety", True, "", {"reaching_out": 0}, bounds={"reaching_out": "at most 0"}),
        GateResult("contract", True, "", {"breaking": 0}),
    )
    section = " ".join(Outline(page(replace(classified[0], gates=gates))).sections["Gates"].split())
    assert "reaching_out operations that reach outside the graph" in section
    assert "breaking changes that clients of the champion would notice" in section


def test_differences_from_the_champions_run(classified: tuple[ValidationReport, str]) -> None:
    """What differs is one line a name, what one run lacks is said, and a run that is not known or is equal is told."""
    ours = {"seed": "1", "training.epochs": "12", "new.setting": "", "data digest": "aa"}
    theirs = {"seed": "1", "training.epochs": "8", "old.setting": "3", "data digest": "bb"}
    table = differences_table(ours, theirs, 2)
    assert table.rows == (
        ("training.epochs", "12", "8"), ("new.setting", "empty", "not recorded"), ("data digest", "aa", "bb"),
        ("old.setting", "not recorded", "3"),
    )  # fmt: skip
    html = render_page(config(), SPLITS, TRAINED, classified[0], {}, None, table)
    assert "training.epochs 12 8" in " ".join(Outline(html).sections["Compared with the run of version 2"].split())
    assert table.note == ""
    assert differences_table(ours, {**theirs, "data digest": "aa"}, 2).note == "The data are the same in both runs."
    assert "the same in both runs" in differences_table(ours, ours, 2).note
    assert "is not in this MLflow" in differences_table(ours, None, 2).note


def test_markdown_table_has_a_line_a_gate(classified: tuple[ValidationReport, str]) -> None:
    """Each gate is one line of three cells, those that failed first, whatever its summary holds."""
    report, _ = classified
    odd = GateResult("odd", False, "a | b\nc <b> `x` [y](z)", {"n": 1}, bounds={"n": "at | most"}, champion={"n": 2})
    table = gate_table_markdown(replace(report, gates=(*report.gates, odd)))
    lines = table.splitlines()
    assert len(lines) == 2 + len(report.gates) + 1
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 4 for line in lines)
    assert lines[2:4] == [lines[2], r"| odd | FAIL | a \| b c &lt;b&gt; \`x\` \[y\](z) |"]
    assert "| quality | FAIL | accuracy 0.9248" in table
    assert "| FAIL |" not in table.partition("| pass |")[2]


def test_signature_difference_names_every_tensor() -> None:
    """Inputs and outputs of either side are listed once, empty where one side lacks it."""
    ours = Signature((PIXELS, TensorSpec("x", "string", (None,))), (CLASSES,))
    theirs = Signature((PIXELS,), (replace(CLASSES, dtype="float16"), TensorSpec("x", "int64", None)))
    assert signature_difference(ours, theirs) == [
        ("input pixels", "float32 (?, 64)", "float32 (?, 64)"),
        ("input x", "string (?)", ""),
        ("output probabilities", "float32 (?, 10)", "float16 (?, 10)"),
        ("output x", "", "int64 (any rank)"),
    ]
    assert signature_difference(ours, None)[0] == ("input pixels", "float32 (?, 64)", "")


def test_png_pictures(tmp_path: Path) -> None:
    """Every picture is also a PNG of some substance, and one that cannot be drawn leaves no file."""
    target, served = digits()
    numbers = np.linspace(0, 1, 50, dtype=np.float32)
    draw_curves(TRAINED.history, 28, tmp_path / "curves.png")
    draw_parity({"y": served, "z": numbers}, {"y": served, "z": numbers}, tmp_path / "parity.png")
    drawn = [
        draw_latency({"candidate": numbers, "champion": numbers * 100}, tmp_path / "latency.png"),
        draw_confusion(read(target, served), tmp_path / "confusion.png"),
        draw_residuals(numbers, numbers**2, tmp_path / "residuals.png"),
        draw_calibration(read(target, served), tmp_path / "calibration.png"),
    ]
    assert drawn == [True] * 4
    written = sorted(tmp_path.glob("*.png"))
    assert len(written) == 6
    for path in written:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 5000, path
    nothing = [
        draw_latency({"candidate": np.empty(0)}, tmp_path / "none.png"),
        draw_confusion(read(numbers, numbers), tmp_path / "none.png"),
        draw_residuals(numbers, numbers[:3], tmp_path / "none.png"),
        draw_calibration(read(target, served * 100), tmp_path / "none.png"),
    ]
    assert nothing == [False] * 4
    assert not (tmp_path / "none.png").exists()


def test_a_name_is_never_mathematics(tmp_path: Path) -> None:
    """A metric whose name is broken TeX or in a script without a glyph is drawn, without an error or a warning."""
    draw_curves({"$\\frac$": (1.0, 0.5), "精度": (0.5, 0.9)}, 2, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 5000


def test_all_pictures_of_a_rehearsal(tmp_path: Path) -> None:
    """One call writes the files that fit: a classifier's, a regression's, and only curves where nothing was served."""
    kinds = {
        "a": (classification, {"curves", "parity", "latency", "confusion", "calibration"}),
        "b": (regression, {"curves", "parity", "latency", "residuals"}),
        "c": (lambda folder: replace(regression(folder), served=None), {"curves"}),
    }
    for folder, (make, names) in kinds.items():
        (tmp_path / folder).mkdir()
        draw_pictures(config(), TRAINED, make(tmp_path / folder), tmp_path / folder)
        assert {path.stem for path in (tmp_path / folder).glob("*.png")} == names


def test_recorded_requests_are_on_the_page(tmp_path: Path) -> None:
    """The page lists flipped rows with both answers, slices, refusals, and values outside of the training rows."""
    flipped = {"request": 17, "row": 3, "slices": ["city=Oslo"], "candidate": {"y": [0.9]}, "champion": {"y": [0.1]},
               "inputs": {"city": "Oslo", "age": 41.5}}  # fmt: skip
    moved = ReplayedInput("age", 900, 0.31, 0.04, "0 to 99", 1, ({"request": 8, "row": 0, "value": 120.0},))
    whole, oslo = (ReplayedSlice(title, n, n, 40, (40, 40, n)) for title, n in (("", 900), ("city=Oslo", 300)))
    found = ServedReplay(
        "r.jsonl", "gRPC", 900, 900, {}, 1, 0, 0, 0, 0, {"y": "another side of 0.5"}, (whole, oslo), (flipped,),
        ({"request": 5, "refused by": "candidate", "words": "400: too <old>"},), (moved,), "the training rows",
    )  # fmt: skip
    target, served = digits()
    text = page(build(tmp_path, {"digit": target}, {"digit": served}, [judge_replay(Gates(), found)]))
    for words in ("city=Oslo", "13.3 %", "y: 0.9", "y: 0.1", "city: Oslo; age: 41.5", "400: too &lt;old&gt;", "0.31",
                  "120 (request 8, row 0)"):  # fmt: skip
        assert words in text

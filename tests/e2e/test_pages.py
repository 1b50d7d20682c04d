"""What a reviewer reads, in a real browser: the report, MLflow's pages and Prefect's, made by real runs.

With REHEARSAL_SCREENSHOTS=DIR the pictures of the pages stay there: docs/screenshots is made that way.
"""

from __future__ import annotations

import io
import json
import os
import re
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

BELOW_KB = 300
MLFLOW_SETTLED = """
localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
"""  # the chat panel that MLflow opens on the first visit hides a third of the page


def ask(url: str, body: object = None) -> Any:
    """Return what a server answers in JSON: to a POST of a body, or to a GET without one."""
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(
        urllib.request.Request(url, data, {"content-type": "application/json"}), timeout=30
    ) as answer:
        return json.loads(answer.read())


@dataclass(frozen=True)
class Run:
    """One run of the command line, as the servers know it."""

    mlflow: str
    prefect: str
    experiment: str
    run_id: str
    flow_run_id: str
    tags: dict[str, str]
    metrics: dict[str, float]
    directory: Path

    def artifact(self, name: str) -> bytes:
        """Download an artifact of the run."""
        query = urllib.parse.urlencode({"path": name, "run_uuid": self.run_id})
        with urllib.request.urlopen(f"{self.mlflow}/get-artifact?{query}", timeout=600) as answer:
            return bytes(answer.read())

    @property
    def report(self) -> str:
        """Return the address of the downloaded report."""
        path = self.directory / f"{self.run_id}.html"
        path.write_bytes(self.artifact("report.html"))
        return path.as_uri()

    @property
    def gates(self) -> dict[str, dict[str, Any]]:
        """Return every gate's judgement by its name."""
        return {gate["name"]: gate for gate in json.loads(self.artifact("report.json"))["gates"]}

    @property
    def url(self) -> str:
        return f"{self.mlflow}/#/experiments/{self.experiment}/runs/{self.run_id}"

    @property
    def flow_url(self) -> str:
        return f"{self.prefect}/runs/flow-run/{self.flow_run_id}"


@pytest.fixture(scope="module")
def runs(
    mlflow_server: str,
    prefect_env: dict[str, str],
    open_workspace: Callable[[Path], Any],
    tmp_path_factory: pytest.TempPathFactory,
    repository: Path,
) -> dict[str, Run]:
    """Rehearse four models: a first one, one beside it as champion, one that is bad, one with text and slices."""
    workspace = open_workspace(tmp_path_factory.mktemp("pages"))
    tracking = ("--set", f"tracking.uri={mlflow_server}")
    expected = {
        "first": (0, "digits", "training.epochs=8", "gates.metrics.accuracy=0.9"),
        "second": (0, "digits", "training.epochs=15", "gates.metrics.accuracy=0.9", "seed=1"),
        "rejected": (3, "digits", "training.epochs=2", "seed=1", "model.params.hidden=2"),
        "penguins": (0, "penguins", "gates.slices=[sex,island]", "gates.min_slice_rows=20", "gates.first_run=review"),
    }
    found = {}
    for name, (code, example, *settings) in expected.items():
        words = [word for setting in settings for word in ("--set", setting)]
        done = workspace.run(*tracking, *words, config=repository / "configs" / f"{example}.yaml")
        assert done.returncode == code, done.stdout + done.stderr
        found[name] = newest_run(mlflow_server, prefect_env["PREFECT_API_URL"], example, workspace.directory)
    return found


def newest_run(mlflow: str, prefect_api: str, experiment_name: str, directory: Path) -> Run:
    """Return the latest run in a workspace, from both servers."""
    api = f"{mlflow}/api/2.0/mlflow"
    experiment = ask(f"{api}/experiments/get-by-name?experiment_name={experiment_name}")["experiment"]["experiment_id"]
    query = {"experiment_ids": [experiment], "order_by": ["attributes.start_time DESC"], "max_results": 1}
    [run] = ask(f"{api}/runs/search", query)["runs"]
    flow_runs = ask(f"{prefect_api}/flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 10})
    ours = [run for run in flow_runs if f"work_dir={directory / 'work'}" in (run["parameters"].get("overrides") or ())]
    return Run(
        mlflow,
        prefect_api.removesuffix("/api"),
        experiment,
        run["info"]["run_id"],
        ours[0]["id"],
        {tag["key"]: tag["value"] for tag in run["data"]["tags"]},
        {metric["key"]: metric["value"] for metric in run["data"]["metrics"]},
        directory,
    )


@dataclass
class Visit:
    """A page, what it asked for, and what it complained of."""

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    @property
    def left_the_machine(self) -> list[str]:
        return [url for url in self.requests if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))]


@pytest.fixture
def visit(chromium: Any) -> Iterator[Callable[..., Visit]]:
    """Return a function that opens an address in a fresh profile."""
    opened = []

    def visiting(url: str, *, width: int = 1280, height: int = 1000, **options: Any) -> Visit:
        context = chromium.new_context(viewport={"width": width, "height": height}, **options)
        opened.append(context)
        context.add_init_script(MLFLOW_SETTLED if url.startswith("http") else "")
        found = Visit(context.new_page())
        found.page.set_default_timeout(120_000)
        found.page.on("request", lambda request: found.requests.append(request.url))
        found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
        found.page.on("console", lambda said: found.complaints.append(said.text) if said.type == "error" else None)
        found.page.goto(url)
        return found

    yield visiting
    for context in opened:
        context.close()


@pytest.fixture(scope="module")
def keep(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any, str], bytes]:
    """Return a function that keeps a picture of a page, taken when nothing on it moves any more."""
    directory = Path(os.environ.get("REHEARSAL_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    directory.mkdir(parents=True, exist_ok=True)

    def keeping(page: Any, name: str) -> bytes:
        taken = [b"", bytes(page.screenshot())]
        for _ in range(20):
            if taken[-1] == taken[-2]:
                break
            page.wait_for_timeout(400)
            taken.append(bytes(page.screenshot()))
        else:
            pytest.fail(f"{page.url} does not come to rest")
        (directory / f"{name}.png").write_bytes(taken[-1])
        assert len(taken[-1]) < BELOW_KB * 1000, f"{name}.png has {len(taken[-1])} bytes"
        return taken[-1]

    return keeping


def brightness(picture: bytes) -> float:
    """Return the mean of a picture's grey values, 0 to 255."""
    import numpy as np
    from PIL import Image

    return float(np.asarray(Image.open(io.BytesIO(picture)).convert("L")).mean())


def row_of(page: Any, first_cell: str) -> Any:
    """Return the line of a table that begins with a text."""
    cell = page.locator("th, td").filter(has_text=re.compile(rf"^\s*{re.escape(first_cell)}\s*$"))
    return page.locator("tr").filter(has=cell).first


def open_tab(page: Any, name: str) -> None:
    """Open a tab of Prefect's page of a run."""
    page.get_by_role("tablist").get_by_text(name, exact=True).click()


def judged(run: Run) -> list[str]:
    """Return the names of the gates that judged, as the run's metrics name them."""
    names = [key.split(".")[1] for key in run.metrics if key.startswith("gate.") and key.endswith(".passed")]
    assert {"contract", "parity", "quality", "latency", "robustness"} <= set(names)
    return names


# The report


def test_the_report_says_what_was_judged_and_how(
    runs: dict[str, Run], visit: Callable[..., Visit], keep: Callable[[Any, str], bytes]
) -> None:
    """The report shows the verdict, each gate's, the champion's figure beside the candidate's, and the digest."""
    from playwright.sync_api import expect

    run = runs["second"]
    page = visit(run.report, offline=True).page
    expect(page).to_have_title("Passed: digits version 2")
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile(r"Passed\s+digits version 2"))
    expect(page.get_by_text(f"All {len(judged(run))} gates passed.")).to_be_visible()
    for gate in judged(run):
        head = page.get_by_role("row").filter(has=page.get_by_role("rowheader", name=gate, exact=True)).first
        expect(head.get_by_role("cell").first).to_have_text("pass")
    figures = page.get_by_role("row").filter(has=page.get_by_role("rowheader", name="accuracy", exact=True))
    expect(figures).to_contain_text(f"{run.metrics['gate.quality.accuracy']:.4g}")
    expect(figures.locator(".champion")).to_have_text(f"{run.gates['quality']['champion']['accuracy']:.4g}")
    expect(page.get_by_text(run.tags["digest"], exact=True)).to_be_visible()
    expect(page.get_by_text(runs["first"].tags["digest"])).to_be_visible()
    for heading in ("Gates", "Training", "Answers", "Latency", "Robustness", "Signature", "Server", "Provenance"):
        expect(page.get_by_role("heading", name=heading, exact=True)).to_be_visible()
    for case in ("malformed JSON", "extreme values"):
        expect(row_of(page, case)).to_contain_text("pass")
    for version in ("candidate", "champion"):
        expect(row_of(page, version)).to_be_visible()
    keep(page, "report")


def test_the_report_shows_slices_and_the_worst_rows(runs: dict[str, Run], visit: Callable[..., Visit]) -> None:
    """A report of text and numbers shows each slice with its verdict, and the worst rows with their inputs."""
    from playwright.sync_api import expect

    page = visit(runs["penguins"].report, offline=True).page
    expect(page.get_by_role("heading", name="Slices", exact=True)).to_be_visible()
    expect(row_of(page, "sex=male")).to_contain_text("pass")
    expect(row_of(page, "island=Torgersen")).to_contain_text("too few rows")
    expect(page.get_by_role("heading", name="Worst rows", exact=True)).to_be_visible()
    expect(row_of(page, "species")).to_contain_text(re.compile(r"island: \w+.*sex: (fe)?male"))


def test_the_report_of_a_rejected_run_says_why(
    runs: dict[str, Run], visit: Callable[..., Visit], keep: Callable[[Any, str], bytes]
) -> None:
    """The report of a rejected run begins with the word, the gate, the figure and the bound; the gate says FAIL."""
    from playwright.sync_api import expect

    run = runs["rejected"]
    page = visit(run.report, offline=True, width=360, height=780, device_scale_factor=2, color_scheme="dark").page
    expect(page).to_have_title("Rejected: digits version 3")
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile(r"Rejected\s+digits version 3"))
    why = f"1 of {len(judged(run))} gates failed. quality: accuracy {run.metrics['gate.quality.accuracy']:.4g}"
    expect(page.locator("header")).to_contain_text(why)
    expect(page.locator("header")).to_contain_text("at least 0.95")
    head = page.get_by_role("row").filter(has=page.get_by_role("rowheader", name="quality", exact=True)).first
    expect(head.get_by_role("cell").first).to_have_text("FAIL")
    expect(page.get_by_text("FAIL", exact=True)).to_have_count(1)
    keep(page, "report-phone-dark")


@pytest.mark.parametrize("name", ["first", "second", "rejected", "penguins"])
def test_the_report_needs_nothing_but_a_browser(
    runs: dict[str, Run], visit: Callable[..., Visit], name: str, tmp_path: Path
) -> None:
    """The report asks for nothing but itself and has no error in the console; a picture from elsewhere would show."""
    address = runs[name].report
    seen = visit(address)
    for part in seen.page.locator("details").all():
        part.locator("summary").click()
    seen.page.mouse.wheel(0, 100_000)
    assert (seen.requests, seen.complaints) == ([address], [])
    doctored = tmp_path / "doctored.html"
    doctored.write_bytes(
        runs[name].artifact("report.html").replace(b"</main>", b'<img src="http://127.0.0.1:9/"></main>')
    )
    assert visit(doctored.as_uri()).complaints


@pytest.mark.parametrize("name", ["first", "second", "rejected", "penguins"])
def test_the_report_fits_a_phone(runs: dict[str, Run], visit: Callable[..., Visit], name: str) -> None:
    """At 360 pixels the page cannot be scrolled sideways, and the gates need no scrolling of their own."""
    page = visit(runs[name].report, offline=True, width=360, height=640, is_mobile=True, has_touch=True).page
    for part in page.locator("details").all():
        part.locator("summary").click()
    page.evaluate("window.scrollTo(1000, 0)")
    assert page.evaluate("[window.scrollX, document.documentElement.scrollWidth, window.innerWidth]") == [0, 360, 360]
    gates = page.get_by_role("region", name="Gates")
    assert gates.evaluate("part => part.scrollWidth - part.clientWidth") == 0


def test_the_report_has_a_dark_mode(runs: dict[str, Run], visit: Callable[..., Visit]) -> None:
    """Whoever prefers dark pages gets a dark one, pictures included, and the others a light one."""
    light, dark = (visit(runs["second"].report, offline=True, color_scheme=scheme).page for scheme in ("light", "dark"))
    assert brightness(light.screenshot(full_page=True)) > 200
    assert brightness(dark.screenshot(full_page=True)) < 60
    for nth in range(light.locator("figure svg").count()):
        assert brightness(light.locator("figure svg").nth(nth).screenshot()) > 180
        assert brightness(dark.locator("figure svg").nth(nth).screenshot()) < 100


# MLflow


def test_mlflow_shows_the_run(
    runs: dict[str, Run], visit: Callable[..., Visit], keep: Callable[[Any, str], bytes]
) -> None:
    """MLflow's page of the run shows verdict, gate table, both commands, tags and figures, without the internet."""
    from playwright.sync_api import expect

    run = runs["second"]
    seen = visit(f"{run.url}?workflowType=machine_learning", width=1500, height=1180)
    page = seen.page
    page.get_by_text("Show more", exact=True).click()
    described(page, run)
    for name in ("validation_status", "serving_version", "promotion"):
        expect(page.get_by_text(re.compile(rf"^{name}\s*:\s*{run.tags[name]}$")).first).to_be_visible()
    expect(page.get_by_text(run.tags["digest"]).first).to_be_visible()
    keep(page, "mlflow-run")
    page.get_by_placeholder("Search metrics").fill("gate.quality.accuracy")
    expect(page.get_by_role("link", name="gate.quality.accuracy", exact=True)).to_be_visible()
    expect(page.get_by_text(str(run.metrics["gate.quality.accuracy"]), exact=True).first).to_be_visible()
    assert not seen.left_the_machine


def described(page: Any, run: Run) -> None:
    """Assert that a page of MLflow shows what became of the version, a line a gate, and the command to try it out."""
    from playwright.sync_api import expect

    expect(page.get_by_text(f"digits version {run.tags['serving_version']} went live on ")).to_be_visible()
    for gate in judged(run):
        expect(row_of(page, gate)).to_contain_text("pass")
    bound = run.gates["quality"]["champion"]["accuracy"]
    expect(row_of(page, "quality")).to_contain_text(f"champion {bound:.4g}")
    command = rf"flows\.try_out .*--version {run.tags['serving_version']}"
    expect(page.locator("code").filter(has_text=re.compile(command))).to_be_visible()


def test_the_address_on_the_screen_opens_the_menu_for_models(runs: dict[str, Run], visit: Callable[..., Visit]) -> None:
    """The address of the run that Prefect links opens MLflow where its menu leads to the model registry."""
    from playwright.sync_api import expect

    run = runs["second"]
    page = visit(run.flow_url).page
    open_tab(page, "Artifacts")
    page.get_by_text("digits-mlflow", exact=True).click()
    address = page.get_by_role("link", name="MLflow run", exact=True).get_attribute("href")
    assert address is not None
    assert address.startswith(run.url)
    page = visit(address).page
    expect(page.get_by_role("link", name="Model registry")).to_be_visible()
    expect(page.get_by_role("heading", name="digits version 2")).to_be_visible()


def test_mlflow_shows_the_report(runs: dict[str, Run], visit: Callable[..., Visit]) -> None:
    """The run's artifacts list the report, and MLflow shows it in place, styled, with its pictures."""
    from playwright.sync_api import expect

    page = visit(f"{runs['second'].url}/artifacts").page
    page.get_by_text("report.html", exact=True).first.click()
    report = page.frame_locator("iframe")
    expect(report.get_by_role("heading", level=1)).to_have_text(re.compile(r"Passed\s+digits version 2"))
    expect(report.locator("figure svg").first).to_be_visible()
    assert report.locator(".verdict").evaluate("part => getComputedStyle(part).color") == "rgb(17, 99, 41)"


def test_mlflow_shows_the_version(
    runs: dict[str, Run], visit: Callable[..., Visit], keep: Callable[[Any, str], bytes]
) -> None:
    """MLflow's page of a version shows gate table, commands and alias; one that waits can be approved."""
    from playwright.sync_api import expect

    run = runs["second"]
    seen = visit(f"{run.mlflow}/#/models/digits/versions/2?workflowType=machine_learning", height=1100)
    described(seen.page, run)
    expect(seen.page.get_by_text(re.compile(r"^@\s*champion$")).first).to_be_visible()
    expect(seen.page.get_by_text(run.tags["digest"], exact=True)).to_be_visible()
    keep(seen.page, "mlflow-version")
    assert not seen.left_the_machine
    page = visit(f"{run.mlflow}/#/models/digits/versions/3").page
    expect(page.get_by_text("digits version 3 was rejected by the quality gate")).to_be_visible()
    expect(row_of(page, "quality")).to_contain_text("at least 0.95")
    expect(page.get_by_text(re.compile(r"^@\s*(challenger|champion)$"))).to_have_count(0)
    expect(page.locator("code").filter(has_text="flows.promote")).to_have_count(0)
    page = visit(f"{run.mlflow}/#/models/penguins/versions/1").page
    expect(page.get_by_text(re.compile(r"^@\s*challenger$")).first).to_be_visible()
    approve = page.locator("code").filter(has_text=re.compile(r"flows\.promote .*--version 1 --approve"))
    expect(approve).to_be_visible()


def test_a_reviewer_approves_by_clicks(
    runs: dict[str, Run], visit: Callable[..., Visit], open_workspace: Callable[[Path], Any], repository: Path
) -> None:
    """Who sees only MLflow's pages is led to the report and the tag, edits it by clicks, and finds the version live."""
    from playwright.sync_api import expect

    run = runs["penguins"]
    address = f"{run.mlflow}/#/models/penguins/versions/1?workflowType=machine_learning"
    page = visit(address, height=1400).page
    expect(page.get_by_text("penguins version 1 passed every gate and waits for your decision.")).to_be_visible()
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Open the report").click()
    report = opened.value.frame_locator("iframe")
    expect(report.locator(".decision")).to_contain_text("waits for your decision", timeout=60_000)
    line = page.locator("tr[data-row-key=review]")
    expect(line).to_contain_text("pending")
    line.get_by_test_id("editable-table-button-edit").click()
    line.get_by_role("textbox").fill("approved")
    line.get_by_role("button", name="Save").click()
    expect(line).to_contain_text("approved")
    page.get_by_label("tag name").fill("reviewed_by")
    page.get_by_label("tag value").fill("ann")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator("tr[data-row-key=reviewed_by]")).to_contain_text("ann")

    workspace = open_workspace(run.directory)
    tracking = ("--set", f"tracking.uri={run.mlflow}")
    done = workspace.run(*tracking, config=repository / "configs" / "penguins.yaml", flow="promote")
    assert done.returncode == 0, done.stdout + done.stderr
    assert workspace.versions("penguins") == [1]
    page = visit(address, height=1400).page
    expect(page.get_by_text("penguins version 1 went live on ")).to_be_visible()
    expect(page.get_by_text("Decided by: ann")).to_be_visible()
    expect(page.get_by_text("waits for your decision")).to_have_count(0)
    expect(page.locator("code").filter(has_text="--approve")).to_have_count(0)
    expect(page.get_by_text(re.compile(r"^@\s*champion$")).first).to_be_visible()
    assert "penguins version 1 went live on " in run.artifact("report.html").decode()


COMPARED = """top => {
  const names = document.querySelector('[role=grid]:has(a[title="Plot chart"])');
  const figures = [...names.parentElement.parentElement.querySelectorAll('[role=grid]')].find(part => part !== names);
  figures.scrollTop = top;
  const lines = {};
  for (const cell of names.firstElementChild.children) lines[cell.style.top] = [cell.innerText.trim()];
  const left = cell => parseFloat(cell.style.left);
  const values = [...figures.firstElementChild.children].sort((one, other) => left(one) - left(other));
  for (const cell of values) (lines[cell.style.top] ?? []).push(cell.innerText.trim());
  return [Object.values(lines), top + figures.clientHeight >= figures.scrollHeight];
}"""  # MLflow keeps only the lines in sight in the page, names and figures in grids of their own


def test_two_runs_compare_by_the_same_names(runs: dict[str, Run], visit: Callable[..., Visit]) -> None:
    """MLflow's comparison of two runs has one line for each metric, with a figure of both in it."""
    from playwright.sync_api import expect

    pair = [runs["second"], runs["rejected"]]
    assert pair[0].metrics.keys() == pair[1].metrics.keys()
    words = {"runs": json.dumps([run.run_id for run in pair]), "experiments": json.dumps([pair[0].experiment])}
    page = visit(f"{pair[0].mlflow}/#/compare-runs?{urllib.parse.urlencode(words)}").page
    expect(page.get_by_role("heading", name="Comparing 2 Runs")).to_be_visible()
    expect(page.get_by_role("link", name=min(pair[0].metrics), exact=True)).to_be_visible()
    shown: dict[str, list[str]] = {}
    top, end = 0, False
    while not end:
        page.evaluate(COMPARED, top)
        page.wait_for_timeout(150)
        lines, end = page.evaluate(COMPARED, top)
        shown |= {name: figures for name, *figures in lines if len(figures) == 2}
        top += 150
    assert shown.keys() == pair[0].metrics.keys()
    assert shown["gate.quality.accuracy"] == [f"{run.metrics['gate.quality.accuracy']:.3f}".rstrip("0") for run in pair]
    assert shown["gate.quality.passed"] == ["1", "0"]


# Prefect


def test_prefect_shows_a_promotion(
    runs: dict[str, Run], visit: Callable[..., Visit], keep: Callable[[Any, str], bytes]
) -> None:
    """Prefect's page of the run shows state Promoted and lists verdict, gates, MLflow link and both progress bars."""
    from playwright.sync_api import expect

    seen = visit(runs["second"].flow_url, height=1150)
    page = seen.page
    open_tab(page, "Artifacts")
    expect(page.get_by_text("Promoted", exact=True).first).to_be_visible()
    for key in ("verdict", "gates", "mlflow", "training", "validation"):
        expect(page.get_by_text(f"digits-{key}", exact=True)).to_be_visible()
    expect(page.locator("canvas").first).to_be_visible()
    keep(page, "prefect-run")
    open_tab(page, "Details")
    expect(page.get_by_text("version 2 is live", exact=True).first).to_be_visible()
    assert not seen.left_the_machine


def test_prefect_shows_a_rejection_with_its_reason(runs: dict[str, Run], visit: Callable[..., Visit]) -> None:
    """Prefect's page of the rejected run shows state Rejected; its message has gate, figure and bound."""
    from playwright.sync_api import expect

    run = runs["rejected"]
    page = visit(run.flow_url).page
    expect(page.get_by_text("Rejected", exact=True).first).to_be_visible()
    open_tab(page, "Details")
    reason = f"quality: accuracy {run.metrics['gate.quality.accuracy']:.4g} (at least 0.95"
    expect(page.get_by_text(reason).first).to_be_visible()


@pytest.mark.long
def test_prefects_artifacts_show_the_judgement(runs: dict[str, Run], visit: Callable[..., Visit]) -> None:
    """The verdict's page has the gate table and the digest, the table's a line a figure, and progress is complete."""
    from playwright.sync_api import expect

    run = runs["rejected"]
    page = visit(run.flow_url).page

    def show(key: str) -> None:
        page.goto(run.flow_url)
        open_tab(page, "Artifacts")
        page.get_by_text(f"digits-{key}", exact=True).click()
        page.wait_for_url("**/artifacts/**")

    show("verdict")
    expect(page.get_by_role("heading", name="digits version 3 rejected")).to_be_visible()
    for gate in judged(run):
        expect(row_of(page, gate)).to_contain_text("FAIL" if gate == "quality" else "pass")
    expect(page.get_by_text(run.tags["digest"])).to_be_visible()
    show("gates")
    figure = f"{run.metrics['gate.quality.accuracy']:.4g}"
    for text in ("FAIL", figure, "at least 0.95", f"{run.gates['quality']['champion']['accuracy']:.4g}"):
        expect(row_of(page, "accuracy")).to_contain_text(text)
    for key in ("training", "validation"):
        show(key)
        expect(page.get_by_text("Progress: 100%")).to_be_visible()

"""A real MLflow server behind a proxy that misbehaves from a chosen request on, at each stage that asks it.

Before anything is live a fault is one line of error, and the same call succeeds once it is over; from the rename on it
is a warning, the change stays live, and MLflow is told later. Nobody who changes production waits for MLflow meanwhile.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from configs.loading import load_config
from configs.schema import Config
from flows.commands import ENVIRONMENT, session
from tasks import waiting
from tasks.errors import PipelineError, TrackingError, TrackingRefused
from tasks.gates.judge import judge
from tasks.production.changes import examine, go_back, put_live
from tasks.production.turn import inform
from tasks.records import Backend, Candidate, Signature, TrackedRun, ValidationReport
from tasks.registry import connection
from tasks.registry.approvals import reviewed_versions
from tasks.registry.connection import check_experiment, check_tracking
from tasks.registry.runs import log_rehearsal
from tasks.savedmodel.safety import read_graph
from tasks.serving.rehearsal import Rehearsal
from tasks.serving.rehearse import rehearse
from tasks.store.lock import LOCK
from tasks.store.transaction import untold
from tests.e2e.conftest import running_mlflow
from tests.fault_proxy import FaultProxy
from tests.store_driver import Store

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:For backward compatibility, 'str' dtypes are included:DeprecationWarning"),
]
ANSWERED = ("500", "503", "401", "429 Retry-After: 86400", "reset", "cut", "html")  # at once, or never in full
STAGES = {  # the later ones follow the drawing of the report, which takes a second
    ("GET", "/experiments/get-by-name"): ANSWERED,
    ("POST", "/runs/create"): ANSWERED,
    ("POST", "/runs/log-batch"): ("500", "reset"),
    ("PUT", "/mlflow-artifacts/"): ("503", "401", "cut"),
    ("POST", "/registered-models/create"): ("reset", "html"),
    ("POST", "/model-versions/create"): ("429 Retry-After: 86400", "cut"),
    ("POST", "/registered-models/alias"): ("503", "cut"),
}
LATE = [("GET", "/experiments/get-by-name"), ("PUT", "/mlflow-artifacts/"), ("POST", "/model-versions/create")]
USUAL = [*LATE[:2], ("POST", "/registered-models/alias")]  # the others are slower proofs of the same
TELLING = (("GET", "/health"), ("POST", "/model-versions/set-tag"), ("POST", "/registered-models/alias"))
REVIEWS = (("GET", "/health"), ("GET", "/model-versions/search"))


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Iterator[str]:
    """Run an MLflow server; give its host and port."""
    with running_mlflow(tmp_path_factory.mktemp("mlflow"), mlflow_database) as address:
        yield address.removeprefix("http://")


@pytest.fixture(autouse=True)
def _as_in_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set what a command sets, but that MLflow's own client makes no request again."""
    for name, value in {**ENVIRONMENT, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def proxy(upstream: str) -> Iterator[FaultProxy]:
    """Return a proxy before it."""
    proxy = FaultProxy(upstream)
    yield proxy
    proxy.close()


@pytest.fixture
def seen(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """Return the lines that say who is waited for; with the first of them, a late server answers."""
    monkeypatch.setattr(waiting, "SILENCE_S", 0.05)
    lines: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if proxy.misbehaved.is_set():
                lines.append(record.getMessage())
                proxy.seen_enough.set()

    handler = Handler()
    waiting.log.addHandler(handler)
    caplog.set_level(logging.INFO, waiting.log.name)
    yield lines
    waiting.log.removeHandler(handler)


@pytest.fixture(scope="module")
def judged(
    rehearsed: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Callable[[], TrackedRun]]:
    """Return a function that gives a function that logs a judged model to an address."""
    made = rehearsed("two_by_two")
    gates = made.config.gates
    served = rehearse(Rehearsal(made.config.serving, made.candidate, Backend("embedded"), tmp_path_factory.mktemp("r")))
    graph = read_graph(made.candidate.version_dir)
    report = ValidationReport(made.candidate, graph, served, judge(gates, made.candidate, served))
    assert report.passed, report.failed

    def logging_to(uri: str, name: str) -> Callable[[], TrackedRun]:
        config = made.config.model_copy(
            update={"name": name, "tracking": made.config.tracking.model_copy(update={"uri": uri})}
        )
        renamed = dataclasses.replace(report, candidate=dataclasses.replace(report.candidate, name=name))
        return lambda: log_rehearsal(config, "--config cfg.yaml", made.splits, made.trained, renamed)

    return logging_to


def is_one_line(error: BaseException, address: str) -> None:
    """Assert that an error names who failed and what to do, in one line."""
    text = str(error)
    assert "\n" not in text
    assert f"MLflow at {address} must answer, got " in text or f"but {address} does not answer" in text, text
    assert "Traceback" not in text
    assert len(text) < 700, text
    assert any(remedy in text for remedy in ("set tracking.uri", "check ")), text


def aliases(client: Any, name: str) -> dict[str, Any]:
    """Return the aliases of a model that may not be there."""
    from mlflow.exceptions import MlflowException

    try:
        return dict(client.get_registered_model(name).aliases)
    except MlflowException as exc:
        assert exc.error_code == "RESOURCE_DOES_NOT_EXIST"
        return {}


@pytest.mark.parametrize(
    ("method", "path"), [pytest.param(*stage, marks=() if stage in USUAL else pytest.mark.long) for stage in STAGES]
)
def test_while_a_run_is_logged(
    method: str, path: str, proxy: FaultProxy, upstream: str, judged: Callable[[str, str], Callable[[], TrackedRun]]
) -> None:
    """Whatever MLflow answers at whichever request: one line of error, and once it is over the same call succeeds."""
    from mlflow import MlflowClient

    name = f"m{list(STAGES).index((method, path))}"
    log = judged(proxy.address, name)
    direct = MlflowClient(f"http://{upstream}", f"http://{upstream}")
    for fault in STAGES[method, path]:
        before = aliases(direct, name)
        proxy.from_request(method, path, fault)
        proxy.misbehaved.clear()
        with pytest.raises(TrackingError) as caught:
            log()
        assert proxy.misbehaved.is_set()
        is_one_line(caught.value, proxy.address)
        assert caught.value.retryable is (fault != "401"), fault
        assert fault == "cut" or aliases(direct, name) == before  # a server whose answer was cut has done its work
    proxy.rule = lambda _method, _path: ""
    run = log()
    assert direct.get_model_version_by_alias(name, "challenger").run_id == run.mlflow_run_id
    assert direct.get_run(run.mlflow_run_id).info.status == "FINISHED"


@pytest.mark.parametrize(
    ("method", "path"), [pytest.param(*stage, marks=() if stage in USUAL else pytest.mark.long) for stage in LATE]
)
def test_a_late_answer_and_none(
    method: str,
    path: str,
    proxy: FaultProxy,
    seen: list[str],
    judged: Callable[[str, str], Callable[[], TrackedRun]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A late answer is waited for, and said to be; one that never comes ends at the limit, with one line."""
    log = judged(proxy.address, f"late{LATE.index((method, path))}")
    proxy.from_request(method, path, "late")
    assert log().registry_version > 0
    assert seen[0].startswith(f"waiting for MLflow at {proxy.address}, ")
    assert seen[0].endswith(" s so far")
    seen.clear()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    hanging = FaultProxy(proxy.upstream)
    hanging.from_request(method, path, "hang")
    proxy.misbehaved.set()
    with pytest.raises(TrackingError, match="got no answer in time; .*raise MLFLOW_HTTP_REQUEST_TIMEOUT") as caught:
        judged(hanging.address, "never")()
    hanging.close()
    is_one_line(caught.value, hanging.address)
    assert f"waiting for MLflow at {hanging.address}, " in seen[0]


@pytest.fixture
def changed(proxy: FaultProxy, upstream: str, tmp_path: Path) -> tuple[Config, Store, Callable[[], Candidate]]:
    """Return a configuration with the proxy, its store, and a function that makes a candidate known to MLflow."""
    from mlflow import MlflowClient

    path = tmp_path / "cfg.yaml"
    name = tmp_path.name.replace("_", "-")
    path.write_text(f"name: {name}\ndata: {{load: 'configs.digits:load'}}\nmodel: {{build: 'configs.digits:build'}}\n")
    config = load_config(path, [f"tracking.uri={proxy.address}"])
    store = Store(config.live_dir, config.candidates_dir, config.work_dir / "unused.json")
    client = MlflowClient(f"http://{upstream}", f"http://{upstream}")
    client.create_registered_model(config.name)

    def making() -> Candidate:
        number = store.export()
        run, nowhere = client.create_run("0").info, Path("nowhere")
        source, tags = f"{run.artifact_uri}/model", {"digest": store.digest(number)}
        client.create_model_version(config.name, source, run_id=run.run_id, tags=tags)
        return Candidate(
            config.name, number, store.candidates / str(number), store.digest(number), Signature((), ()), 1,
            nowhere, nowhere, nowhere,
        )  # fmt: skip

    return config, store, making


@pytest.mark.parametrize(("method", "path"), TELLING)
@pytest.mark.parametrize("fault", ["cut", "hang", pytest.param("503", marks=pytest.mark.long)])
def test_behind_the_rename(
    method: str,
    path: str,
    fault: str,
    proxy: FaultProxy,
    upstream: str,
    changed: tuple[Config, Store, Callable[[], Candidate]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What was renamed is live with a warning, the lock is free while MLflow hangs, a rollback works, all is told."""
    from mlflow import MlflowClient

    config, store, making = changed
    unknown: Any = TrackedRun("", "", config.name, 0, "")
    first, second = making(), making()
    assert put_live(config, first, unknown, None, "").state == "promoted"
    assert untold(store.live) == {}
    free: list[bool] = []

    def rule(asked: str, at: str) -> str:
        if free or (asked == method and path in at):
            lock = FileLock(store.live / LOCK, is_singleton=False)
            with lock.acquire(timeout=0):  # raises, and so relays nothing, where somebody holds it
                free.append(True)
            return "500" if path == "/health" and fault == "503" and at != path else fault
        return ""

    proxy.rule = rule
    champion = store_champion(config)
    patient = os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"], connection.HEALTH_S
    if fault == "hang":  # only while something hangs: a server on a busy machine may need longer
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        monkeypatch.setattr(connection, "HEALTH_S", 1)
    assert put_live(config, second, unknown, champion, "ann").state == "promoted"
    if path != "/health" or fault == "hang":
        warned = "version 2 is live, approved by ann, but MLflow could not be updated; "
        [line] = [record.getMessage() for record in caplog.records if warned in record.getMessage()]
        assert "\n" not in line
    assert free
    assert go_back(config, None, "ann").state == "promoted"
    with pytest.raises(PipelineError) as caught:
        inform(config)
    is_one_line(caught.value, proxy.address)
    assert [change.version for change in untold(store.live).values()] == [2, 3]
    proxy.rule = lambda _method, _path: ""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", patient[0])
    monkeypatch.setattr(connection, "HEALTH_S", patient[1])
    told = [finding.text for finding in examine(config, only_look=False)]
    assert told == [f"the publish of version {number} was sent to MLflow" for number in (2, 3)]
    direct = MlflowClient(f"http://{upstream}", f"http://{upstream}")
    assert direct.get_model_version_by_alias(config.name, "champion").tags["digest"] == first.digest


def store_champion(config: Config) -> Any:
    """Return the version that serves."""
    from tasks.store.champion import find_champion

    return find_champion(config.live_dir)


@pytest.mark.parametrize("fault", ANSWERED)
def test_what_reviewers_said_cannot_be_asked(
    fault: str, proxy: FaultProxy, changed: tuple[Config, Store, Callable[[], Candidate]]
) -> None:
    """An approval that cannot learn what was decided is one line of error, and touches nothing."""
    config, store, _making = changed
    proxy.from_request(*REVIEWS[1], fault)
    with pytest.raises(TrackingError) as caught:
        reviewed_versions(config)
    is_one_line(caught.value, proxy.address)
    assert not store.live.exists()


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("https://{host}", "no secure connection .*; check https in tracking.uri"),
        ("http://no-such-host.invalid:5000", r"a host name that does not resolve\)?; correct tracking\.uri"),
        ("http://127.0.0.1:{closed}", r"Connection refused\)+; start it \(mlflow server\)"),
    ],
)
def test_an_address_that_is_wrong(uri: str, words: str, upstream: str, held_port: int, tmp_path: Path) -> None:
    """TLS on a plain port, an unknown name, a closed port: each says what it is and what to do, at either question."""
    path = tmp_path / "cfg.yaml"
    path.write_text("name: m\ndata: {load: 'configs.digits:load'}\nmodel: {build: 'configs.digits:build'}\n")
    config = load_config(path, [f"tracking.uri={uri.format(host=upstream, closed=held_port)}"])
    for ask in (lambda: check_tracking(config.tracking.uri), lambda: check_experiment(config)):
        with pytest.raises(TrackingError, match=words) as caught:
            ask()
        assert "\n" not in str(caught.value)


def test_a_proxy_of_the_environment_that_is_dead(
    upstream: str, held_port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A dead HTTP_PROXY is named with NO_PROXY as the way out; in a command it does not stand before loopback."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{held_port}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    with pytest.raises(TrackingError, match="no connection through the proxy .*NO_PROXY"):
        check_tracking(f"http://{upstream}")
    with session():
        check_tracking(f"http://{upstream}")


@pytest.mark.parametrize("content", [b"this is no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_database_that_is_none(content: bytes, tmp_path: Path) -> None:
    """A file that is no database, or a damaged one, is refused in one line, without MLflow's minute of tries."""
    path = tmp_path / "cfg.yaml"
    path.write_text("name: m\ndata: {load: 'configs.digits:load'}\nmodel: {build: 'configs.digits:build'}\n")
    (tmp_path / "damaged.db").write_bytes(content)
    config = load_config(path, ["tracking.uri=sqlite:///damaged.db"])
    with pytest.raises(TrackingRefused, match="database.*; restore the database, or set tracking.uri") as caught:
        check_experiment(config)
    assert "\n" not in str(caught.value)

"""Production's metrics around a promotion and a rollback, read from a small HTTP server."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from filelock import FileLock

from configs.loading import load_config
from configs.schema import Config
from flows.rollback import main as roll_back
from tasks.check import checks
from tasks.errors import ServingError
from tasks.production import metrics
from tasks.production.changes import go_back, put_live
from tasks.production.live_check import Endpoint
from tasks.production.metrics import Watch, look_at_metrics, watch
from tasks.records import Candidate, Signature, TrackedRun
from tasks.serving import metrics as reading
from tasks.store.champion import find_champion
from tasks.store.layout import versions
from tasks.store.lock import LOCK
from tasks.store.transaction import untold
from tests.store_driver import Store

RECORDED = Path(__file__).parents[1] / "data" / "tfs_metrics"
BEFORE, AFTER = ((RECORDED / f"{name}.txt").read_bytes() for name in ("before", "after"))
PATH = "/monitoring/prometheus/metrics"
SECRET = "planted-secret"
LONG_S = 600.0


class Production(ThreadingHTTPServer):
    """A server that has loaded whatever is published, and answers `answer` as its metrics.

    Attributes:
        free: whether the lock of production was free, at each reading. headers: of each reading.
    """

    def __init__(self, model_dir: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.model_dir = model_dir
        self.free: list[bool] = []
        self.tokens: list[str] = []
        self.answer: Callable[[BaseHTTPRequestHandler], object] = lambda handler: say(handler, self._counters())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def _counters(self) -> bytes:
        return AFTER if 2 in versions(self.model_dir) else BEFORE


class _Handler(BaseHTTPRequestHandler):
    server: Production

    def do_GET(self) -> None:
        if self.path == PATH:
            lock = FileLock(self.server.model_dir / LOCK, is_singleton=False)
            try:
                lock.acquire(timeout=0)
                lock.release()
                self.server.free.append(True)
            except TimeoutError:
                self.server.free.append(False)
            self.server.tokens.append(str(self.headers["Authorization"]))
            self.server.answer(self)
            return
        states = ", ".join(
            f'{{"version": "{number}", "state": "AVAILABLE", "status": {{}}}}'
            for number in versions(self.server.model_dir)
        )
        say(self, f'{{"model_version_status": [{states}]}}'.encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def say(handler: BaseHTTPRequestHandler, body: bytes, status: int = 200, **headers: str) -> None:
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


@pytest.fixture
def production(tmp_path: Path) -> Iterator[Production]:
    """Return a production server of the model `half`."""
    server = Production(tmp_path / "models" / "half")
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def config(tmp_path: Path, production: Production, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Return a configuration with this production and without MLflow, as its second version waits for promotion."""
    monkeypatch.setenv("TOKEN", SECRET)
    (tmp_path / "cfg.yaml").write_text(
        f"name: half\ntracking: {{uri: 'sqlite:///{tmp_path}/cfg.yaml/absent.db'}}\n"
        f"promote:\n  live_url: {production.url}\n  metrics_path: {PATH}\n"
        "  live_headers: {Authorization: 'Bearer ${TOKEN}'}\n"
    )
    return load_config(tmp_path / "cfg.yaml")


@pytest.fixture
def promote(config: Config) -> Callable[[], str]:
    """Return a function that promotes a new version and returns what its metrics say."""
    store = Store(config.live_dir, config.candidates_dir, config.work_dir / "aliases.json")
    store.promote(store.export())

    def promoting() -> str:
        number, nowhere = store.export(), Path("/nowhere")
        candidate = Candidate(
            "half", number, store.candidates / str(number), store.digest(number), Signature((), ()), 1,
            nowhere, nowhere, nowhere,
        )  # fmt: skip
        found = put_live(config, candidate, TrackedRun("", "", "half", 0, ""), find_champion(config.live_dir), "")
        assert found.state == "promoted"
        return found.metrics

    return promoting


def test_around_a_promotion_and_a_rollback(
    config: Config, production: Production, promote: Callable[[], str], caplog: pytest.LogCaptureFixture
) -> None:
    """The figures are in the outcome and wait for MLflow with their change; the lock is free while they are read."""
    figures = promote()
    assert figures.startswith(f"{production.url} in ")
    assert figures.endswith(
        " s, all versions of half: 8 requests, 3 errors (3 INVALID_ARGUMENT), "
        "99% of 2 answers computed within 37.5 ms, SavedModel of version 2 loaded in 82.3 ms"
    )
    assert [change.metrics for change in untold(config.live_dir).values()][-1:] == [figures]
    assert production.free == [True, True]
    assert set(production.tokens) == {f"Bearer {SECRET}"}

    assert roll_back(["--config", str(config.models_root.parent / "cfg.yaml")]) == 0
    assert f"production's metrics: {production.url} in " in caplog.text
    waiting = list(untold(config.live_dir).values())
    assert [change.version for change in waiting][-2:] == [2, 3]
    assert waiting[-2].metrics == figures
    assert waiting[-1].metrics.endswith(" s, all versions of half: 0 requests, no errors")
    assert production.free[3:] == [True]  # the reading before a rollback is not waited for, and may fall into it


ANSWERS: dict[str, tuple[Callable[[BaseHTTPRequestHandler], None], str]] = {
    "absent": (lambda handler: say(handler, b"", 404), "status 404 instead of 200; start it with --monitoring_config"),
    "denied": (lambda handler: say(handler, b"", 401), "status 401 instead of 200"),
    "a page": (lambda handler: say(handler, f"<html>{SECRET}</html>\n".encode()), "does not have the metrics of"),
    "elsewhere": (lambda handler: say(handler, b"", 302, Location="http://127.0.0.1:9/"), "status 302 instead of 200"),
    "cut": (lambda handler: say(handler, AFTER, Content_Length="9999999"), "the answer broke off"),
    "a bomb": (
        lambda handler: say(handler, gzip.compress(bytes(2**24 + 1), 1), Content_Encoding="gzip"),
        "more than 16,777,216 bytes",
    ),
    "no gzip": (lambda handler: say(handler, AFTER, Content_Encoding="gzip"), "the answer broke off"),
    "no HTTP": (lambda handler: handler.wfile.write(b"SSH-2.0\r\n\r\n"), "no server answers"),
}  # fmt: skip


@pytest.mark.parametrize("answer", ANSWERS)
def test_what_cannot_be_read(answer: str, production: Production, caplog: pytest.LogCaptureFixture) -> None:
    """It is one line with the address and the reason, and the figures are said to be unknown."""
    production.answer, words = ANSWERS[answer]
    watched = Watch([Endpoint(production.url, "half"), Endpoint("grpc://127.0.0.1:9", "half")], PATH)
    assert watched.told("half", 2, first=False) == f"unknown, not read: {production.url}"
    [line] = caplog.messages
    assert line.startswith(f"not all metrics of production can be read: {production.url}{PATH}: ")
    assert words in line
    assert SECRET not in line


def test_a_promotion_without_its_metrics(
    production: Production, promote: Callable[[], str], caplog: pytest.LogCaptureFixture
) -> None:
    """A server without metrics is verified and promoted to all the same, with one warning about them."""
    production.answer = lambda handler: say(handler, b"no", 404)
    assert promote() == f"unknown, not read: {production.url}"
    assert [line for line in caplog.messages if "not all metrics" in line] == [
        f"not all metrics of production can be read: {production.url}{PATH}: status 404 instead of 200; start it with "
        "--monitoring_config_file"
    ]


def test_a_promotion_over_a_fault_of_ours(
    promote: Callable[[], str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever happens to the metrics, production has been changed, and the outcome says so."""
    monkeypatch.setattr(metrics, "in_words", lambda: "")
    assert promote() == ""
    assert "production's metrics are unknown: TypeError" in caplog.messages


def test_they_are_looked_at_before_training(
    config: Config, production: Production, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The check says whether they can be read; a run warns. A server that is not there is no fault of the path."""
    check = dict(checks(config, tmp_path / "scratch"))["metrics"]
    assert check() == f"the metrics of 1 server can be read at {PATH}"
    look_at_metrics(config)
    assert caplog.messages == []
    production.answer = lambda handler: say(handler, b"<html></html>")
    problem = f"{production.url}{PATH}: the text does not have the metrics of TensorFlow Serving"
    with pytest.raises(ServingError, match="^promote.metrics_path must lead to production's metrics, but") as found:
        check()
    assert str(found.value).endswith(problem)
    look_at_metrics(config)
    assert caplog.messages == [f"production's metrics cannot be read, and will be unknown: {problem}"]
    production.server_close()
    assert check() == "production's metrics could not be tried, because no server answers"


@pytest.mark.parametrize("silent", ["no answer", "a letter at a time"])
def test_an_answer_that_does_not_end(
    silent: str, production: Production, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody waits longer than the limit for a server that says nothing, or too little at a time."""
    over = threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if silent != "no answer":
            handler.send_response(200)
            handler.end_headers()
        while not over.wait(0.02):
            if silent != "no answer":
                handler.wfile.write(b"#")

    for module in (metrics, reading):
        monkeypatch.setattr(module, "READ_S", 0.3)
    production.answer = answer
    watched = Watch([Endpoint(production.url, "half")], PATH)
    assert watched.told("half", 2, first=False) == f"unknown, not read: {production.url}"
    over.set()
    assert "no whole answer within" in caplog.text


def test_a_rollback_does_not_wait(
    config: Config, production: Production, promote: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Production is changed while a server has not yet said what it counted before."""
    promote()
    over = threading.Event()
    production.answer = lambda handler: over.wait(LONG_S) and say(handler, AFTER)
    for module in (metrics, reading):
        monkeypatch.setattr(module, "READ_S", LONG_S)
    watched = watch(config)
    assert go_back(config, None, "ann").state == "promoted"
    assert not over.is_set()
    over.set()
    watched.wait()


def test_no_secret_is_written(production: Production, caplog: pytest.LogCaptureFixture) -> None:
    """An address with a password is shown without it, in the figures and in a warning."""
    address = production.url.replace("://", f"://ann:{SECRET}@")
    server = Endpoint(address, "half")
    text = Watch([server], PATH).told("half", 2, first=False)
    assert "@127.0.0.1" in text
    assert SECRET not in text
    production.answer = lambda handler: say(handler, b"no", 404)
    assert Watch([server], PATH).told("half", 2, first=False).startswith("unknown, not read: ")
    assert "@127.0.0.1" in caplog.text
    assert SECRET not in caplog.text

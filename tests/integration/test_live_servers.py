"""Production behind TLS, behind credentials, over gRPC, and on several replicas: what verification sees of each."""

from __future__ import annotations

import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from configs.errors import ConfigError
from configs.loading import load_config
from tasks.datasets.rows import save_arrays
from tasks.errors import AccessDenied, ServingError
from tasks.production.live_check import Endpoint, Expected, is_there, live_problem, problem_at_any
from tasks.production.server import endpoints, look_at_production
from tasks.records import Signature, TensorSpec
from tasks.serving.client import Access
from tasks.serving.embedded import EmbeddedServer, run_embedded
from tasks.serving.metrics import read_counters
from tasks.waiting import waiting_for
from tests.certificates import Certificate, certificate

HALF = Path(__file__).parents[1] / "data/tfs_rest/models/half/1"  # x -> 0.5 x + 2
LONG_S = 600.0
TOKEN = "Bearer the-token-of-production"
ROWS = np.arange(4, dtype=np.float32).reshape(4, 1)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """Return a certificate authority that nobody knows."""
    return certificate(tmp_path_factory.mktemp("tls"), "authority")


@pytest.fixture(scope="module")
def server_certificate(authority: Certificate) -> Certificate:
    """Return the certificate of production."""
    return certificate(authority.cert_file.parent, "server", authority)


@pytest.fixture(scope="module")
def client_certificate(authority: Certificate) -> Certificate:
    """Return the certificate that production asks its clients for."""
    return certificate(authority.cert_file.parent, "client", authority)


@pytest.fixture(scope="module")
def served() -> Iterator[EmbeddedServer]:
    """Return a model server on `half`, version 1, that has loaded it."""
    with run_embedded("half", HALF, memory_mb=2048) as server, waiting_for("the model server"):
        while not (server.rest_url and server.grpc_target and "AVAILABLE" in _status(server.rest_url)):
            assert server.exit_code() is None, server.log()
        yield server


def _status(url: str) -> str:
    try:
        with urllib.request.urlopen(f"{url}/v1/models/half", timeout=60) as answer:
            return str(answer.read())
    except OSError:
        return ""


@pytest.fixture
def gateway(
    served: EmbeddedServer, server_certificate: Certificate, authority: Certificate
) -> Iterator[Callable[..., str]]:
    """Return a function that starts a TLS gateway before the model server; it wants a token, or a certificate."""
    started: list[ThreadingHTTPServer] = []

    class Gateway(BaseHTTPRequestHandler):
        def _pass_on(self) -> None:
            if self.headers["Authorization"] != TOKEN:
                self.send_error(401, "no token")
                return
            body = self.rfile.read(int(self.headers["Content-Length"] or 0)) or None
            request = urllib.request.Request(f"{served.rest_url}{self.path}", body)
            try:
                answer = urllib.request.urlopen(request, timeout=LONG_S)
            except urllib.error.HTTPError as exc:
                answer = exc
            with answer:
                content = answer.read()
            self.send_response(answer.status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _pass_on

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    def starting(*, client_certificates: bool = False) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.cert_file))
        context.load_cert_chain(server_certificate.cert_file, server_certificate.key_file)
        context.verify_mode = ssl.CERT_REQUIRED if client_certificates else ssl.CERT_NONE
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        started.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"https://127.0.0.1:{server.server_address[1]}"

    yield starting
    for server in started:
        server.shutdown()
        server.server_close()


@pytest.fixture
def grpc_gateway(served: EmbeddedServer, server_certificate: Certificate) -> Iterator[str]:
    """Return the address of a gRPC gateway with TLS before the model server; it wants a token."""
    channel = grpc.insecure_channel(served.grpc_target)

    class PassOn(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            def call(request: bytes, context: Any) -> bytes:
                if dict(context.invocation_metadata()).get("authorization") != TOKEN:
                    context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")
                try:
                    return bytes(channel.unary_unary(details.method)(request, timeout=LONG_S))
                except grpc.RpcError as exc:
                    context.abort(exc.code(), exc.details())
                    raise

            return grpc.unary_unary_rpc_method_handler(call)

    server = grpc.server(futures.ThreadPoolExecutor(4), handlers=[PassOn()])
    pair = server_certificate.key_file.read_bytes(), server_certificate.cert_file.read_bytes()
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    yield f"grpcs://127.0.0.1:{port}"
    server.stop(None).wait()
    channel.close()


@pytest.fixture
def expected(tmp_path: Path) -> Expected:
    """Return the validated answers of `half`."""
    save_arrays(tmp_path / "requests.npz", {"x": ROWS})
    save_arrays(tmp_path / "answers.npz", {"output_0": 0.5 * ROWS + 2})
    spec = [TensorSpec(name, "float32", (None, 1)) for name in ("x", "output_0")]
    return Expected(
        Signature((spec[0],), (spec[1],)), tmp_path / "requests.npz", tmp_path / "answers.npz", 4, None, None
    )


@pytest.fixture
def other(expected: Expected, tmp_path: Path) -> Expected:
    """Return answers that `half` does not give."""
    save_arrays(tmp_path / "other.npz", {"output_0": ROWS})
    return replace(expected, answers=tmp_path / "other.npz")


@pytest.fixture
def trusted(authority: Certificate) -> Access:
    """Return what a client of production needs."""
    return Access(headers={"Authorization": TOKEN}, ca_file=authority.cert_file)


def test_over_tls_with_a_token(
    gateway: Callable[..., str], grpc_gateway: str, trusted: Access, expected: Expected, other: Expected
) -> None:
    """REST and gRPC with TLS and a token: the validated answers are compared, and others are found."""
    for address in (gateway(), grpc_gateway):
        endpoint = Endpoint(address, "half", trusted)
        assert is_there(endpoint)
        assert live_problem(endpoint, 1, expected, LONG_S) == ""
        found = live_problem(endpoint, 1, other, LONG_S)
        assert found.startswith(f"production at {address}: it answers version 1 differently than validated")


def test_metrics_over_tls_with_a_token(gateway: Callable[..., str], trusted: Access) -> None:
    """They are read as the version is verified: with the token and the authority, and not without them."""
    address, path = gateway(), "/monitoring/prometheus/metrics"
    for access, words in (
        (trusted, "status 404"),  # the embedded server has none
        (replace(trusted, headers={}), "status 401"),
        (replace(trusted, ca_file=None), "TLS failed: .*certificate"),
    ):
        with pytest.raises(ServingError, match=words):
            read_counters(address, path, "half", access)


def test_without_tls_over_grpc(served: EmbeddedServer, expected: Expected, other: Expected) -> None:
    """A plain gRPC address is verified as well."""
    endpoint = Endpoint(f"grpc://{served.grpc_target}", "half")
    assert is_there(endpoint)
    assert live_problem(endpoint, 1, expected, LONG_S) == ""
    assert "differently than validated" in live_problem(endpoint, 1, other, LONG_S)


def test_a_client_certificate(
    gateway: Callable[..., str], trusted: Access, client_certificate: Certificate, expected: Expected
) -> None:
    """A server that asks for a certificate gets it."""
    address = gateway(client_certificates=True)
    files = {"cert_file": client_certificate.cert_file, "key_file": client_certificate.key_file}
    assert live_problem(Endpoint(address, "half", replace(trusted, **files)), 1, expected, LONG_S) == ""
    assert live_problem(Endpoint(address, "half", trusted), 1, expected, 0.1) != ""


def test_access_is_denied(gateway: Callable[..., str], grpc_gateway: str, trusted: Access) -> None:
    """A wrong token, and an authority that is not trusted, are said before anything is trained."""
    address = gateway()
    for where in (address, grpc_gateway):
        with pytest.raises(AccessDenied, match="401|UNAUTHENTICATED"):
            is_there(Endpoint(where, "half", replace(trusted, headers={"Authorization": "Bearer another"})))
    with pytest.raises(AccessDenied, match="TLS .* must succeed .* failed: .*certificate"):
        is_there(Endpoint(address, "half", replace(trusted, ca_file=None)))


def test_the_slowest_replica_decides(
    served: EmbeddedServer, held_port: int, expected: Expected, other: Expected
) -> None:
    """Several servers must all serve the version; each that does not is named."""
    good, absent = Endpoint(served.rest_url, "half"), Endpoint(f"http://127.0.0.1:{held_port}", "half")
    over_grpc = Endpoint(f"grpc://{served.grpc_target}", "half")
    assert problem_at_any([good, over_grpc], 1, expected, LONG_S) == ""
    found = problem_at_any([good, absent], 1, expected, 0.1)
    assert found.startswith(f"production at {absent.address}: the version was not AVAILABLE after 0.1 s")
    assert served.rest_url not in found
    both = problem_at_any([good, over_grpc], 1, other, LONG_S)
    assert both.count("differently than validated") == 2


def test_all_replicas_are_asked_at_the_same_time() -> None:
    """Two servers that answer only when both were asked are both seen AVAILABLE."""
    both = threading.Barrier(2, timeout=LONG_S)

    class Waiting(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            both.wait()
            content = b'{"model_version_status": [{"version": "1", "state": "AVAILABLE", "status": {}}]}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Waiting) for _ in range(2)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    replicas = [Endpoint(f"http://127.0.0.1:{server.server_address[1]}", "half") for server in servers]
    assert problem_at_any(replicas, 1, None, LONG_S) == ""
    for server in servers:
        server.shutdown()
        server.server_close()


def test_the_configuration(
    gateway: Callable[..., str],
    authority: Certificate,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Addresses, headers and files come from the YAML file; the token comes from the environment and is not shown."""
    monkeypatch.setenv("PRODUCTION_TOKEN", TOKEN.removeprefix("Bearer "))
    (tmp_path / "ca.pem").write_bytes(authority.cert_file.read_bytes())
    address = gateway()
    (tmp_path / "cfg.yaml").write_text(
        "name: half\npromote:\n"
        f"  live_urls: ['{address}']\n"
        "  live_headers: {Authorization: 'Bearer ${PRODUCTION_TOKEN}'}\n"
        "  live_tls: {ca_file: ca.pem}\n"
    )
    config = load_config(tmp_path / "cfg.yaml")
    look_at_production(config)
    assert [line for line in caplog.messages if not line.startswith("waiting for ")] == []  # of a busy machine
    assert endpoints(config)[0].access.headers == {"Authorization": TOKEN}
    denied = load_config(tmp_path / "cfg.yaml", ["promote.live_headers={}"])
    with pytest.raises(AccessDenied, match=r"got 401: .*; check promote.live_urls, promote.live_headers and"):
        look_at_production(denied)


BAD: Mapping[str, tuple[str, str]] = {
    "half a pair": ("promote: {live_url: 'https://h:1', live_tls: {cert_file: a}}", "must be set together"),
    "no use": ("promote: {live_url: 'http://h:1', live_tls: {ca_file: ca.pem}}", "needs a live_url of https:// or"),
    "absent": ("promote: {live_url: 'https://h:1', live_tls: {ca_file: x}}", "must name an existing file"),
    "not PEM": ("promote: {live_url: 'https://h:1', live_tls: {ca_file: cfg.yaml}}", "must hold certificates in PEM"),
    "a locked key": (
        "promote: {live_url: 'https://h:1', live_tls: {cert_file: locked.pem, key_file: locked.key}}",
        "without a password",
    ),
    "no port": ("promote: {live_url: 'grpc://h'}", "must name a port"),
    "a user": ("promote: {live_urls: ['grpcs://ann:planted-secret@h:1']}", "use promote.live_headers"),
    "another scheme": ("promote: {live_urls: ['ftp://h:1']}", "grpcs://HOST:PORT, without a path"),
    "an empty address": ("promote: {live_urls: ['']}", "must not contain an empty address"),
    "a bad name": ("promote: {live_headers: {'a b': c}}", "names of HTTP headers"),
    "our own": ("promote: {live_headers: {Content-Length: '3'}}", "the client sets itself"),
    "two lines": ('promote: {live_headers: {X-A: "planted-secret\\nb"}}', "printable ASCII"),
    "bytes": ("promote: {live_headers: {x-bin: b}}", "ends in -bin"),
    "metrics of nobody": ("promote: {metrics_path: /metrics}", "metrics_path needs a live_url of http:// or https://"),
    "metrics over gRPC": (
        "promote: {live_urls: ['grpc://h:1', 'grpcs://h:2'], metrics_path: /metrics}",
        "needs a live_url of http://",
    ),
    **{
        f"metrics at {path}": (
            f"promote: {{live_url: 'http://h:1', metrics_path: '{path}'}}",
            "must be a path such as /monitoring",
        )
        for path in ("metrics", "/", "/m/", "//h/m", "/m?a=1", "/m#a", "/m m", "http://h/m", "/m\\n", "/\u00fc")
    },
    **{
        f"one server as {other}": (f"promote: {{live_urls: ['{one}', '{other}']}}", "must name each server once")
        for one, other in (
            ("http://h:1", "http://h:1"),
            ("http://h", "http://H.:80"),
            ("https://h:443", "https://h"),
            ("http://[::1]:1", "http://[0::1]:1"),
            ("http://h:1", "http://u:planted-secret@h:1"),
        )
    },
    "one header twice": (
        "promote: {live_url: 'http://h:1', live_headers: {X-A: a, x-a: b}}",
        "must name each header once",
    ),
    "two users": (
        "promote: {live_url: 'http://u:planted-secret@h:1', live_headers: {authorization: b}}",
        "must not contain Authorization",
    ),
    "a name for HTTP only": ("promote: {live_url: 'grpc://h:1', live_headers: {'X!A': a}}", "gRPC does not accept"),
    "of a connection": ("promote: {live_headers: {Expect: 100-continue}}", "the client sets itself"),
    "not text": ("promote: {live_headers: {X-A: 3}}", "must be text"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_values(case: str, tmp_path: Path) -> None:
    """What cannot be used is found when the file is read, and no secret is in the message."""
    text, words = BAD[case]
    certificate(tmp_path, "locked", password=b"a password")
    (tmp_path / "cfg.yaml").write_text(f"name: half\n{text}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "cfg.yaml")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "planted-secret" not in str(caught.value) or case == "two lines"

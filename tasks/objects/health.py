"""The health of a sync over HTTP: `GET /healthz` answers 200 if what is served is what the store says, else 503."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tasks.errors import PipelineError
from tasks.objects.follow import Followed

PATH = "/healthz"
REQUEST_S = 5  # seconds until a client must have sent its request


@dataclass
class Health:
    """What is known of a sync; one thread notes, others read.

    Attributes:
        stale_s: seconds without a complete look after which it is not healthy.
    """

    stale_s: float
    _models: dict[str, Followed] = field(default_factory=dict)
    _error: str = ""
    _looked: float | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, models: dict[str, Followed], error: str, *, serves: bool) -> None:
        """Note the result of a look; its time counts if everything that serves is there, even with an error."""
        with self._lock:
            self._models, self._error = dict(models), error
            if serves:
                self._looked = time.monotonic()

    def now(self) -> tuple[bool, dict[str, Any]]:
        """Return whether the sync is healthy, and what is known."""
        with self._lock:
            age = None if self._looked is None else time.monotonic() - self._looked
            healthy = age is not None and age <= self.stale_s
            return healthy, {
                "healthy": healthy,
                "ready": age is not None,
                "seconds_since_last_look": None if age is None else round(age, 1),
                "last_error": self._error,
                "models": {name: asdict(found) for name, found in self._models.items()},
            }


@contextlib.contextmanager
def answering(health: Health, address: tuple[str, int] | None) -> Iterator[str]:
    """Answer in threads of their own within a block, and yield the URL; without an address, it is empty.

    Raises:
        PipelineError: the port cannot be used.
    """
    if address is None:
        yield ""
        return
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    try:
        server = (_Server6 if ":" in address[0] else _Server)(address, _handler(health))
    except OSError as exc:
        place = f"{host}:{address[1]}"
        raise PipelineError(f"--health must be a free port of this machine, got {place}: {exc.strerror}") from exc
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    try:
        yield f"http://{host}:{server.server_address[1]}{PATH}"
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Log nothing of a client that does not wait for its answer, which is not an error of the sync."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Server6(_Server):
    address_family = socket.AF_INET6


def _handler(health: Health) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_S

        def do_GET(self) -> None:
            known = self.path.split("?")[0] == PATH
            healthy, plain = health.now() if known else (False, {"error": f"the only path is {PATH}"})
            content = (json.dumps(plain) + "\n").encode()
            self.send_response((200 if healthy else 503) if known else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing: a probe asks every few seconds."""

    return Handler

"""The health of a sync over HTTP: `GET /healthz` answers 200 if what is served is what the store says, else 503."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

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

    def note(self, models: dict[str, Followed], error: str) -> None:
        """Note the result of a look; an error leaves the time of the last complete one."""
        with self._lock:
            self._models, self._error = dict(models), error
            if not error:
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


def serve_health(health: Health, host: str, port: int) -> ThreadingHTTPServer:
    """Answer in threads of their own until the server is shut down.

    Raises:
        OSError: the port cannot be used.
    """

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

    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    return server

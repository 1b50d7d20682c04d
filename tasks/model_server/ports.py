"""The two ports: REST on uvicorn's event loop, gRPC on threads. Both shut down cleanly on SIGTERM."""

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from tasks.model_server import grpc_service
from tasks.model_server.flags import Flags
from tasks.model_server.http_protocol import HttpProtocol
from tasks.model_server.log import log
from tasks.model_server.rest_app import RestApp
from tasks.model_server.servables import Servables
from tasks.model_server.status import Code, StatusError
from tasks.model_server.tf_library import flush_subnormals_in_this_thread

_KEEP_ALIVE_S = 60
"""An idle connection is closed after this time; libevent, under TensorFlow Serving, waits 50 s."""
_STOP_S = float(os.environ.get("REHEARSAL_STOP_S", "5"))
"""How long running requests may take after SIGTERM before their connections are closed."""


class _Server(uvicorn.Server):
    """uvicorn that logs when it accepts connections, and that ends with exit code 0 on a signal."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listening in sockets or []:
            log(f"Exporting HTTP/REST API at:localhost:{listening.getsockname()[1]} ...")

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at SIGTERM or SIGINT; uvicorn itself would raise the signal again after a clean end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, setattr, self, "should_exit", True)
        yield


def serve(servables: Servables, host: str, flags: Flags) -> None:
    """Open both ports and serve until SIGTERM or SIGINT.

    Raises:
        StatusError: a port cannot be opened.
    """
    listening = _listen(host, flags.rest_api_port)
    grpc_server, grpc_port = grpc_service.start(servables, host, flags.port)
    log(f"Running gRPC ModelServer at {host}:{grpc_port} ...")
    config = uvicorn.Config(
        RestApp(servables, flags.rest_api_timeout_in_ms),
        interface="asgi3",
        http=HttpProtocol,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        loop="asyncio",
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(_STOP_S),
    )
    flush_subnormals_in_this_thread()
    _Server(config).run(sockets=[listening])
    grpc_server.stop(_STOP_S).wait()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only on sockets that say they are TCP; with it each answer of two
    # packets would wait 40 ms for the client's delayed acknowledgement.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        raise StatusError(Code.UNAVAILABLE, f"Failed to start HTTP Server at {host}:{port}: {error}") from error
    listening.listen(1024)
    return listening

"""Act on reviewers' decisions at once: `python -m flows.webhook --deployment promote/approvals`.

MLflow: the tag `review` is set ── POST, signed ──> this receiver ── Prefect's API ──> the deployment `approvals`
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from configs.redaction import redact, remember
from flows.commands import session
from flows.console import Parser, error, say
from flows.streams import our_streams
from tasks.outcomes import DONE, FAILED, USAGE
from tasks.program import command_name
from tasks.registry.deliveries import SHORTEST_SECRET, Decision, Deliveries, Refused
from tasks.words import one_line

SECRET = "REHEARSAL_WEBHOOK_SECRET"  # noqa: S105  the name of the variable
LARGEST_BODY = 64 * 1024
LOOPBACK, PORT = "127.0.0.1", 8787
GRACE_S = 5  # for deliveries that have begun when a signal comes; an engine kills a container after 10

Start = Callable[[Decision], str]
"""Starts a run for a decision, and returns what was started."""


def main(argv: Sequence[str] | None = None) -> int:
    """Receive deliveries until Ctrl-C or SIGTERM, and return the exit code."""
    args = build_parser().parse_args(argv)
    secret, api = os.environ.get(SECRET, ""), os.environ.get("PREFECT_API_URL", "")
    with our_streams():
        if wrong := _wrong(secret, api, [model for model, _ in args.deployment]):
            error(wrong)
            return USAGE
        remember(secret)
        return _serve(args, Deliveries(secret), _starter(args.deployment))


def _wrong(secret: str, api: str, models: Sequence[str]) -> str:
    """Return why nothing can be received with these settings, or an empty string."""
    if len(secret) < SHORTEST_SECRET or not secret.isprintable() or secret != secret.strip():
        return (
            f"{SECRET} must be set to the secret of the webhook, of at least {SHORTEST_SECRET} printable characters, "
            "without a space or a line break at its ends"
        )
    if not api.startswith(("http://", "https://")):
        return (
            "PREFECT_API_URL must be set to the API of the Prefect server whose deployment is to be started, such as "
            "http://HOST:4200/api"
        )
    if repeated := [model for model in models if models.count(model) > 1]:
        return f"--deployment must be given once for each model, got '{repeated[0] or 'FLOW/NAME'}' several times"
    return ""


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    parser = Parser(
        prog=command_name("flows.webhook"),
        description="Receive the deliveries of an MLflow webhook, and start the deployment that acts on reviewers' "
        f"decisions. The secret of the webhook is read from {SECRET}, and Prefect's API from PREFECT_API_URL.",
        epilog="Exit codes: 0 you stopped it; 1 the port cannot be used; 2 usage error.",
    )
    parser.add_argument(
        "--deployment",
        action="append",
        required=True,
        type=deployment,
        metavar="[MODEL=]FLOW/NAME",
        help="the deployment to start, for one registered model or for all others; can be repeated",
    )
    parser.add_argument("--host", type=_address, default=LOOPBACK, help=f"address to listen on (default {LOOPBACK})")
    parser.add_argument("--port", type=_port, default=PORT, help=f"port to listen on (default {PORT})")
    return parser


def deployment(text: str) -> tuple[str, str]:
    """Return model and deployment; an empty model stands for all others.

    Raises:
        argparse.ArgumentTypeError: the text is not a deployment.
    """
    model, _, name = text.rpartition("=")
    flow, slash, short = name.partition("/")
    parts = (model, flow, short)
    if (
        not (flow and slash and short)
        or "/" in short
        or (not model and "=" in text)
        or any(part != part.strip() or not part.isprintable() for part in parts)
    ):
        raise argparse.ArgumentTypeError(
            f"a deployment must be FLOW/NAME or MODEL=FLOW/NAME, without spaces around a name, got {text!r}"
        )
    return model, name


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"an address must be an IP address of this machine, got '{text}'") from exc


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"a port must be a whole number from 0 to 65535, got '{text}'")
    return int(text)


def _starter(deployments: Sequence[tuple[str, str]]) -> Start:
    """Return what starts the deployment of a decision's model."""
    by_model = dict(deployments)

    def start(decision: Decision) -> str:
        name = by_model.get(decision.model) or by_model.get("")
        if name is None:
            return ""
        from prefect.deployments import run_deployment
        from prefect.exceptions import ObjectNotFound

        try:
            # With its id as the key, a delivery that is repeated starts nothing new, even after a restart.
            run: Any = run_deployment(name, timeout=0, as_subflow=False, idempotency_key=decision.delivery)
        except ObjectNotFound as exc:
            raise LookupError(f"it has no deployment '{name}'; `prefect deployment ls` lists what it has") from exc
        return f"{name} (flow run {run.name})"

    return start


def answer(deliveries: Deliveries, start: Start, headers: Mapping[str, str], body: bytes) -> tuple[int, str]:
    """Return status and text of the answer to one delivery, after starting what it asks for."""
    if len(body) > LARGEST_BODY:
        return 413, f"a delivery has at most {LARGEST_BODY // 1024} KB"
    try:
        decision = deliveries.read(headers, body)
    except Refused as exc:
        return exc.status, str(exc)
    if decision is None:
        return 200, "this is not a reviewer's decision"
    try:
        started = start(decision)
    except Exception as exc:  # noqa: BLE001  MLflow delivers again after a 503; Prefect's errors have no common class
        reason = redact(" ".join(f"{type(exc).__name__}: {exc}".split()))[:300]
        error(f"{_told(decision)}, but Prefect could not start the deployment: {reason}")
        return 503, "Prefect could not start the deployment"
    deliveries.done(decision)
    say(f"{_told(decision)}: " + (f"started {started}" if started else "this receiver has no deployment for the model"))
    return 202 if started else 200, started or "no deployment for this model"


def _told(decision: Decision) -> str:
    """Return what a reviewer did, as one line: MLflow allows any character in the name of a model."""
    return one_line(f"'{decision.model}' registry version {decision.registry_version} was {decision.review}", 500)


def _serve(args: argparse.Namespace, deliveries: Deliveries, start: Start) -> int:
    """Listen until a signal ends it."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def receive(request: Request) -> JSONResponse:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > LARGEST_BODY:
                break
        status, words = await _beside(answer, deliveries, start, request.headers, bytes(body))
        return JSONResponse({"message": words}, status)

    async def health(_request: Request) -> JSONResponse:
        return JSONResponse({"message": "ready"})

    app = Starlette(routes=[Route("/", receive, methods=["POST"]), Route("/health", health)])
    settings = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=GRACE_S
    )
    server = uvicorn.Server(settings)
    try:
        listener = _listener(args.host, args.port)
    except OSError as exc:
        error(f"--host and --port must be free on this machine, got {args.host}:{args.port}: {exc.strerror}")
        return FAILED
    with listener:
        host, port = listener.getsockname()[:2]
        say(f"receiving MLflow's deliveries at http://{f'[{host}]' if ':' in host else host}:{port}/")
        with contextlib.suppress(KeyboardInterrupt), session():  # uvicorn sends the signal on when it has ended
            server.run(sockets=[listener])
    return DONE


async def _beside(call: Callable[..., tuple[int, str]], *arguments: object) -> tuple[int, str]:
    """Return what a function returns in a thread of its own, which cannot keep this process when a signal ends it.

    What hangs is Prefect: MLflow delivers again what has no answer, and the id of the delivery keeps that from having a
    second effect.
    """
    result: Future[tuple[int, str]] = Future()
    result.set_running_or_notify_cancel()

    def run() -> None:
        try:
            result.set_result(call(*arguments))
        except BaseException as exc:  # noqa: BLE001  it is raised where it is waited for
            result.set_exception(exc)

    threading.Thread(target=run, daemon=True).start()
    return await asyncio.wrap_future(result)


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)


if __name__ == "__main__":
    raise SystemExit(main())

"""The command line: arguments, exit codes, one line an error."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import NoReturn, cast

from configs.loading import ConfigError, arguments, load_config
from configs.schema import Config
from tasks.errors import PipelineError
from tasks.records import Outcome

DONE, FAILED, USAGE, REJECTED, INTERRUPTED = 0, 1, 2, 3, 130

ENVIRONMENT = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",  # its heartbeat prints `database is locked` on a temporary server
    "PREFECT_API_REQUEST_TIMEOUT": "180",  # the temporary server's first database takes a minute on a slow disk
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # our lines tell the story; Prefect keeps its log
    "PREFECT_LOGGING_EXTRA_LOGGERS": "tasks",  # and gets ours, for its pages
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # 7 tries take minutes; a stage is tried again anyway
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # the summary names the page
    "DO_NOT_TRACK": "true",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the main job and return its exit code: 0 done, 3 rejected by a gate, 2 usage or config, 1 other."""
    args = build_parser().parse_args(argv)
    try:
        config = load_config(args.config, args.set)
        return _dry_run(config) if args.dry_run else _run(args, config)
    except (ConfigError, PipelineError) as exc:
        return _report(exc, args.debug)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as exc:  # noqa: BLE001  the end of the program: one line whatever it was
        words = " ".join(f"{type(exc).__name__}: {exc}".split())
        return _report(exc, args.debug, f"{words[:500]} (--debug shows where)")


def build_parser() -> argparse.ArgumentParser:
    """Return the arguments of the main job."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.train_and_serve",
        description="Train a Keras model, judge it in a throwaway model server, log it to MLflow, promote it.",
        epilog="Exit codes: 0 promoted, or judged with --no-promote; 3 rejected by a gate; 2 usage or "
        "configuration; 1 anything else.",
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the rehearsal's YAML file")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override a value of the file; may be given several times",
    )
    parser.add_argument("--no-promote", action="store_true", help="judge and log, and leave what is live as it is")
    parser.add_argument("--dry-run", action="store_true", help="check the configuration, show it, and create nothing")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--version", action="version", version=_version())
    return parser


def _version() -> str:
    try:
        return version("keras-rehearsal")
    except PackageNotFoundError:  # run from a checkout
        return "keras-rehearsal (not installed)"


def _dry_run(config: Config) -> int:
    """Show what a run would use; nothing is run, created or asked."""
    import yaml

    print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), end="")
    print(f"# would promote to {config.models_root / config.name}/<next number>")
    return DONE


def _run(args: argparse.Namespace, config: Config) -> int:
    """Run the flow. TensorFlow, Prefect's server and MLflow start side by side, each in a process of its own."""
    from tasks.training.process import shut_down, warm_up

    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with _ending_on_sigterm(), _lines_on_stdout():
        print("starting TensorFlow and Prefect", flush=True)
        warm_up()
        try:
            from flows.summary import summary
            from flows.temporary_server import prefect_server
            from flows.train_and_serve import train_and_serve
            from tasks.registry.connection import preload

            with prefect_server():
                preload()
                # called without return_state, Prefect gives the data of the state
                outcome = cast(Outcome, train_and_serve(str(args.config), args.set, not args.no_promote))
        finally:
            shut_down()
    print(summary(config, arguments(str(args.config), args.set), outcome, colour=in_colour()))
    return REJECTED if outcome.promotion.state == "rejected" else DONE


def in_colour() -> bool:
    """Return whether standard output is a terminal that shows colour.

    Source: https://no-color.org, for NO_COLOR.
    """
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


@contextlib.contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that servers and staging directories are removed on the way out."""

    def end(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _lines_on_stdout() -> Iterator[None]:
    """Show what the stages log, as plain lines."""
    logger = logging.getLogger("tasks")
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _report(exc: Exception, debug: bool, line: str = "") -> int:
    """Print an error as one line, with its evidence below, and return its exit code."""
    if debug:
        traceback.print_exception(exc)
    detail = getattr(exc, "detail", "")
    if detail:
        print(detail.rstrip(), file=sys.stderr)
    print(f"error: {line or exc}", file=sys.stderr)
    return USAGE if isinstance(exc, ConfigError) else FAILED

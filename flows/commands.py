"""What every command line shares: the configuration's options, exit codes, one line an error."""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import NoReturn

from configs.loading import ConfigError, arguments, load_config
from configs.redaction import redact
from configs.schema import Config
from flows.console import LineHandler, Parser, error, say
from flows.streams import our_streams
from tasks.errors import PipelineError
from tasks.outcomes import FAILED, INTERRUPTED, USAGE, Promotion
from tasks.program import command_here, command_name

ENVIRONMENT = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",  # its heartbeat prints `database is locked` on a temporary server
    "PREFECT_CLIENT_MAX_RETRIES": "2",  # 2 and 4 s apart; with Prefect's 5 tries a lost API holds a run up for minutes
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",  # or each event that a lost API does not take is a page of its own
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # our lines tell the story; Prefect keeps its log
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",  # a line outside a run is for the screen alone
    "PREFECT_LOGGING_EXTRA_LOGGERS": "tasks",  # and gets ours, for its pages
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # 7 tries take minutes; a stage is tried again anyway
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",  # or a server holds a run up for as long as it likes
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # a locked database is a page of its own else, besides our line
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # the summary names the page
    "DO_NOT_TRACK": "true",
}


def config_parser(module: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """Return a parser with the options that every command takes."""
    parser = Parser(prog=command_name(module), description=description, epilog=epilog)
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the rehearsal's YAML file")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override a value of the file; may be given several times",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def version_number(text: str) -> int:
    """Read an option's value that is a version.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"a version is a whole number from 1 on, got '{text}'")
    return int(text)


def can_be_written(file: Path) -> bool:
    """Return whether a plain file can be written there; a pipe, above all, would wait for its other end."""
    is_other = file.exists() and not file.is_file()
    return not is_other and os.access(file if file.exists() else file.parent, os.W_OK)


def run_command(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    action: Callable[[argparse.Namespace, Config], int],
) -> int:
    """Read the arguments and the configuration, do it, and return the exit code."""
    with our_streams():
        return _run_command(parser.parse_args(argv), action)


def _run_command(args: argparse.Namespace, action: Callable[[argparse.Namespace, Config], int]) -> int:
    try:
        return action(args, load_config(args.config, args.set))
    except (ConfigError, PipelineError) as exc:
        return _report(exc, args.debug)
    except KeyboardInterrupt:
        words, command = _left_open(args)
        say(f"interrupted{words}", command=command, stream=sys.stderr)
        return INTERRUPTED
    except Exception as exc:  # noqa: BLE001  the end of the program: one line whatever it was
        words = redact(" ".join(f"{type(exc).__name__}: {exc}".split()))
        return _report(exc, args.debug, f"{words[:500]} (--debug shows where)")


@contextlib.contextmanager
def session() -> Iterator[None]:
    """Set the libraries' environment, show the stages' lines, and turn SIGTERM into an end that cleans up."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    _reach_this_machine_directly()
    logging.getLogger().addHandler(logging.NullHandler())  # or what nobody handles is printed to standard error
    logging.raiseExceptions = False  # that a log line could not be sent to Prefect is no line of its own
    try:
        with _ending_on_sigterm(), _no_interrupt_lost(), _lines_on_stdout():
            yield
    finally:
        gc.freeze()  # or the end of the process looks through every object of Prefect and MLflow again, for 0.7 s


def _reach_this_machine_directly() -> None:
    """Have no HTTP_PROXY come between us and servers on this machine's loopback, which no proxy reaches."""
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1", "localhost", "::1")))


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
def _no_interrupt_lost() -> Iterator[None]:
    """Deliver an interrupt again that came where Python drops exceptions, as in a destructor or a weak reference.

    Prefect's own handler of SIGTERM raises an exception that names the signal; the others raise KeyboardInterrupt.
    """
    before = sys.unraisablehook

    def again(dropped: sys.UnraisableHookArgs) -> None:
        exc = dropped.exc_value
        number = getattr(exc, "signal", signal.SIGINT if isinstance(exc, KeyboardInterrupt) else None)
        if number is None or isinstance(exc, Exception):
            before(dropped)
        else:
            threading.Thread(target=_send_again, args=(number, again.__code__), daemon=True).start()

    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = before


def _send_again(number: int, hook: CodeType) -> None:
    """Send a signal to the main thread once it has left the hook, where what a handler raises is dropped, too."""
    main = threading.main_thread().ident
    assert main is not None
    while any(frame.f_code is hook for frame, _ in traceback.walk_stack(sys._current_frames().get(main))):
        time.sleep(0.001)
    signal.pthread_kill(main, number)


@contextlib.contextmanager
def _lines_on_stdout() -> Iterator[None]:
    """Show what the stages log, as plain lines."""
    logger = logging.getLogger("tasks")
    handler = LineHandler()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _left_open(args: argparse.Namespace) -> tuple[str, str]:
    """Return what an interrupt has left half-done in production, and the command that finishes it."""
    from tasks.store.journal import pending

    with contextlib.suppress(ConfigError, PipelineError):
        config = load_config(args.config, args.set)
        change = pending(config.live_dir)
        if change is not None:
            command = f"{command_here('flows.doctor')} {arguments(str(args.config), args.set)}"
            return f"; the {change.operation} of version {change.version} is not finished, and may serve:", command
    return "", ""


def exit_code(promotion: Promotion, what: str) -> int:
    """Say what has become of a version, on stderr if it is a failure, and return the exit code."""
    code = promotion.state.exit_code
    line = f"{what} {promotion.state}: {promotion.reason}"
    if code == FAILED:
        error(line)
    else:
        say(line, colour=promotion.state.colour)
    return code


def _report(exc: Exception, debug: bool, line: str = "") -> int:
    """Print an error as one line, with its evidence below, and return its exit code."""
    if debug:
        traceback.print_exception(exc)
    error(line or str(exc))
    detail = getattr(exc, "detail", "")
    if detail:
        say(detail.rstrip(), stream=sys.stderr)
    return USAGE if isinstance(exc, ConfigError) else FAILED

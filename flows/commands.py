"""What all command lines share: the options of the configuration, exit codes, and one-line errors."""

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
from typing import TYPE_CHECKING, NoReturn

from configs.loading import ConfigError, arguments, load_config
from configs.redaction import redact
from configs.schema import Config
from flows.console import LineHandler, Parser, error, say, warning
from flows.streams import our_streams
from tasks.errors import PipelineError, WrongFile, WrongTransport
from tasks.outcomes import FAILED, INTERRUPTED, USAGE, Promotion
from tasks.program import command_here, command_name
from tasks.words import one_line

if TYPE_CHECKING:
    from tasks.production.metrics import Watch

ENVIRONMENT = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",  # its heartbeat logs `database is locked` on a temporary server
    "PREFECT_CLIENT_MAX_RETRIES": "2",  # after 2 and 4 s; Prefect's default of 5 takes minutes
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",  # else each event that a lost API does not accept logs a traceback
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # our lines say the same; Prefect's log has the rest
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",  # lines outside a run are for the screen only
    "PREFECT_LOGGING_EXTRA_LOGGERS": "tasks",  # Prefect's pages show our lines
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the default of 7 takes minutes, and stages are retried anyway
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",  # else the server decides how long a run waits
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # else a locked database logs a traceback besides our line
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # the summary names the page
    "DO_NOT_TRACK": "true",
}


def config_parser(module: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """Return a parser with the options that every command takes."""
    parser = Parser(prog=command_name(module), description=description, epilog=epilog)
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the YAML file of the rehearsal")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override a value of the file; can be repeated",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def version_number(text: str) -> int:
    """Return the version number that an option's value gives.

    Raises:
        argparse.ArgumentTypeError: the value is not a version number.
    """
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"a version must be a whole number of at least 1, got '{text}'")
    return int(text)


def person(text: str) -> str:
    """Return the name that an option gives, which is printed, logged and signed as it is.

    Raises:
        argparse.ArgumentTypeError: it has control characters, or others that change how a line looks.
    """
    if not text.isprintable():
        raise argparse.ArgumentTypeError(f"a name must be printable text on one line, got {text!r}")
    return text


def can_be_written(file: Path) -> bool:
    """Return whether a regular file can be written there; writing to a pipe would wait for its reader."""
    is_other = file.exists() and not file.is_file()
    return not is_other and os.access(file if file.exists() else file.parent, os.W_OK)


def run_command(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    action: Callable[[argparse.Namespace, Config], int],
) -> int:
    """Read the arguments and the configuration, run the action, and return the exit code."""
    with our_streams():
        return _run_command(parser.parse_args(argv), action)


def _run_command(args: argparse.Namespace, action: Callable[[argparse.Namespace, Config], int]) -> int:
    return ended(lambda: action(args, load_config(args.config, args.set)), args.debug, lambda: _left_open(args))


def ended(
    action: Callable[[], int], debug: bool | None = None, left_open: Callable[[], tuple[str, str]] = lambda: ("", "")
) -> int:
    """Run what a command does and return the exit code; every error ends it with one line.

    Args:
        debug: whether tracebacks are shown; None for a command about a table, which has no such option, and whose
            errors name columns, in which line breaks are possible.
        left_open: returns what an interrupt leaves unfinished, and the command that finishes it.
    """
    try:
        return action()
    except (ConfigError, PipelineError) as exc:
        return _report(exc, debug, one_line(str(exc)) if debug is None else "")
    except KeyboardInterrupt:
        words, command = left_open()
        say(f"interrupted{words}", command=command, stream=sys.stderr)
        return INTERRUPTED
    except Exception as exc:  # noqa: BLE001  the program ends with one line, whatever the error is
        words = one_line(redact(f"{type(exc).__name__}: {exc}"), 500)
        return _report(exc, debug, words if debug is None else f"{words} (--debug shows where)")


def check_rows_of(config: Config) -> None:
    """Look at the headers of `data.file`, before anything is started.

    Raises:
        WrongFile: nothing matches, a file cannot be read, or a declared column does not exist.
    """
    if config.data.file:
        from tasks.datasets.declared_rows import check_files  # pyarrow takes a fifth of a second to import

        check_files(config.data)


def check_keys(config: Config, *, promotes: bool) -> None:
    """Look at the keys of proofs, before anything is started.

    Args:
        promotes: whether this command may make a version live, unless a person decides about it elsewhere.

    Raises:
        ConfigError: a key cannot be used, or is needed and missing.
    """
    from tasks.proof.keys import signing_key
    from tasks.proof.signing import approvers_of

    approvers_of(config)
    signing_key(config.promote, signs=promotes and config.promote.mode == "auto")


@contextlib.contextmanager
def session() -> Iterator[None]:
    """Set the environment of the libraries, show the log lines of the stages, and clean up on SIGTERM."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    _reach_this_machine_directly()
    logging.getLogger().addHandler(logging.NullHandler())  # else unhandled records are printed to standard error
    logging.raiseExceptions = False  # else each log line that Prefect does not accept prints a traceback
    try:
        with _ending_on_sigterm(), _no_interrupt_lost(), _lines_on_stdout():
            yield
    finally:
        gc.freeze()  # else the interpreter's last collection takes 0.7 s for the objects of Prefect and MLflow


def _reach_this_machine_directly() -> None:
    """Connect to servers on this machine's loopback without HTTP_PROXY, because a proxy cannot reach them."""
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1", "localhost", "::1")))


@contextlib.contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that servers and staging directories are removed."""

    def end(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _no_interrupt_lost() -> Iterator[None]:
    """Send an interrupt again if Python dropped its exception, as in a destructor or a callback of a weak reference.

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
    """Send a signal to the main thread after it has left the hook, in which Python drops exceptions as well."""
    main = threading.main_thread().ident
    assert main is not None
    while any(frame.f_code is hook for frame, _ in traceback.walk_stack(sys._current_frames().get(main))):
        time.sleep(0.001)
    signal.pthread_kill(main, number)


@contextlib.contextmanager
def _lines_on_stdout() -> Iterator[None]:
    """Print the log records of the stages as plain lines."""
    logger = logging.getLogger("tasks")
    handler = LineHandler()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _left_open(args: argparse.Namespace) -> tuple[str, str]:
    """Return which change of production an interrupt left unfinished, and the command that finishes it."""
    from tasks.store.journal import pending

    with contextlib.suppress(ConfigError, PipelineError):
        config = load_config(args.config, args.set)
        change = pending(config.live_dir)
        if change is not None:
            command = f"{command_here('flows.doctor')} {arguments(str(args.config), args.set)}"
            what = f"the {change.title} is not finished, and it may be live already"
            return f"; {what}. Finish it with", command
    return "", ""


def exit_code(promotion: Promotion, what: str) -> int:
    """Print the outcome of a version, on stderr if it is a failure, and return the exit code."""
    code = promotion.state.exit_code
    line = f"{what} {promotion.state}: {promotion.reason}"
    if code == FAILED:
        error(line)
    else:
        say(line, colour=promotion.state.colour)
    return code


def tell_others(config: Config, promotion: Promotion, title: str, watched: Watch | None = None) -> None:
    """Tell MLflow and Prefect of a change of production that was made without them, and that they cannot undo.

    Args:
        title: of Prefect's flow run. watched: production's metrics since before the change, or None.
    """
    from tasks.production.turn import inform, with_metrics

    if watched is not None:
        with _as_warning("Production's metrics are not read"):
            promotion = with_metrics(config, watched, promotion)
    with _as_warning("MLflow is not updated yet; the next promotion or the doctor will do it"):
        inform(config)
    if os.environ.get("PREFECT_API_URL"):
        with _as_warning("Prefect's pages do not show the change"):
            from flows.change_run import change_run

            change_run(title, config.name, promotion)


@contextlib.contextmanager
def _as_warning(what: str) -> Iterator[None]:
    """Print an error as a warning, because production has been changed successfully."""
    try:
        yield
    except Exception as exc:  # noqa: BLE001  no error may change the exit code
        warning(f"{what}: {' '.join(str(exc).split())[:500]}")


def show_calls(exc: Exception) -> None:
    """Print the traceback of an error, and before it the part that begins in the user's code, if there is one."""
    from tasks.datasets.user_code import users_traceback

    own = users_traceback(exc)
    if own:
        print(f"In your code:\n{own}\nIn all code:", file=sys.stderr)
    traceback.print_exception(exc)


def _report(exc: Exception, debug: bool | None, line: str = "") -> int:
    """Print an error as one line, with its details below, and return its exit code."""
    if debug:
        show_calls(exc)
    error(line or str(exc))
    detail = getattr(exc, "detail", "")
    if detail:
        say(detail.rstrip(), stream=sys.stderr)
    return USAGE if isinstance(exc, ConfigError | WrongFile | WrongTransport) else FAILED

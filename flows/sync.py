"""Follow an object store beside a server: `python -m flows.sync --from s3://BUCKET/PREFIX --to /models`."""

from __future__ import annotations

import argparse
import contextlib
import random
import re
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from configs.errors import ConfigError
from configs.object_stores import is_address, store_address
from configs.redaction import redact
from configs.schema import MODEL_NAME
from flows.commands import session
from flows.console import Parser, error, say
from flows.streams import our_streams
from tasks.errors import PipelineError, StoreRefused
from tasks.outcomes import DONE, FAILED, USAGE
from tasks.program import command_name

LONGEST_WAIT_S = 60.0
JITTER = 0.2  # so that many servers do not ask at the same moment


def main(argv: Sequence[str] | None = None) -> int:
    """Follow until Ctrl-C or SIGTERM, or once, and return the exit code."""
    args = build_parser().parse_args(argv)
    with our_streams(), session():
        try:
            return _follow(args)
        except KeyboardInterrupt:
            say("stopped; what is served stays", stream=sys.stderr)
            return FAILED if args.once else DONE
        except ConfigError as exc:
            error(redact(str(exc)))
            return USAGE
        except PipelineError as exc:
            error(redact(str(exc)))
            return FAILED


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    parser = Parser(
        prog=command_name("flows.sync"),
        description="Make the directory of a model server follow an object store: each version is fetched, compared "
        "with its digest, and appears by one rename. Credentials and the endpoint come from the environment and the "
        "files of AWS.",
        epilog="Exit codes: 0 you stopped it, or --once is complete; 1 --once is not complete, nothing is live of a "
        "--model, or the directory or the port cannot be used; 2 usage error, or the store does not accept this client "
        "at the first look.",
    )
    add = parser.add_argument
    add("--from", dest="address", type=_store, required=True, metavar="s3://BUCKET/PREFIX", help="the models_root")
    add("--to", type=_directory, required=True, metavar="DIRECTORY", help="the directory that the server reads")
    add("--model", action="append", default=[], type=_model, help="a model to follow (default: all); can be repeated")
    add("--once", action="store_true", help="look once and end, such as before a server starts")
    add("--interval", type=_seconds, default=5.0, metavar="SECONDS", help="between two looks (default 5)")
    add("--keep", type=_count, default=2, metavar="N", help="newest versions to have, without labels (default 2)")
    add("--health", type=_address, metavar="HOST:PORT", help="answer GET /healthz here")
    add("--stale", type=_seconds, default=300.0, metavar="SECONDS", help="without a look: not healthy (default 300)")
    add("--directory-mode", type=_mode, default=0o755, metavar="MODE", help="mode of directories (default 0755)")
    add("--file-mode", type=_mode, default=0o644, metavar="MODE", help="mode of files (default 0644)")
    return parser


def _follow(args: argparse.Namespace) -> int:
    from tasks.objects.bucket import Bucket
    from tasks.objects.follow import Follower, Target, only_sync, reasons
    from tasks.objects.health import Health, answering

    if args.health and args.stale < 2 * args.interval:
        raise ConfigError(
            f"--stale must be at least twice --interval, else the sync is not healthy between two looks, got "
            f"--stale {args.stale:g} and --interval {args.interval:g}"
        )
    bucket = Bucket(args.address)
    target = Target(args.to.absolute(), args.keep, args.directory_mode, args.file_mode)
    health = Health(args.stale)
    with only_sync(target.root), answering(health, args.health) as url:
        if url:
            say(f"health at {url}")
        follower = Follower(bucket, target, args.model)
        failures, told, told_nothing = 0, "", False
        while True:
            complete = follower.look()
            reason = reasons(follower.problems)
            health.note(follower.followed, reason, serves=follower.serves)
            if not failures and not health.now()[1]["ready"] and (refused := _refused(follower.problems.values())):
                raise ConfigError(str(refused))
            if reason and reason != told:
                error(reason)
            elif told and not reason:
                say("the directory is again what the store says")
            live = {name for name, found in follower.followed.items() if found.champion is not None}
            absent = [name for name in args.model if name not in live]
            if complete and (absent or not live) and not told_nothing:
                what = f"of {', '.join(absent)} " if absent else ""
                say(
                    f"nothing is live {what}below {args.address} yet; it must be the models_root without a model's name"
                )
                told_nothing = True
            told, failures = reason, 0 if complete else failures + 1
            if args.once:
                return DONE if complete and not absent else FAILED
            longest = max(args.interval, LONGEST_WAIT_S)
            wait = min(args.interval * 2 ** min(failures, 10), longest) if failures else args.interval
            threading.Event().wait(wait * random.uniform(1 - JITTER, 1 + JITTER))  # noqa: S311  no secret


def _refused(problems: Iterable[PipelineError]) -> StoreRefused | None:
    return next((exc for exc in problems if isinstance(exc, StoreRefused)), None)


def _store(text: str) -> str:
    try:
        if not is_address(text):
            raise ValueError("must be the address of an object store, such as s3://BUCKET/PREFIX")
        return store_address(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"it {exc}; got '{redact(text)}'") from exc


def _directory(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("it must be a directory, got an empty text")
    return Path(text)


def _model(text: str) -> str:
    if not MODEL_NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"a model must be the name of one, got {text!r}")
    return text


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0.1 <= float(text) <= 86400:
            return float(text)
    raise argparse.ArgumentTypeError(f"seconds must be a number from 0.1 to 86400, got {text!r}")


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"it must be a whole number from 1 to 1000, got {text!r}")
    return int(text)


def _mode(text: str) -> int:
    if not re.fullmatch(r"0?[4-7][0-7]{2}", text):
        raise argparse.ArgumentTypeError(f"a mode must be octal digits, such as 0755, got {text!r}")
    return int(text, 8)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"it must be HOST:PORT, such as 127.0.0.1:8081, got {text!r}")
    return host.strip("[]"), int(port)


if __name__ == "__main__":
    raise SystemExit(main())

"""Show the history of a model, and what served when: `python -m flows.history --config cfg.yaml --at TIME`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from configs.addresses import production_address
from configs.errors import ConfigError
from configs.loading import load_config
from configs.schema import Config
from flows.commands import ended
from flows.console import Parser, error, say
from flows.streams import our_streams
from tasks.outcomes import DONE, FAILED, GREEN, REJECTION, YELLOW
from tasks.program import command_name
from tasks.words import one_line

if TYPE_CHECKING:
    from tasks.store.history import Entry
    from tasks.store.timeline import Served

COLUMNS = ("time", "version", "state", "digest", "by", "reason")


def main(argv: Sequence[str] | None = None) -> int:
    """Show the history and return the exit code."""
    with our_streams():
        args = build_parser().parse_args(argv)
        return ended(lambda: _show(args), args.debug)


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    parser = Parser(
        prog=command_name("flows.history"),
        description="Show every change of a model as a table, which bytes served at a time, who put them there and "
        "why, and whether a server reports what the history says. Nothing is changed.",
        epilog="Exit codes: 0 shown; 3 the server does not serve what the history says; 1 the history was changed "
        "after it was written, or the server does not answer or does not know the model; 2 usage or configuration "
        "error.",
    )
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--config", type=Path, metavar="FILE", help="the YAML file of the rehearsal")
    place.add_argument("--dir", type=Path, metavar="DIRECTORY", help="the model's directory, such as models/digits")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE",
        help="override a value of the file; can be repeated",
    )  # fmt: skip
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--at", type=_time, metavar="TIME",
        help="what served at this time, such as 2026-11-25T03:30Z or 2026-11-25T04:30+01:00",
    )  # fmt: skip
    what.add_argument(
        "--served-by", type=_address, metavar="URL",
        help="compare with what this server reports: http://HOST:PORT or grpc://HOST:PORT",
    )  # fmt: skip
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _time(text: str) -> datetime:
    """Return the time that an option gives.

    Raises:
        argparse.ArgumentTypeError: it is not a time, or has no offset.
    """
    rule = "must be an ISO 8601 time with an offset, such as 2026-11-25T03:30Z or 2026-11-25T04:30+01:00"
    try:
        time = datetime.fromisoformat(text)
        in_utc = time.astimezone(UTC)
    except (ValueError, OverflowError):  # the latter is what a year before 1 raises
        raise argparse.ArgumentTypeError(f"{rule}, got '{text}'") from None
    if time.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{rule}, got '{text}', which means another time on each machine")
    return in_utc


def _address(text: str) -> str:
    try:
        address = production_address(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{exc}, got '{text}'") from exc
    if not address:
        raise argparse.ArgumentTypeError("must not be empty")
    return address


def _show(args: argparse.Namespace) -> int:
    from tasks.store.history import head_digest, read

    if args.dir is not None and args.set:
        raise ConfigError("--set overrides a value of --config, and --dir has no configuration; leave it out")
    if args.at is not None and args.at > (now := datetime.now(UTC)):
        raise ConfigError(f"--at must not lie in the future, got {_shown(args.at)}; now it is {_shown(now)}")
    config = load_config(args.config, args.set) if args.config is not None else None
    model_dir = _of_config(config) if config is not None else _given(args.dir)
    entries = read(model_dir)
    if args.at is not None:
        _tell(entries, args.at, model_dir)
    elif args.served_by is None:
        _table(entries, model_dir)
        if entries:
            say(f"head {head_digest(model_dir)}")
    code = _chain(model_dir, config)
    return code if args.served_by is None else max(code, _compare(args.served_by, model_dir, entries, config))


def _given(directory: Path) -> Path:
    """Return the directory of a model, whatever its path looks like.

    Raises:
        ConfigError: there is no history.
    """
    from tasks.store.history import HISTORY

    model_dir = directory.resolve()
    if not (model_dir / HISTORY).exists():
        hint = f"; did you mean '{directory.parent}'?" if (model_dir.parent / HISTORY).exists() else ""
        raise ConfigError(
            f"--dir must be the directory of a model, which has its history in {HISTORY}, got '{directory}'{hint}"
        )
    return model_dir


def _of_config(config: Config) -> Path:
    """Return the directory of a model, after a look at the object store if it has one."""
    if config.object_store:
        from tasks.objects.store import refresh

        refresh(config)
    return config.live_dir


def _chain(model_dir: Path, config: Config | None) -> int:
    """Say what is wrong with the chain, and return the exit code."""
    from tasks.proof.chain import HEAD, HISTORY, chain_problems
    from tasks.proof.signing import head_keys

    if not (model_dir / HISTORY).exists():
        return DONE
    publics = head_keys(config) if config is not None else ()
    problems = chain_problems(model_dir, publics, model=model_dir.name)
    for problem in problems:
        error(problem)
    if not publics and (model_dir / HEAD).exists():
        why = "promote.trusted_keys names no key" if config is not None else "--dir has no key"
        say(f"the signature of the history is not checked, because {why}; {command_name('flows.verify')} --key does so")
    return FAILED if problems else DONE


def _table(entries: Sequence[Entry], model_dir: Path) -> None:
    """Print one line for each change; each column is as wide as its longest text."""
    if not entries:
        say(f"nothing has happened in '{model_dir}' yet")
        return
    rows = [COLUMNS, *(_row(entry) for entry in entries)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS) - 1)]
    for row in rows:
        fixed = "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=False))
        say(row[-1], f"{fixed}  " if row[-1] else fixed.rstrip())


def _row(entry: Entry) -> tuple[str, ...]:
    time = _shown(datetime.fromisoformat(entry.time))
    words = (one_line(text, 300) for text in (entry.state, entry.digest[:12], entry.actor, entry.reason))
    return (time, str(entry.version), *words)


def _shown(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"


def _tell(entries: Sequence[Entry], when: datetime, model_dir: Path) -> None:
    """Print what served at a time, who put it there, and why."""
    from tasks.store.timeline import served_at

    found = served_at(entries, when)
    if not found:
        first = next((entry for entry in entries if entry.state in ("live", "canary")), None)
        since = f"; the first one came at {_shown(datetime.fromisoformat(first.time))}" if first else ""
        say(f"{_shown(when)}: no version of '{model_dir.name}' served{since}", colour=YELLOW)
    for served in found:
        _tell_one(served, when)


def _tell_one(served: Served, when: datetime) -> None:
    entry = served.entry
    say(f"{_shown(when)}: version {entry.version} served, {served.role}", colour=GREEN)
    until = "still, by the last line of the history"
    if served.ended is not None:
        end = served.ended
        why = f": version {end.version} {end.state}" + (f" by {end.actor}" if end.actor else "")
        until = f"{_shown(datetime.fromisoformat(end.time))}{one_line(why, 300)}"
    for label, text in (
        ("digest", entry.digest),
        ("since", _shown(datetime.fromisoformat(entry.time))),
        ("until", until),
        ("by", entry.actor),
        ("reason", entry.reason or "the gates passed, and no person was asked"),
        ("MLflow run", entry.run),
    ):
        if text:
            say(one_line(text, 500), f"  {label:<11}")


def _compare(address: str, model_dir: Path, entries: Sequence[Entry], config: Config | None) -> int:
    """Print whether a server reports what the history says, and return the exit code."""
    from tasks.production.live_check import Endpoint
    from tasks.production.served_by import compare

    endpoint = Endpoint(address, model_dir.name)
    if config is not None and address in config.promote.live_addresses:  # only there do its headers belong
        from tasks.production.server import endpoints

        endpoint = next(one for one in endpoints(config) if one.address == address)
    found = compare(endpoint, model_dir, entries)
    for text in found.same:
        say(text, colour=GREEN)
    for text in found.different:
        error(text)
    say(
        "A server reports versions and not bytes: that it has these files is known only if it watches "
        f"'{model_dir}', whose files were compared with the history"
    )
    return REJECTION if found.different else DONE


if __name__ == "__main__":
    raise SystemExit(main())

"""Serve a model to try requests by hand: `python -m flows.try_out --config cfg.yaml [--version N]`."""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from configs.loading import ConfigError
from configs.schema import Config
from flows.commands import can_be_written, config_parser, run_command, session, version_number
from flows.console import say
from tasks.datasets.answers import WRITERS, save_table, shown_table
from tasks.datasets.row_files import problem_of
from tasks.outcomes import DONE
from tasks.serving.launch import ThrowawayServer, throwaway_server
from tasks.try_out import Tried, ask, choose_model, first_server, invitation, read_rows

POLL_S = 0.2


def main(argv: Sequence[str] | None = None) -> int:
    """Serve a model until Ctrl-C, or send it a file of rows, and return the exit code."""
    return run_command(build_parser(), argv, _try_out)


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    parser = config_parser(
        "flows.try_out",
        "Serve the live version, a candidate or any SavedModel in a throwaway model server until Ctrl-C, and print a "
        "request to paste. With --rows, send these rows to the model and print a table of the answers. What is live "
        "does not change.",
        "Exit codes: 0 the rows were answered, or you stopped the server; 1 the model cannot be served; 2 usage or "
        "configuration error, or a file that cannot be used; 130 interrupted while starting.",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--version", type=version_number, metavar="N", help="serve this candidate, not the live version")
    which.add_argument("--model", type=Path, metavar="DIRECTORY", help="serve any SavedModel directory")
    parser.add_argument("--signature", metavar="NAME", default="", help="which of several signatures to serve")
    parser.add_argument("--rows", type=Path, metavar="FILE", help="file of rows to send: .csv, .json, .parquet or .npz")
    parser.add_argument("--out", type=Path, metavar="FILE", help="file to save the table to: .csv, .json or .parquet")
    return parser


def _try_out(args: argparse.Namespace, config: Config) -> int:
    _check_files(args)
    with session(), tempfile.TemporaryDirectory(prefix="rehearsal-") as scratch:
        model = choose_model(config, args.version, args.model, args.signature, Path(scratch))
        asked = read_rows(config, model, args.rows) if args.rows else None
        serving, backend = first_server(config.serving)
        with throwaway_server(backend, serving, model, Path(scratch) / "server.log") as (server, client):
            if asked is None:
                return _until_stopped(server, model, Path(scratch) / "example.json")
            table = ask(model, client, asked)
    print(shown_table(table, shutil.get_terminal_size((120, 24)).columns))
    if args.out:
        save_table(table, args.out)
        say(f"Saved to {args.out}")
    return DONE


def _check_files(args: argparse.Namespace) -> None:
    """Raise `ConfigError` for a file that cannot be read or written, before anything is started."""
    problem = problem_of(args.rows, "--rows") if args.rows else ""
    if problem:
        raise ConfigError(problem)
    if args.out:
        if not args.rows:
            raise ConfigError("--out saves the answers to the rows of a file; add --rows FILE")
        if args.out.suffix not in WRITERS:
            raise ConfigError(f"--out must be a file with the suffix {' or '.join(WRITERS)}, got '{args.out}'")
        if not can_be_written(args.out):
            raise ConfigError(f"--out must be a file in a writable directory, got '{args.out}'")
        if args.out.exists() and args.out.samefile(args.rows):
            raise ConfigError(f"--out and --rows must be different files, got '{args.out}' for both")


def _until_stopped(server: ThrowawayServer, model: Tried, example: Path) -> int:
    """Print a request to paste, and wait until Ctrl-C, SIGTERM or the end of the server."""
    try:
        sentences, command, python = invitation(server, model, example)
        say("\n".join(sentences))
        if command:
            say()
            say(command=command)
            print("", *python, sep="\n")
        say("\nPress Ctrl-C to stop the server")
        while (error := server.ended()) is None:
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        return DONE
    raise error


if __name__ == "__main__":
    raise SystemExit(main())

"""The console script `keras-rehearsal` and its subcommands."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

# Our packages are imported first, so that a user's directory cannot shadow their names.
import configs  # noqa: F401
from flows.console import Line, error, say, write
from flows.streams import our_streams
from tasks.outcomes import INTERRUPTED
from tasks.program import SCRIPT, SUBCOMMANDS

# These flows have their command line in a separate module, which answers before Prefect is imported.
COMMAND_LINES = {
    "flows.train_and_serve": "flows.cli",
    "flows.promote": "flows.promote_cli",
    "flows.rehearse": "flows.rehearse_cli",
    "flows.sweep": "flows.sweep_cli",
}

HELP = f"""usage: {SCRIPT} COMMAND [OPTION ...]

  init          write a configuration and the code of a model, both ready to run
  infer-schema  write a configuration that declares the columns of a CSV or Parquet file
  check         check your functions, rows and model, and what a run needs, within seconds
  run           train a model, judge it in a throwaway model server, log it to MLflow, and promote it
  sweep         train variants of a model side by side, and judge the best one as a run does
  rehearse      judge a model that was trained elsewhere, log it, and promote it
  try-out       serve a model until Ctrl-C, or send it a file of rows
  promote       act on reviewers' decisions, or approve or reject a candidate yourself
  rollback      make an earlier version live again
  rebuild       train and export a version again, and say whether its bytes are the same
  ab            compare versions on real users, and make the winner stable
  doctor        find what a crash left behind, and repair it
  reap          remove the containers that killed runs left behind
  webhook       act on reviewers' decisions at once, told by MLflow
  sync          follow an object store beside a model server
  history       show every change, and which bytes served when
  keys          make the keys that sign promotions and approvals
  verify        check a version with a public key: bytes, statement, evidence
  serve         run the embedded model server

'{SCRIPT} COMMAND --help' shows the options of a command, and '{SCRIPT} --version' the version.
"""
LINES = HELP.splitlines()
LABEL = len("  infer-schema  ")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit code."""
    word, *rest = [*(sys.argv[1:] if argv is None else argv)] or ["--help"]
    if word == "serve":  # it prints only its log, unbuffered
        return _run(word, rest)
    with our_streams():
        try:
            return _run(word, rest)
        except KeyboardInterrupt:  # during an import, before a command takes care of it
            say("interrupted", stream=sys.stderr)
            return INTERRUPTED


def _run(word: str, rest: list[str]) -> int:
    if word in ("-h", "--help"):
        write([Line(line[LABEL:], line[:LABEL]) if line.startswith(" ") else Line(line) for line in LINES], sys.stdout)
        return 0
    if word == "--version":
        print(f"{SCRIPT} {version(SCRIPT)}")
        return 0
    if word not in SUBCOMMANDS:
        error(f"'{SCRIPT} {word}' is not a command; the commands are {', '.join(SUBCOMMANDS)}")
        return 2
    try:
        here = str(Path.cwd())
    except OSError as exc:
        error(f"the current directory must exist and be readable, got {exc.strerror}; change to another one")
        return 2
    if here not in sys.path:
        sys.path.insert(0, here)  # the user's modules, as with `python -m`
    module = SUBCOMMANDS[word]
    if module == "tasks.model_server":
        module = "tasks.model_server.__main__"
    return int(importlib.import_module(COMMAND_LINES.get(module, module)).main(rest))

"""The console script `keras-rehearsal`: one word for each command."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

# Ours are imported now: what a user's directory holds under these names is found no more.
import configs  # noqa: F401
from flows.console import error
from flows.streams import our_streams
from tasks.program import SCRIPT, SUBCOMMANDS

# Of two flows the command line is a module of its own, so that it answers before Prefect is imported.
COMMAND_LINES = {
    "flows.train_and_serve": "flows.cli",
    "flows.promote": "flows.promote_cli",
    "flows.rehearse": "flows.rehearse_cli",
}

HELP = f"""usage: {SCRIPT} COMMAND [OPTION ...]

  init      write a configuration and a model's code that run as they are
  check     try your functions, rows and model, and what a run needs, in seconds
  run       train a model, judge it in a throwaway model server, log it to MLflow, promote it
  rehearse  judge a model that was trained elsewhere, log it, promote it
  try-out   serve a model until Ctrl-C, or ask it about a file of rows
  promote   act on what reviewers decided, or decide here
  rollback  put the version that served before back
  doctor    find what a crash left, and mend it
  reap      remove containers that killed runs left behind
  serve     run the embedded model server

'{SCRIPT} COMMAND --help' shows a command's options; '{SCRIPT} --version' the version.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    word, *rest = [*(sys.argv[1:] if argv is None else argv)] or ["--help"]
    if word == "serve":  # it says nothing but its log, and each line of that at once
        return _run(word, rest)
    with our_streams():
        return _run(word, rest)


def _run(word: str, rest: list[str]) -> int:
    if word in ("-h", "--help"):
        print(HELP, end="")
        return 0
    if word == "--version":
        print(f"{SCRIPT} {version(SCRIPT)}")
        return 0
    if word not in SUBCOMMANDS:
        error(f"'{SCRIPT} {word}' is not a command; the commands are {', '.join(SUBCOMMANDS)}")
        return 2
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # the user's modules, as with `python -m`
    module = SUBCOMMANDS[word]
    if module == "tasks.model_server":
        module = "tasks.model_server.__main__"
    return int(importlib.import_module(COMMAND_LINES.get(module, module)).main(rest))

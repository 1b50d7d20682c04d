"""The commands that start this project's programs, in a checkout or from an installed wheel."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SCRIPT = "keras-rehearsal"
SUBCOMMANDS = {
    "init": "flows.init",
    "infer-schema": "flows.infer_schema",
    "check": "flows.check",
    "run": "flows.train_and_serve",
    "sweep": "flows.sweep",
    "rehearse": "flows.rehearse",
    "try-out": "flows.try_out",
    "promote": "flows.promote",
    "rollback": "flows.rollback",
    "rebuild": "flows.rebuild",
    "ab": "flows.ab",
    "doctor": "flows.doctor",
    "reap": "flows.reap",
    "webhook": "flows.webhook",
    "sync": "flows.sync",
    "history": "flows.history",
    "keys": "flows.keys",
    "verify": "flows.verify",
    "serve": "tasks.model_server",
}
"""Maps a subcommand of the console script to the module that `python -m` runs in a checkout."""

# Our three packages are imported from their own location first, so that others cannot shadow their names.
_START = (
    "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); import configs, flows, tasks; del sys.path[0]; "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


def own_process(module: str, *arguments: str) -> list[str]:
    """Return the command of a child process that runs a module of this project.

    `-P` keeps the current directory out of `sys.path`, so that a user's `tasks.py` or package `configs` there cannot
    shadow ours.
    """
    return [sys.executable, "-P", "-c", _START, str(ROOT), module, *arguments]


def is_installed() -> bool:
    """Return whether this code is installed and not run from a checkout."""
    return ROOT.name in ("site-packages", "dist-packages")


def command_name(module: str) -> str:
    """Return the name of a command in general: `keras-rehearsal doctor`, or `python -m` in a checkout."""
    if is_installed():
        return f"{SCRIPT} {next(word for word, name in SUBCOMMANDS.items() if name == module)}"
    return f"python -m {module}"


def command_here(module: str) -> str:
    """Return the shell command that works in this directory and environment."""
    tools = Path(sys.executable).parent
    if not is_installed():
        return f"{short_path(tools)}/{command_name(module)}"
    on_path = shutil.which(SCRIPT) == str(tools / SCRIPT)
    return command_name(module) if on_path else f"{short_path(tools)}/{command_name(module)}"


def short_path(path: Path) -> str:
    """Return a path relative to this directory if possible, quoted for a shell."""
    relative = os.path.relpath(path)
    return shlex.quote(str(path) if relative.startswith("..") else relative)

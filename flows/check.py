"""Check a configuration and the code that it names within seconds: `python -m flows.check --config cfg.yaml`."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from configs.loading import ConfigError, require
from configs.schema import Config
from flows.commands import config_parser, run_command, session, show_calls
from flows.console import error, say
from tasks.errors import PipelineError
from tasks.outcomes import DONE, FAILED, USAGE


def main(argv: Sequence[str] | None = None) -> int:
    """Run all checks and return the exit code."""
    return run_command(build_parser(), argv, _check)


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    return config_parser(
        "flows.check",
        "Check what a run needs before its training: your functions and their parameters, the rows, the untrained "
        "model, its export and its first training steps, the directories, MLflow, Prefect and Docker. Nothing that "
        "the check writes is kept.",
        "Exit codes: 0 every check passed; 1 a check failed; 2 usage or configuration error.",
    )


def _check(args: argparse.Namespace, config: Config) -> int:
    """Run all checks, so that one call shows every mistake, and return the exit code of the worst."""
    from tasks.training.process import tensorflow_process

    require(config, "data.load", "model.build")
    code = DONE
    say("starting TensorFlow")
    with session(), tempfile.TemporaryDirectory(prefix="rehearsal-") as scratch, tensorflow_process():
        from tasks.check import checks

        for name, make in checks(config, Path(scratch)):
            try:
                say(make(), f"{name:<12} ")
            except (ConfigError, PipelineError) as exc:
                if args.debug:
                    show_calls(exc)
                error(str(exc))
                code = max(code, USAGE if isinstance(exc, ConfigError) else FAILED)
    if code == DONE:
        say(f"'{config.name}' is ready for a run")
    return code


if __name__ == "__main__":
    raise SystemExit(main())

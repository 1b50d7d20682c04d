"""Roll production back to an earlier version: `python -m flows.rollback --config cfg.yaml [--to N]`."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator, Sequence

from configs.schema import Config
from flows.commands import config_parser, exit_code, run_command, session, version_number
from flows.console import warning


def main(argv: Sequence[str] | None = None) -> int:
    """Roll back and return the exit code."""
    return run_command(build_parser(), argv, _go_back)


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    parser = config_parser(
        "flows.rollback",
        "Make an earlier version live again. With promote.layout: latest, its files are published again under the "
        "next version number; with labels, the label `stable` moves to it.",
        "Exit codes: 0 rolled back, even if MLflow or Prefect could not be updated; 1 the rollback failed, or "
        "production did not load the version; 2 usage or configuration error.",
    )
    parser.add_argument(
        "--to", type=version_number, metavar="N", help="the version to go back to (default: the previous one)"
    )
    parser.add_argument("--by", default="", metavar="NAME", help="your name, for the history")
    return parser


def _go_back(args: argparse.Namespace, config: Config) -> int:
    """Change production, and then tell MLflow and Prefect, which may be down."""
    from tasks.production.changes import go_back, inform, with_metrics
    from tasks.production.metrics import watch

    with session():
        watched = watch(config)
        promotion = go_back(config, args.to, args.by)
        code = exit_code(promotion, config.name)
        with _warning("Production's metrics are not read"):
            promotion = with_metrics(config, watched, promotion)
        with _warning("MLflow is not updated yet; the next promotion or the doctor will do it"):
            inform(config)
        if os.environ.get("PREFECT_API_URL"):
            with _warning("Prefect's pages do not show the rollback"):
                from flows.change_run import change_run

                change_run(f"rollback of {config.name}", config.name, promotion)
    return code


@contextlib.contextmanager
def _warning(what: str) -> Iterator[None]:
    """Print an error as a warning, because production has been changed successfully."""
    try:
        yield
    except Exception as exc:  # noqa: BLE001  no error may change the exit code
        warning(f"{what}: {' '.join(str(exc).split())[:500]}")


if __name__ == "__main__":
    raise SystemExit(main())

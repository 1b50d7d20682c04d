"""Take the champion back, by one command: `python -m flows.rollback --config cfg.yaml [--to N]`."""

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
    """Return the arguments."""
    parser = config_parser(
        "flows.rollback",
        "Put the bytes that served before back into the champion's place. Under promote.layout: latest they are "
        "published again under the next number; under labels the label `stable` moves.",
        "Exit codes: 0 rolled back, even if MLflow or Prefect could not be told; 1 it could not be, or production did "
        "not take it; 2 usage or configuration.",
    )
    parser.add_argument(
        "--to", type=version_number, metavar="N", help="the version to go back to (default: the one before)"
    )
    parser.add_argument("--by", default="", metavar="NAME", help="who does it, for the history")
    return parser


def _go_back(args: argparse.Namespace, config: Config) -> int:
    """Change production; whoever is to hear of it afterwards may be down."""
    from tasks.production import go_back, inform

    with session():
        promotion = go_back(config, args.to, args.by)
        code = exit_code(promotion, config.name)
        with _warning("MLflow will be told by the next promotion or the doctor"):
            inform(config)
        if os.environ.get("PREFECT_API_URL"):
            with _warning("Prefect's pages do not show it"):
                from flows.change_run import change_run

                change_run(f"rollback of {config.name}", config.name, promotion)
    return code


@contextlib.contextmanager
def _warning(what: str) -> Iterator[None]:
    """Turn an error into one line: production is changed, and that is what counts."""
    try:
        yield
    except Exception as exc:  # noqa: BLE001  whatever it is
        warning(f"{what}: {' '.join(str(exc).split())[:500]}")


if __name__ == "__main__":
    raise SystemExit(main())

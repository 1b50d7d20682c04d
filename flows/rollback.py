"""Take the champion back, by one command: `python -m flows.rollback --config cfg.yaml [--to N]`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from configs.schema import Config
from flows.commands import DONE, FAILED, answer, config_parser, session


def main(argv: Sequence[str] | None = None) -> int:
    """Roll back and return the exit code."""
    parser = config_parser(
        "flows.rollback",
        "Put the bytes that served before back into the champion's place. Under promote.layout: latest they are "
        "published again under the next number; under labels the label `stable` moves.",
        "Exit codes: 0 rolled back; 1 it could not be, or production did not take it; 2 usage or configuration.",
    )
    parser.add_argument("--to", type=int, metavar="N", help="the version to go back to (default: the one before)")
    parser.add_argument("--by", default="", metavar="NAME", help="who does it, for the history")
    return answer(parser, argv, _go_back)


def _go_back(args: argparse.Namespace, config: Config) -> int:
    """Change production first: neither Prefect nor its server is waited for."""
    from tasks.production import go_back

    with session():
        promotion = go_back(config, args.to, args.by)
        print(f"{config.name} {promotion.state}: {promotion.reason}", flush=True)
        if os.environ.get("PREFECT_API_URL"):
            from flows.shown import shown

            shown(f"rollback of {config.name}", config.name, promotion)
    return FAILED if promotion.state == "rolled back" else DONE


if __name__ == "__main__":
    raise SystemExit(main())

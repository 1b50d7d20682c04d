"""The command line that acts on reviewers' decisions."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from configs.loading import ConfigError, without_secrets
from configs.schema import Config
from flows.commands import config_parser, exit_code, person, run_command, session, version_number
from flows.console import say, warning
from tasks.datasets.user_code import describe
from tasks.outcomes import DONE, FAILED, Promotion
from tasks.proof.keys import signing_key
from tasks.proof.signing import reviewer_key
from tasks.waiting import importing

if TYPE_CHECKING:
    from flows.promote import Verdict


def main(argv: Sequence[str] | None = None) -> int:
    """Promote what was approved and return the exit code."""
    return run_command(build_parser(), argv, _run)


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    parser = config_parser(
        "flows.promote",
        "Promote the candidates whose model version in MLflow has the tag review=approved, and close those with the "
        "tag review=rejected. A candidate is refused if its files changed after its validation, and is judged again "
        "first if the live version changed.",
        "Exit codes: 0 promoted, or nothing was approved; 3 a candidate was rejected or refused; 2 usage or "
        "configuration error; 1 any other error.",
    )
    parser.add_argument("--version", type=version_number, default=0, metavar="N", help="act on this candidate only")
    verdict = parser.add_mutually_exclusive_group()
    verdict.add_argument("--approve", action="store_true", help="first approve candidate --version in the name of --by")
    verdict.add_argument("--reject", action="store_true", help="reject candidate --version in the name of --by")
    verdict.add_argument("--to", choices=["stable"], help="make the canary stable (promote.layout: labels)")
    parser.add_argument("--by", type=person, default="", metavar="NAME", help="who approves or rejects")
    parser.add_argument(
        "--key", default="", metavar="FILE",
        help="the reviewer's private key, which signs the approval (where promote.approvers lists public keys)",
    )  # fmt: skip
    parser.add_argument(
        "--later", action="store_true",
        help="only record the decision; it takes effect when the promote flow runs next, perhaps on another machine",
    )  # fmt: skip
    return parser


def _run(args: argparse.Namespace, config: Config) -> int:
    verdict: Verdict = "approved" if args.approve else "rejected" if args.reject else ""
    if verdict and not (args.version and args.by):
        raise ConfigError("--approve and --reject need --version N (which candidate) and --by NAME (who decides)")
    if args.later and not verdict:
        raise ConfigError("--later records a decision; add --approve or --reject")
    if args.by and not (verdict or args.to):
        raise ConfigError("--by NAME needs a decision; add --approve, --reject or --to stable")
    if args.to and args.version:
        raise ConfigError(f"--to {args.to} always promotes the canary and cannot be combined with --version")
    if args.to and config.promote.layout != "labels":
        raise ConfigError(f"--to {args.to} moves a label, but promote.layout is {config.promote.layout}")
    reviewer_key(config, verdict, args.key)
    if args.later:
        return _record(args, config, verdict)
    signing_key(config.promote)  # the flow does this again, for deployments
    with session():
        say("starting Prefect")
        with importing("prefect"):
            from flows.promote import promote, to_stable
            from flows.temporary_server import prefect_server
            from tasks.production.turn import settled

        overrides = without_secrets(args.set)
        settled.clear()  # outcomes of an earlier call in this process
        try:
            with prefect_server():
                if args.to:
                    outcomes = [cast(Promotion, to_stable(str(args.config), overrides, args.by))]
                else:
                    found = promote(str(args.config), overrides, args.version, verdict, args.by, args.key)
                    outcomes = cast(list[Promotion], found)
        except Exception as exc:
            if not settled:
                raise
            outcomes = list(settled)  # the changes of production count, not Prefect's state
            warning(f"only the candidates that are listed below were handled: {describe(exc)}")
    codes = [exit_code(promotion, config.name) for promotion in outcomes]
    if not outcomes:
        which = f"candidate {args.version}" if args.version else "no candidate"
        say(f"Nothing to do: {which} of '{config.name}' was {'not ' if args.version else ''}approved or rejected")
    return FAILED if FAILED in codes else max(codes, default=DONE)


def _record(args: argparse.Namespace, config: Config, verdict: str) -> int:
    """Record a decision in MLflow, which another process carries out."""
    with session():
        with importing("mlflow"):
            from tasks.review import review

        review.fn(config, args.version, verdict, args.by, args.key, later=True)
    say(f"candidate {args.version} of '{config.name}' is {verdict}; the promote flow acts on it when it runs next")
    return DONE


if __name__ == "__main__":
    raise SystemExit(main())

"""The command line of the main job."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import cast

from configs.loading import arguments, require, shown, without_secrets
from configs.schema import Config
from flows.commands import check_keys, check_rows_of, config_parser, run_command, session
from flows.console import error, say, warning, write
from tasks.datasets.declared import check_contract
from tasks.datasets.user_code import describe
from tasks.outcomes import DONE, FAILED, Outcome
from tasks.waiting import importing


def main(argv: Sequence[str] | None = None) -> int:
    """Run the main job and return its exit code: 0 done, 3 rejected by a gate, 2 usage or configuration, 1 other."""
    parser, words = build_parser(), sys.argv[1:] if argv is None else argv
    if "--version" in words and len(words) > 1:  # meant for a version of the model, as with `try-out --version 3`
        parser.error("--version shows the version of this program and stands alone; a run makes a model's next version")
    return run_command(parser, argv, _act)


def _act(args: argparse.Namespace, config: Config) -> int:
    return _dry_run(config) if args.dry_run else _run(args, config)


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser of the main job."""
    parser = config_parser(
        "flows.train_and_serve",
        "Train a Keras model, judge it in a throwaway model server, log it to MLflow, and promote it.",
        "Exit codes: 0 promoted, awaiting review, or judged with --no-promote; 3 rejected by a gate; 2 usage or "
        "configuration error; 1 any other error, such as a version that production did not load.",
    )
    parser.add_argument("--no-promote", action="store_true", help="judge and log only; what is live does not change")
    parser.add_argument("--dry-run", action="store_true", help="check and show the configuration; create nothing")
    parser.add_argument("--version", action="version", version=_version())
    return parser


def _version() -> str:
    try:
        return version("keras-rehearsal")
    except PackageNotFoundError:  # run from a checkout
        return "keras-rehearsal (not installed)"


def _dry_run(config: Config) -> int:
    """Show the configuration that a run would use, without running, creating or connecting to anything."""
    import yaml

    print(yaml.safe_dump(shown(config), sort_keys=False), end="")
    place = f"{config.object_store}/{config.name}" if config.object_store else config.live_dir
    print(f"# would promote to {place}/<next number>")
    return DONE


def _run(args: argparse.Namespace, config: Config) -> int:
    """Run the main job."""
    require(config, "data.load", "model.build")
    check_rows_of(config)

    def flow() -> Outcome:
        from flows.train_and_serve import train_and_serve

        # without return_state, Prefect returns the data of the state
        return cast(Outcome, train_and_serve(str(args.config), without_secrets(args.set), not args.no_promote))

    return run_and_report(args, config, flow)


def run_and_report(args: argparse.Namespace, config: Config, flow: Callable[[], Outcome]) -> int:
    """Run a flow, show its summary and return its exit code.

    TensorFlow and Prefect's server start in parallel, each in its own process.
    """
    from tasks.training.process import shut_down, warm_up

    check_contract(config.gates)  # the first stage does this again, for deployments
    check_keys(config, promotes=not args.no_promote)  # as the flow does
    with session():
        say("starting TensorFlow and Prefect")
        warm_up()
        try:
            with importing("prefect"):
                from flows.summary import summary
                from flows.temporary_server import prefect_server
                from tasks.promote import settled

            settled.clear()  # outcomes of an earlier call in this process
            try:
                with prefect_server():
                    outcome = flow()
            except Exception as exc:
                if not settled:
                    raise
                outcome = settled[-1]  # the change of production counts, not Prefect's state
                warning(f"Prefect's pages do not show the outcome: {describe(exc)}")
        finally:
            shut_down()
    write(summary(config, arguments(str(args.config), args.set), outcome), sys.stdout)
    code = outcome.promotion.state.exit_code
    if code == FAILED:
        error(f"{config.name} {outcome.promotion.state}: {outcome.promotion.reason}")
    return code

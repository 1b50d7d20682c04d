"""The command line for models that were trained elsewhere."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from configs.loading import ConfigError, without_secrets
from configs.schema import Config
from flows.cli import run_and_report
from flows.commands import can_be_written, check_rows_of, config_parser, run_command
from flows.console import say, warning
from tasks.datasets.declared import write_contract
from tasks.datasets.feature_record import read_schema, units_of
from tasks.datasets.row_files import problem_of
from tasks.errors import ExportError
from tasks.outcomes import Outcome
from tasks.records import ValidationReport
from tasks.registry.fetched import find_model, is_uri


def main(argv: Sequence[str] | None = None) -> int:
    """Judge a given model and return the exit code of the main job."""
    return run_command(build_parser(), argv, _rehearse)


class _Filled(argparse.Action):
    """Stores a text that is not empty: an unset variable of a shell must not stand for the option's default."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        """Store the text, or end with exit code 2."""
        if not str(values).strip():
            parser.error(f"{option} must have a value, got '{values}'; give one, or leave {option} out")
        setattr(namespace, self.dest, values)


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    parser = config_parser(
        "flows.rehearse",
        "Judge a model that was trained elsewhere in a throwaway model server, log it to MLflow, and promote it. A "
        "SavedModel is judged and served unchanged. All rows are judged, or the test rows of data.split, except those "
        "of --trained-on. With --live, judge the live version and the version that a rollback would return to on "
        "another server, by their recorded answers; nothing is promoted, registered or changed.",
        "Exit codes: 0 promoted, awaiting review, or judged with --no-promote, and with --live: it can be served; 3 "
        "rejected by a gate; 2 usage or configuration error, or a file that cannot be used; 1 any other error.",
    )

    def text(option: str, metavar: str, help_text: str) -> None:
        parser.add_argument(option, metavar=metavar, default="", action=_Filled, help=help_text)

    text("--model", "MODEL", "a SavedModel directory, a .keras file, or MLflow's model URI")
    text("--rows", "FILE", "file of rows: .csv, .parquet, .json or .npz")
    text("--target", "COLUMN", "the column of --rows that the model predicts")
    text("--trained-on", "FILE", "file of the training rows, which are not judged")
    text("--signature", "NAME", "which of several signatures to serve")
    parser.add_argument(
        "--write-contract",
        type=Path,
        metavar="FILE",
        help="if the candidate passes, write the names, dtypes and shapes that its clients rely on, for "
        "gates.contract.file",
    )
    parser.add_argument("--live", action="store_true", help="judge what is live, in place of a model from elsewhere")
    text("--image", "IMAGE", "with --live: the container image that is to serve next")
    parser.add_argument("--no-promote", action="store_true", help="judge and log only; what is live does not change")
    return parser


def _rehearse(args: argparse.Namespace, config: Config) -> int:
    if args.live:
        from flows.rehearse_live import rehearse_live

        return rehearse_live(args, config)
    _check(args, config)
    outcomes: list[Outcome] = []

    def flow() -> Outcome:
        from flows.rehearse import rehearse

        overrides = without_secrets(args.set)
        found = rehearse(
            str(args.config), args.model, overrides, args.rows, args.target, args.signature, not args.no_promote,
            args.trained_on,
        )  # fmt: skip
        outcomes.append(cast(Outcome, found))
        return outcomes[0]

    code = run_and_report(args, config, flow)
    if args.write_contract:
        _write(args.write_contract, outcomes[0].report if outcomes else None)
    return code


def _check(args: argparse.Namespace, config: Config) -> None:
    """Raise `ConfigError` for options that cannot work, before anything is started."""
    if not args.model:
        raise ConfigError("there must be a model to judge: add --model MODEL, or --live for what is live")
    if args.image:
        raise ConfigError("--image belongs to --live; set serving.image for a model from elsewhere")
    if args.target and not args.rows:
        raise ConfigError("--target names a column of --rows FILE; add --rows, or let data.load return the target")
    if not args.rows and not config.data.source:
        raise ConfigError(
            "there must be rows to judge: add --rows FILE, or set data.load or data.file in the YAML file"
        )
    if not args.rows:
        check_rows_of(config)
    for option, file in (("--rows", args.rows), ("--trained-on", args.trained_on)):
        problem = problem_of(Path(file), option) if file else ""
        if problem:
            raise ConfigError(problem)
    try:
        if not is_uri(args.model):
            _check_signature(find_model(Path(args.model)), args.signature, config)
    except ExportError as exc:
        raise ConfigError(str(exc)) from exc
    if args.write_contract and not can_be_written(args.write_contract):
        raise ConfigError(f"--write-contract must be a file in a writable directory, got '{args.write_contract}'")


def _check_signature(model: Path, signature: str, config: Config) -> None:
    """Raise `ExportError` if a SavedModel cannot be read, or has no such signature; a `.keras` file has none."""
    from tasks.savedmodel.safety import MB
    from tasks.savedmodel.signature import read_signature

    if model.is_dir():
        read_signature(model, signature, config.gates.safety.max_graph_mb * MB)
    elif signature:
        raise ConfigError("--signature chooses a signature of a SavedModel, but a .keras file has none; remove it")


def _write(file: Path, report: ValidationReport | None) -> None:
    """Write the contract of a candidate that passed; a failure to write it does not change the outcome."""
    if report is None or report.served is None or not report.passed:
        warning(f"'{file}' is not written because the candidate did not pass")
        return
    try:
        write_contract(file, report.served.signature, units_of(read_schema(report.candidate.version_dir)))
        say(f"\nThe contract was written to {file}. Set gates.contract.file to check later candidates against it.")
    except OSError as exc:
        warning(f"'{file}' is not written: {exc.strerror}")


if __name__ == "__main__":
    raise SystemExit(main())

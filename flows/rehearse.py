"""A model that was trained elsewhere: `python -m flows.rehearse --config cfg.yaml --model PATH`."""

from __future__ import annotations

if __name__ == "__main__":  # before Prefect is imported: --help and a config error answer at once
    from flows.rehearse_cli import main

    raise SystemExit(main())

from pathlib import Path

from prefect import State, flow
from prefect.states import Completed

from configs.loading import arguments, load_config, require
from configs.redaction import redact
from flows.judging import judge_and_promote
from tasks.data import prepare_rows
from tasks.export import adopt_model
from tasks.policy import fail_early, new_run_dir, stage_clock
from tasks.records import Outcome
from tasks.train import fetch_model
from tasks.training.process import tensorflow_process
from tasks.validate import check_services, fetch_servers


@flow(name="rehearse")
def rehearse(  # noqa: PLR0913, PLR0917  each is an option of the command
    config: str,
    model: str,
    overrides: list[str] | None = None,
    rows: str = "",
    target: str = "",
    signature: str = "",
    promote: bool = True,
) -> State[Outcome]:
    """Judge a given model's own bytes in a throwaway server, log and promote them.

    Args:
        config: path of the YAML file. overrides: `section.key=value` items.
        model: a SavedModel directory, a `.keras` file or MLflow's URI.
        rows: a file of rows; empty to call `data.load`. target: its column that the model is to predict.
        signature: empty for `serving_default`, or the SavedModel's only one.
        promote: False stops before anything goes live.
    """
    cfg = load_config(Path(config), overrides or ())
    require(cfg, *([] if rows else ["data.load"]))
    run_dir = new_run_dir(cfg)
    with stage_clock() as seconds:
        with tensorflow_process():
            check_services(cfg)
            backends = fetch_servers.with_options(retries=0).submit(cfg)
            given = fetch_model(cfg, model, run_dir)
            splits = prepare_rows(cfg, rows, target, run_dir)
            fail_early(backends)
            candidate = adopt_model(cfg, splits, given, signature, run_dir)
        options = arguments(config, overrides or ())
        report, run, promotion = judge_and_promote(
            cfg, options, splits, given, candidate, backends.result(), run_dir, promote
        )
    outcome = Outcome(report, run, promotion, seconds)
    return Completed(name=promotion.state.title().replace(" ", ""), message=redact(promotion.reason), data=outcome)

"""The main job: from one configuration to a promoted model, `python -m flows.train_and_serve --config cfg.yaml`."""

from __future__ import annotations

if __name__ == "__main__":  # before Prefect is imported, so that --help and configuration errors answer at once
    from flows.cli import main

    raise SystemExit(main())

from functools import partial
from pathlib import Path

from prefect import State, flow
from prefect.states import Completed

from configs.loading import arguments, load_config, require
from configs.redaction import redact
from flows.commands import check_keys
from flows.judging import judge_and_promote
from tasks.data import prepare_data
from tasks.export import export_model
from tasks.outcomes import Outcome
from tasks.production.server import make_startable
from tasks.promote import promote_model
from tasks.show import show_run
from tasks.stage import fail_early, new_run_dir, stage_clock
from tasks.train import train_model
from tasks.training.process import tensorflow_process
from tasks.validate import check_services, fetch_servers


@flow(name="train-and-serve")
def train_and_serve(config: str, overrides: list[str] | None = None, promote: bool = True) -> State[Outcome]:
    """Train and export a model, judge it in a throwaway server, log it, and promote it.

    Args:
        config: path of the YAML file.
        overrides: `section.key=value` items that replace values of the file.
        promote: whether a candidate that passes may go live; otherwise the run ends before that.
    """
    cfg = load_config(Path(config), overrides or ())
    require(cfg, "data.load", "model.build")
    check_keys(cfg, promotes=promote)
    with stage_clock() as seconds:
        with tensorflow_process():
            check_services(cfg)
            make_startable(cfg)
            run_dir = new_run_dir(cfg)
            backends = fetch_servers.with_options(retries=0).submit(cfg)  # a missing network would not come back
            splits = prepare_data(cfg, run_dir)
            fail_early(backends)
            trained = train_model(cfg, splits, run_dir)
            candidate = export_model(cfg, splits, trained, run_dir)
        options = arguments(config, overrides or ())
        promoting = partial(promote_model, cfg, wanted=promote)
        report, run, promotion = judge_and_promote(
            cfg, options, splits, trained, candidate, backends.result(), run_dir, promoting
        )
        show_run(report, run, promotion)
    outcome = Outcome(report, run, promotion, seconds)
    return Completed(name=promotion.state.flow_state, message=redact(promotion.reason), data=outcome)

"""The main job: from one configuration to a promoted model, `python -m flows.train_and_serve --config cfg.yaml`."""

from __future__ import annotations

if __name__ == "__main__":  # before Prefect is imported: --help and a config error answer at once
    from flows.cli import main

    raise SystemExit(main())

from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from prefect import State, flow
from prefect.states import Completed

from configs.loading import arguments, load_config
from configs.redaction import redact
from tasks.data import prepare_data
from tasks.export import export_model
from tasks.policy import fail_early, stage_clock
from tasks.promote import RIVALS, keep_rehearsal, promote_model, turn
from tasks.records import Outcome
from tasks.show import show_run
from tasks.track import errors_logged, log_run
from tasks.train import train_model
from tasks.training.process import tensorflow_process
from tasks.validate import check_services, fetch_servers, validate_serving


@flow(name="train-and-serve")
def train_and_serve(config: str, overrides: list[str] | None = None, promote: bool = True) -> State[Outcome]:
    """Train, export, serve from a throwaway server, judge, log, promote.

    Args:
        config: path of the YAML file. overrides: `section.key=value` items.
        promote: False stops before anything goes live.
    """
    cfg = load_config(Path(config), overrides or ())
    run_dir = cfg.work_dir / "runs" / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid4().hex[:6]}"
    with stage_clock() as seconds:
        with tensorflow_process():
            check_services(cfg)
            backends = fetch_servers.with_options(retries=0).submit(cfg)  # no network now is none later
            splits = prepare_data(cfg, run_dir)
            fail_early(backends)
            trained = train_model(cfg, splits, run_dir)
            candidate = export_model(cfg, splits, trained, run_dir)
        for attempt in range(RIVALS):
            with turn(cfg) if attempt else nullcontext():
                with errors_logged(cfg, candidate):
                    report = validate_serving(cfg, candidate, backends.result(), run_dir)
                run = log_run(cfg, arguments(config, overrides or ()), splits, trained, report)
                keep_rehearsal(cfg, splits, trained, report, run)
                promotion = promote_model(cfg, report, run, promote)
            if promotion.state != "stale":
                break
        show_run(report, run, promotion)
    outcome = Outcome(report, run, promotion, seconds)
    return Completed(name=promotion.state.title().replace(" ", ""), message=redact(promotion.reason), data=outcome)

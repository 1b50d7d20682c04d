"""Train variants side by side and judge the best: `python -m flows.sweep --config cfg.yaml`."""

from __future__ import annotations

if __name__ == "__main__":  # before Prefect is imported, so that --help and configuration errors answer at once
    from flows.sweep_cli import main

    raise SystemExit(main())

from contextlib import ExitStack
from functools import partial
from pathlib import Path

from prefect import State, flow
from prefect.states import Completed

from configs.loading import arguments, require
from configs.redaction import redact
from configs.variants import load_variants
from flows.commands import check_keys
from flows.judging import judge_and_promote
from flows.runners import runner_of, train_all
from tasks.data import prepare_data
from tasks.outcomes import Outcome, SweepOutcome
from tasks.production.server import make_startable
from tasks.promote import promote_model
from tasks.show import show_leaderboard, show_run
from tasks.stage import fail_early, new_run_dir, stage_clock
from tasks.sweep import (
    check_rows,
    compare_variants,
    export_variants,
    log_leaderboard,
    log_outcome,
    removed_when_judged,
    sweep_directory,
    train,
    train_variants,
    winner_of,
)
from tasks.training.process import tensorflow_process
from tasks.validate import check_services, fetch_servers


@flow(name="sweep")
def sweep(config: str, overrides: list[str] | None = None, promote: bool = True) -> State[SweepOutcome]:
    """Train the variants of a model side by side, choose one on the validation rows, and judge it on the test rows.

    Args:
        config: path of the YAML file.
        overrides: `section.key=value` items that replace values of the file.
        promote: whether a winner that passes may go live; otherwise the run ends before that.
    """
    cfg, variants = load_variants(Path(config), overrides or ())
    require(cfg, "data.load", "model.build")
    check_keys(cfg, promotes=promote)
    make_runner = runner_of(cfg.sweep)
    with stage_clock() as seconds, ExitStack() as held:
        with tensorflow_process():
            check_services(cfg)
            make_startable(cfg)
            run_dir = new_run_dir(cfg)
            backends = fetch_servers.with_options(retries=0).submit(cfg)
            splits = prepare_data(cfg, run_dir)
            check_rows(cfg, variants, splits)
            fail_early(backends)
            sweep_dir = held.enter_context(sweep_directory(cfg, splits))
            training = partial(train_all, make_runner, train)
            contestants = train_variants(variants, splits, sweep_dir, run_dir, training)
            contestants = export_variants(contestants, splits, run_dir)
            board = compare_variants(cfg, contestants, splits, backends.result()[0], run_dir)
            sweep_run = log_leaderboard(cfg, board, splits)
            show_leaderboard(cfg.name, board)
            winner, trained, candidate = winner_of(board, contestants, run_dir)
        options = arguments(config, [*(overrides or ()), *winner.overrides])
        promoting = partial(promote_model, winner.config, wanted=promote)
        with removed_when_judged(sweep_dir, variants, winner.config, candidate):
            report, run, promotion = judge_and_promote(
                winner.config, options, splits, trained, candidate, backends.result(), run_dir, promoting
            )
        log_outcome(cfg, sweep_run, run, promotion)
        show_run(report, run, promotion)
    outcome = SweepOutcome(Outcome(report, run, promotion, seconds), board, sweep_run, winner.overrides)
    return Completed(name=promotion.state.flow_state, message=redact(promotion.reason), data=outcome)

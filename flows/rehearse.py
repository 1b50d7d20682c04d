"""Judge a model that was trained elsewhere: `python -m flows.rehearse --config cfg.yaml --model PATH`."""

from __future__ import annotations

if __name__ == "__main__":  # before Prefect is imported, so that --help and configuration errors answer at once
    from flows.rehearse_cli import main

    raise SystemExit(main())

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

from prefect import State, flow
from prefect.context import FlowRunContext
from prefect.states import Completed

from configs.loading import arguments, file_and_config, load_config, require
from configs.redaction import redact
from flows.commands import check_keys, session
from flows.judging import judge_and_promote
from flows.temporary_server import prefect_server
from tasks.data import prepare_rows
from tasks.datasets.given import ROWS, GivenRows, check_trained_on, named_file
from tasks.datasets.rows import check_rows, save_rows
from tasks.export import adopt_model
from tasks.outcomes import Outcome
from tasks.production.server import make_startable
from tasks.promote import promote_model
from tasks.savedmodel.exporter import export_here
from tasks.show import show_run
from tasks.stage import fail_early, new_run_dir, stage_clock
from tasks.train import fetch_model
from tasks.training.process import tensorflow_process
from tasks.validate import check_services, fetch_servers


@flow(name="rehearse")
def rehearse(  # noqa: PLR0913, PLR0917  one argument for each option
    config: str,
    model: str,
    overrides: list[str] | None = None,
    rows: str = "",
    target: str = "",
    signature: str = "",
    promote: bool = True,
    trained_on: str = "",
) -> State[Outcome]:
    """Judge a given model in a throwaway server, log it, and promote it.

    Args:
        config: path of the YAML file.
        model: a SavedModel directory, a `.keras` file or a model URI of MLflow.
        overrides: `section.key=value` items that replace values of the file.
        rows: a file of rows; empty calls `data.load`.
        target: the column of that file that the model predicts.
        signature: empty means `serving_default`, or the only signature of the SavedModel.
        promote: whether a candidate that passes may go live; otherwise the run ends before that.
        trained_on: a file of the rows that the model was trained or validated on; empty if they are not known.
    """
    cfg = load_config(Path(config), overrides or ())
    require(cfg, *([] if rows else ["data.load"]))  # or data.file
    check_keys(cfg, promotes=promote)
    with stage_clock() as seconds:
        with tensorflow_process():
            check_services(cfg)
            make_startable(cfg)
            run_dir = new_run_dir(cfg, model, rows, trained_on)
            backends = fetch_servers.with_options(retries=0).submit(cfg)
            given = fetch_model(cfg, model, run_dir)
            with named_file(rows):
                splits = prepare_rows(cfg, GivenRows(rows, target, trained_on), given, signature, run_dir)
                fail_early(backends)
                candidate = adopt_model(cfg, splits, given, signature, run_dir)
        options = arguments(config, overrides or ())
        promoting = partial(promote_model, cfg, wanted=promote)
        report, run, promotion = judge_and_promote(
            cfg, options, splits, given, candidate, backends.result(), run_dir, promoting
        )
        show_run(report, run, promotion)
    outcome = Outcome(report, run, promotion, seconds)
    return Completed(name=promotion.state.flow_state, message=redact(promotion.reason), data=outcome)


def rehearse_model(  # noqa: PLR0913  the model, its rows, and where they go
    model: Any,
    features: Any,
    target: Any = None,
    *,
    config: str | Path | Mapping[str, Any],
    promote: bool = True,
    trained_on: Any = None,
) -> Outcome:
    """Judge a model and rows of this process as `rehearse` does; within a Prefect flow, it is a subflow.

    Args:
        model: a keras.Model, which is exported in this process, or a model as `rehearse` takes it.
        features: rows, by input name: a DataFrame, a mapping of arrays, or one array.
        target: the expected answers, or None.
        trained_on: features of the rows that the model was trained or validated on, or None if they are not known;
            these rows are not judged.
        config: path of the YAML file, which later commands (approve, roll back) read as well; or the contents of such
            a file, which are written to `rehearse-<hash>.yaml` in the current directory for those commands.

    Raises:
        ConfigError: the configuration cannot be used.
        PipelineError: there is no verdict. A rejection is a verdict: it is returned, not raised.
    """
    config, cfg = file_and_config(config)
    rows = check_rows((features, target), "rehearse_model", needs_target=False)
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as scratch, _with_prefect():
        save_rows(Path(scratch) / ROWS, rows)
        known = ""
        if trained_on is not None:
            known = str(Path(scratch) / "trained_on" / ROWS)
            save_rows(Path(known), check_trained_on(trained_on, rows, "trained_on"))
        given = str(model)
        if not isinstance(model, str | Path):
            given = str(export_here(cfg, model, Path(scratch) / "model"))
        rows_file = str(Path(scratch) / ROWS)
        return cast(Outcome, rehearse(str(config), given, rows=rows_file, promote=promote, trained_on=known))


@contextlib.contextmanager
def _with_prefect() -> Iterator[None]:
    """Start a Prefect server, except within a flow, which already has one."""
    if FlowRunContext.get() is not None:
        yield
        return
    with session(), prefect_server():
        yield

"""Act on reviewers' decisions, by hand or as a scheduled deployment: `python -m flows.promote --config cfg.yaml`."""

from __future__ import annotations

if __name__ == "__main__":  # before Prefect is imported, so that --help and configuration errors answer at once
    from flows.promote_cli import main

    raise SystemExit(main())

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from prefect import State, flow
from prefect.states import Completed

from configs.errors import ConfigError
from configs.loading import arguments, load_config
from configs.redaction import redact
from configs.schema import Config
from flows.judging import judge_and_promote
from tasks.outcomes import Promotion, PromotionState
from tasks.production.server import make_startable
from tasks.promote import make_stable
from tasks.proof.keys import signing_key
from tasks.registry.approvals import Reviewed
from tasks.review import decide, find_reviewed, promote_again_judged, rehearsal_of, review
from tasks.show import show_change
from tasks.stage import again_run_dir
from tasks.validate import fetch_servers
from tasks.words import of_candidate

Verdict = Literal["", "approved", "rejected"]


@flow(name="promote")
def promote(  # noqa: PLR0913, PLR0917  they are the parameters of the deployment
    config: str, overrides: list[str] | None = None, version: int = 0, verdict: Verdict = "", by: str = "",
    key: str = "",
) -> State[list[Promotion]]:  # fmt: skip
    """Promote the candidates that reviewers approved, and close those that they rejected.

    Args:
        config: path of the YAML file.
        overrides: `section.key=value` items that replace values of the file.
        version: the one candidate to act on; 0 means every candidate that a reviewer has decided about.
        verdict: a decision about that candidate, which is recorded first; empty means that it was made in MLflow.
        by: who decides, with a verdict.
        key: file of the reviewer's private key, which signs an approval where `promote.approvers` lists public keys.
    """
    cfg = load_config(Path(config), overrides or ())
    if verdict and not (version and by):
        raise ConfigError("a verdict needs a version, which is the candidate, and by, which says who decides")
    signing_key(cfg.promote)
    if verdict:
        review(cfg, version, verdict, by, key)
    outcomes = []
    found = find_reviewed(cfg, version)
    make_startable(cfg)
    for reviewed in found:
        promotion = decide(cfg, reviewed)
        if promotion.state is PromotionState.STALE:
            promotion = judge_again(cfg, arguments(config, overrides or ()), reviewed)
        title = f"{cfg.name} candidate {reviewed.candidate_version}"
        show_change(cfg.name, title, promotion)
        outcomes.append(replace(promotion, reason=of_candidate(reviewed.candidate_version, promotion.reason)))
    reasons = redact("; ".join(promotion.reason for promotion in outcomes))
    return Completed(
        name=outcomes[-1].state.flow_state if outcomes else "NothingToDo",
        message=reasons or "no candidate was approved or rejected",
        data=outcomes,
    )


def judge_again(cfg: Config, options: str, reviewed: Reviewed) -> Promotion:
    """Judge an approved candidate again, compared with the version that is live now."""
    known = rehearsal_of(cfg, reviewed)
    candidate = known.report.candidate
    run_dir = again_run_dir(cfg, candidate)
    promoting = partial(promote_again_judged, cfg, reviewed)
    return judge_and_promote(
        cfg, options, known.splits, known.trained, candidate, fetch_servers(cfg), run_dir, promoting, again=True
    )[-1]


@flow(name="promote-canary")
def to_stable(config: str, overrides: list[str] | None = None, by: str = "") -> State[Promotion]:
    """Make the canary the stable version, with promote.layout: labels.

    Args:
        config: path of the YAML file.
        overrides: `section.key=value` items that replace values of the file.
        by: who decides.
    """
    cfg = load_config(Path(config), overrides or ())
    promotion = make_stable(cfg, by)
    show_change(cfg.name, f"{cfg.name} canary to stable", promotion)
    return Completed(name=promotion.state.flow_state, message=redact(promotion.reason), data=promotion)

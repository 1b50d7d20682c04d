"""What the daily maintenance does."""

from __future__ import annotations

import logging
import time

from configs.schema import Config
from tasks.errors import ServingUnavailable
from tasks.production.changes import examine
from tasks.stage import stage
from tasks.store.repair import Finding

log = logging.getLogger(__name__)


@stage
def reap_containers(config: Config) -> list[str]:
    """Remove containers of ended runs, where a run may start any, and return a line for each.

    Raises:
        ServingError: the engine refuses. With `serving.backend: auto`, an engine may be missing.
    """
    if config.serving.backend not in ("docker", "auto"):
        return []
    from tasks.serving.reaper import reap

    try:
        found = reap(time.time())
    except ServingUnavailable as exc:
        if config.serving.backend == "docker":
            raise
        log.info("no container can be left behind: %s", exc)
        return []
    return [f"removed {one.container} of run {one.run_id}: {one.reason}" for one in found]


@stage
def examine_model(config: Config) -> list[Finding]:
    """Repair what has only one solution, and return what was done and what needs a person's decision.

    Raises:
        StoreError: another change of production is under way for too long.
    """
    findings = examine(config, only_look=False)
    for finding in findings:
        log.log(logging.WARNING if finding.done == "reported" else logging.INFO, "%s: %s", finding.done, finding.text)
    return findings

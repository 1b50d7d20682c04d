"""The run that a champion came from, as far as MLflow has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.records import Champion
from tasks.registry.changes import version_of
from tasks.report.differences import DATA

SPLITS = ("train", "validation", "test")


def facts_of(run: Any) -> dict[str, str]:
    """Return what a run was made of, by name: every setting, the number of weights, rows and digest of the data."""
    data, facts = run.data, dict(sorted(run.data.params.items()))
    counts = {"weights": "parameters"} | {f"rows to {_PURPOSE[name]}": f"data.{name}_rows" for name in SPLITS}
    facts |= {name: f"{data.metrics[key]:,.0f}" for name, key in counts.items() if key in data.metrics}
    digests = {item.dataset.digest for item in (run.inputs.dataset_inputs if run.inputs else ())}
    if digests:
        facts[DATA] = " ".join(sorted(digests))
    return facts | ({"git commit": data.tags["git_commit"]} if "git_commit" in data.tags else {})


_PURPOSE = {"train": "train on", "validation": "validate on", "test": "test on"}


def champions_facts(client: Any, name: str, champion: Champion) -> Mapping[str, str] | None:
    """Return the same of the run that the champion came from; None where MLflow does not have it."""
    from mlflow.exceptions import MlflowException

    number = version_of(client, name, champion.digest)
    if not number:
        return None
    try:
        return facts_of(client.get_run(client.get_model_version(name, str(number)).run_id))
    except MlflowException as exc:
        if exc.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None

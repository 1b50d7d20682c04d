"""The pages of a version in MLflow: its tags, its first lines and its report, brought up to date together."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from configs.redaction import redact
from tasks.report.standing import Standing, block, first_lines, standing_of, with_block, with_first_lines

log = logging.getLogger(__name__)
MAX_TAG = 4000  # characters that MLflow takes
MAX_PAGE = 5000  # likewise of a version's description; in SQLite and MySQL it is a column of that width
REPORT = "report.html"
# MLflow opens its menu for language models else, which leads neither to the runs nor to the model registry
_MENU = "?workflowType=machine_learning"


def update_pages(client: Any, pages: str, name: str, number: int, tags: Mapping[str, str]) -> None:
    """Set tags of a model version, then update what depends on them: its page, the page of its run, and its report.

    Args:
        pages: address that links begin with. number: registry version. tags: one with an empty value is removed.
    """
    known = client.get_model_version(name, str(number)).tags
    for key, value in tags.items():
        if value:
            client.set_model_version_tag(name, str(number), key, redact(value)[:MAX_TAG])
        elif key in known:
            client.delete_model_version_tag(name, str(number), key)
    version = client.get_model_version(name, str(number))
    run = client.get_run(version.run_id)
    standing = write_description(client, version, run, version.description or "")
    if version.tags.get("promotion"):
        client.set_tag(version.run_id, "promotion", version.tags["promotion"])
    _update_report(client, version.run_id, block(standing, version_url(pages, name, number)))


def write_description(client: Any, version: Any, run: Any, known: str) -> Standing:
    """Write the first lines of a version's page as the tags of version and run want them, above what is known of it."""
    standing = standing_of(version.name, {**run.data.tags, **version.tags}, int(version.version))
    first = first_lines(standing, report_link(run.info.experiment_id, version.run_id))
    page = with_first_lines(known, first)[:MAX_PAGE]
    client.update_model_version(version.name, version.version, page)
    client.set_tag(version.run_id, "mlflow.note.content", page)  # the description on the run's page
    return standing


def _update_report(client: Any, mlflow_run_id: str, new: Any) -> None:
    """Replace the part of the report that says what became of the version; a missing report is not an error."""
    try:
        with tempfile.TemporaryDirectory(prefix="rehearsal-") as scratch:
            report = Path(client.download_artifacts(mlflow_run_id, REPORT, scratch))
            known = report.read_text(encoding="utf-8")
            client.log_text(mlflow_run_id, with_block(known, new), REPORT)
    except Exception as exc:  # noqa: BLE001  (an artifact store may raise anything, and the tags are what counts)
        log.warning("report.html of run %s could not be updated: %s", mlflow_run_id, type(exc).__name__)


def report_link(experiment: str, mlflow_run_id: str) -> str:
    """Return the address of the report, for MLflow's own pages, without a host, which the reader's browser knows."""
    return f"#/experiments/{experiment}/runs/{mlflow_run_id}/artifacts/{REPORT}{_MENU}"


def run_url(uri: str, experiment: str, mlflow_run_id: str) -> str:
    """Return the run's page on a tracking server, or an empty string for a local database."""
    return _page(uri, f"experiments/{experiment}/runs/{mlflow_run_id}")


def version_url(uri: str, name: str, number: int) -> str:
    """Return the page of a model version on a tracking server, or an empty string for a local database."""
    return _page(uri, f"models/{name}/versions/{number}")


def _page(uri: str, route: str) -> str:
    if not uri.startswith("http"):
        return ""
    parts = urlsplit(uri)
    uri = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))  # the browser asks who it is
    return f"{uri.rstrip('/')}/#/{route}{_MENU}"

"""Prepare the stack: the work pool, the deployments of prefect.yaml, MLflow's webhook and the automation of alerts.

Runs in the flows image whenever the stack starts. Running it again changes nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXCHANGE = Path("/exchange/models.config")
WEBHOOK = "approvals"
OTHER_KEY = """\
error: MLflow must be able to list its webhooks, got: {}
If .env was lost, their secrets cannot be read any more. Put the old .env back, or remove them, and make up again:
  docker compose exec mlflow python -c "import sqlite3; d = sqlite3.connect('/rehearsal/mlflow.db'); \
d.execute('DELETE FROM webhook_events'); d.execute('DELETE FROM webhooks'); d.commit()\""""


def main() -> None:
    """Do every step; the first that fails ends the stack's start with its message."""
    write_list(EXCHANGE)
    prefect("work-pool", "create", "local", "--type", "process", "--overwrite")
    prefect("deploy", "--all")
    from mlflow import MlflowClient

    make_webhook(MlflowClient(), "http://webhook:8787/", os.environ["REHEARSAL_WEBHOOK_SECRET"])
    if subprocess.run([sys.executable, "/stack/alerts.py"], check=False).returncode:
        raise SystemExit("error: the automation of ALERTS_URL could not be made; see above")


def write_list(file: Path) -> None:
    """Write an empty list of models, which a server of rehearsals starts with; it does not start with an empty file."""
    if not file.exists() or not file.stat().st_size:
        part = file.with_suffix(".new")
        part.write_text("model_config_list {}\n", encoding="utf-8")
        part.replace(file)


def prefect(*arguments: str) -> None:
    """Run a Prefect command in /rehearsal, where prefect.yaml, configs/ and flows/ are."""
    done = subprocess.run(["prefect", "--no-prompt", *arguments], cwd="/rehearsal", check=False)
    if done.returncode:
        raise SystemExit(
            f"error: 'prefect {' '.join(arguments)}' must succeed, got exit code {done.returncode}; see above"
        )


def make_webhook(client: MlflowClient, url: str, secret: str) -> None:
    """Have MLflow tell the receiver of each tag. The webhook of an earlier start is replaced: the secret may be new."""
    from mlflow.exceptions import MlflowException

    try:
        earlier = client.list_webhooks()
    except MlflowException as exc:
        raise SystemExit(OTHER_KEY.format(" ".join(f"{type(exc).__name__}: {exc}".split())[:300])) from exc
    for known in earlier:
        if known.name == WEBHOOK:
            client.delete_webhook(known.webhook_id)
    client.create_webhook(name=WEBHOOK, url=url, events=["model_version_tag.set"], secret=secret)
    print(f"MLflow delivers tags of model versions to {url}")


if __name__ == "__main__":
    main()

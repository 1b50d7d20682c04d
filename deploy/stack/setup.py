"""Prepare the stack: the work pool, the deployments of prefect.yaml, MLflow's webhook and the automation of alerts.

Runs in the flows image whenever the stack starts. Running it again changes nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from mlflow import MlflowClient

EXCHANGE = Path("/exchange/models.config")
WEBHOOK = "approvals"


def main() -> None:
    """Do every step; the first that fails ends the stack's start with its message."""
    if not EXCHANGE.exists():  # a server of rehearsals starts on an empty list of models
        EXCHANGE.write_text("model_config_list {}\n", encoding="utf-8")
    prefect("work-pool", "create", "local", "--type", "process", "--overwrite")
    prefect("deploy", "--all")
    make_webhook(MlflowClient(), "http://webhook:8787/", os.environ["REHEARSAL_WEBHOOK_SECRET"])
    if os.environ.get("ALERTS_URL"):
        subprocess.run([sys.executable, "/stack/alerts.py"], check=True)


def prefect(*arguments: str) -> None:
    """Run a Prefect command in /rehearsal, where prefect.yaml, configs/ and flows/ are."""
    done = subprocess.run(["prefect", "--no-prompt", *arguments], cwd="/rehearsal", check=False)
    if done.returncode:
        raise SystemExit(
            f"error: 'prefect {' '.join(arguments)}' must succeed, got exit code {done.returncode}; see above"
        )


def make_webhook(client: MlflowClient, url: str, secret: str) -> None:
    """Have MLflow tell the receiver of each tag. The webhook of an earlier start is replaced: the secret may be new."""
    for known in client.list_webhooks():
        if known.name == WEBHOOK:
            client.delete_webhook(known.webhook_id)
    client.create_webhook(name=WEBHOOK, url=url, events=["model_version_tag.set"], secret=secret)
    print(f"MLflow delivers tags of model versions to {url}")


if __name__ == "__main__":
    main()

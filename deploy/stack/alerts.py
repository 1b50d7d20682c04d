"""Have Prefect send a POST request to ALERTS_URL when a model is rejected or taken back, or when a run fails.

    PREFECT_API_URL=http://127.0.0.1:4200/api ALERTS_URL=https://chat.example/hooks/models python deploy/stack/alerts.py

Each name of a state is an event of Prefect. Running this again replaces the automation; without ALERTS_URL, it is
removed.
Source: https://docs.prefect.io/v3/concepts/automations and https://docs.prefect.io/v3/concepts/event-triggers
"""

from __future__ import annotations

import contextlib
import os

from prefect.automations import Automation
from prefect.blocks.webhook import Webhook
from prefect.events.actions import CallWebhook
from prefect.events.schemas.automations import EventTrigger

NAME = "tell of rejected models"
FLOWS = ["train-and-serve", "rehearse", "promote", "promote-canary", "maintain"]
STATES = ["Rejected", "RolledBack", "NeedsDecision", "Failed", "Crashed"]
BODY = '{"text": {{ (flow.name ~ ": " ~ flow_run.state.name ~ ": " ~ flow_run.state.message) | tojson }}}'


def main() -> None:
    """Create, replace or remove the automation."""
    url = os.environ.get("ALERTS_URL", "").strip()
    if url and not url.startswith(("http://", "https://")):
        raise SystemExit("error: ALERTS_URL must be an address that begins with http:// or https://")
    with contextlib.suppress(ValueError):  # Prefect's answer where there is none
        Automation.read(name=NAME).delete()
    if not url:
        return
    block_id = Webhook(method="POST", url=url).save("model-alerts", overwrite=True)
    trigger = EventTrigger(
        expect={f"prefect.flow-run.{name}" for name in STATES},
        match_related={"prefect.resource.role": "flow", "prefect.resource.name": FLOWS},
        posture="Reactive",
        threshold=1,
    )
    wanted = Automation(name=NAME, trigger=trigger, actions=[CallWebhook(block_document_id=block_id, payload=BODY)])
    wanted.create()
    print(f"Prefect sends alerts of {', '.join(STATES)}")


if __name__ == "__main__":
    main()

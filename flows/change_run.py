"""Records a change of production that was made by hand as a flow run, so that Prefect's pages show it."""

from __future__ import annotations

from prefect import State, flow
from prefect.states import Completed

from configs.redaction import redact
from tasks.outcomes import Promotion
from tasks.show import show_change


@flow(name="change-of-production", flow_run_name="{title}")
def change_run(title: str, name: str, promotion: Promotion) -> State[Promotion]:
    """Create an artifact that says what was changed."""
    show_change(name, title, promotion)
    return Completed(name=promotion.state.flow_state, message=redact(promotion.reason), data=promotion)

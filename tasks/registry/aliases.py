"""What the registry says about which version serves; a record, never a lock."""

from __future__ import annotations

from configs.schema import Config
from tasks.records import Promotion, TrackedRun
from tasks.registry.connection import connect, tracking_errors


def record_promotion(config: Config, run: TrackedRun, promotion: Promotion) -> None:
    """Tag run and model version with the outcome; a promoted version becomes `champion`.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    client = connect(config)
    with tracking_errors(config.tracking.uri):
        client.set_tag(run.run_id, "promotion", promotion.state)
        client.set_model_version_tag(run.registry_name, str(run.registry_version), "promotion", promotion.state)
        if promotion.state == "promoted":
            client.set_registered_model_alias(run.registry_name, "champion", str(run.registry_version))

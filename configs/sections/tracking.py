"""The section `tracking`: where MLflow records the runs."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from configs.addresses import page_address, tracking_uri
from configs.sections.base import Section


class Tracking(Section):
    """Where MLflow records the runs."""

    uri: Annotated[str, AfterValidator(tracking_uri)] = Field(
        "sqlite:///mlflow.db", description="MLflow's tracking URI; a relative sqlite path is relative to the YAML file"
    )
    browser_url: Annotated[str, AfterValidator(page_address)] = Field(
        "", description="address of MLflow in a reviewer's browser, for links; empty means tracking.uri"
    )
    experiment: str = Field("", description="experiment name; empty means the model's name")
    sample_rows: int = Field(50, ge=0, description="number of test rows in the table of predictions")

    @property
    def pages(self) -> str:
        """Return the address that links begin with; that of a database is none."""
        return self.browser_url or self.uri

"""The parameters of the deployments, as Prefect's form shows them."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml

# Prefect's own dependencies have moved on; it is not judged here.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def entrypoints() -> list[str]:
    """Return the entry point of each deployment of prefect.yaml, and of the other flows that can be deployed."""
    deployed = [one["entrypoint"] for one in yaml.safe_load(Path("prefect.yaml").read_text())["deployments"]]
    return [*deployed, "flows/rehearse.py:rehearse", "flows/promote.py:to_stable"]


def form(entrypoint: str) -> dict[str, dict[str, Any]]:
    """Return name and schema of each parameter of a flow."""
    from prefect.utilities.callables import parameter_schema

    file, _, name = entrypoint.partition(":")
    module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    return parameter_schema(getattr(module, name)).properties


@pytest.mark.parametrize("entrypoint", entrypoints())
def test_each_parameter_is_described(entrypoint: str) -> None:
    """Each field of the form says what it takes, in one sentence that speaks of no other field's value."""
    fields = form(entrypoint)
    assert "config" in fields
    for name, field in fields.items():
        described = field.get("description") or ""
        assert described.endswith("."), name
        assert not [other for other in fields if f" {other}: " in described], name


def test_a_verdict_is_chosen_from_a_list() -> None:
    """The form offers what a reviewer may decide; Prefect refuses anything else."""
    assert form("flows/promote.py:promote")["verdict"]["enum"] == ["", "approved", "rejected"]

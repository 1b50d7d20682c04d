"""The documentation names everything there is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from configs.schema import METRICS, Config
from flows.cli import build_parser
from tasks import errors

README = Path("README.md").read_text()


def fields(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Give every field's dotted name and description."""
    for key, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from fields(field.annotation, f"{prefix}{key}.")
        else:
            yield prefix + key, field.description or ""


@pytest.mark.parametrize(("name", "description"), list(fields(Config)))
def test_every_field_is_in_the_readme(name: str, description: str) -> None:
    """Each configuration field has a description, and stands in the README with exactly that description."""
    assert description
    assert any(line.startswith(f"| `{name}` |") and description in line for line in README.splitlines())


def test_every_option_is_in_the_readme() -> None:
    """Each option of the command line stands in the README."""
    for action in build_parser()._actions:
        for option in action.option_strings:
            assert option == "-h" or option in README, option


def test_every_metric_and_error_is_in_the_readme() -> None:
    """Each metric and each direct kind of pipeline error stands in the README."""
    kinds = [kind.__name__ for kind in errors.PipelineError.__subclasses__()]
    assert [name for name in [*METRICS, *kinds] if name not in README] == []


def test_makefile_targets_have_help() -> None:
    """Each phony target of the Makefile has one line of help."""
    text = Path("Makefile").read_text()
    targets = next(line for line in text.splitlines() if line.startswith(".PHONY:")).split()[1:]
    assert [t for t in targets if f"\n{t}:" not in text or "##" not in text.split(f"\n{t}:")[1].splitlines()[0]] == []


def test_lock_files_name_no_host() -> None:
    """Lock files carry versions and hashes, and no address."""
    for name in ("requirements.lock", "requirements-dev.lock"):
        text = Path(name).read_text()
        assert "--hash=sha256:" in text
        assert "://" not in text
        assert "index" not in text.lower().replace("importlib", "")

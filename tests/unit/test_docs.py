"""The documentation names everything there is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from configs.schema import METRICS, Bound, Config
from flows import check, cli, doctor, init, promote_cli, reap, rehearse_cli, rollback, try_out
from tasks import errors
from tasks.program import SCRIPT, SUBCOMMANDS

README = Path("README.md").read_text()
CONFIGURATION = Path("docs/configuration.md").read_text()


def fields(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Give every field's dotted name and description."""
    for key, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from fields(field.annotation, f"{prefix}{key}.")
        else:
            yield prefix + key, field.description or ""


@pytest.mark.parametrize(("name", "description"), [*fields(Config), *fields(Bound)])
def test_every_field_is_documented(name: str, description: str) -> None:
    """Each configuration field has a description, and stands in docs/configuration.md with exactly that description."""
    assert description
    assert any(line.startswith(f"| `{name}` |") and description in line for line in CONFIGURATION.splitlines())


PARSERS = {
    "train_and_serve": cli.build_parser(),
    "promote": promote_cli.build_parser(),
    "rollback": rollback.build_parser(),
    "doctor": doctor.build_parser(),
    "try_out": try_out.build_parser(),
    "reap": reap.build_parser(),
    "init": init.build_parser(),
    "rehearse": rehearse_cli.build_parser(),
    "check": check.build_parser(),
}


def options_of(name: str) -> set[str]:
    """Return the long options of a command line."""
    return {option for action in PARSERS[name]._actions for option in action.option_strings if option.startswith("--")}


def test_every_option_of_the_main_job_is_in_the_readme() -> None:
    """Each option of the main job stands in the README."""
    assert {option for option in options_of("train_and_serve") if option not in README} == set()


@pytest.mark.parametrize("name", PARSERS)
def test_every_command_and_its_own_options_are_in_the_readme(name: str) -> None:
    """Each command stands in the README, with each option that it has for itself on a line that names the command."""
    own = options_of(name) - {"--help", "--config", "--set", "--debug"}
    if name == "train_and_serve":
        own = set()  # they have a table
    word = next(word for word, module in SUBCOMMANDS.items() if module == f"flows.{name}")
    lines = [line for line in README.splitlines() if f"flows.{name}" in line or f"{SCRIPT} {word}" in line]
    assert lines
    assert {option for option in own if not any(option in line for line in lines)} == set()


def test_every_command_line_is_looked_at() -> None:
    """There is no command line in flows/ whose options are not looked at here."""
    commands = {path.stem for path in Path("flows").glob("*.py") if 'if __name__ == "__main__"' in path.read_text()}
    assert commands - {"temporary_server", "promote_cli", "rehearse_cli", "cli"} == set(PARSERS)


def test_every_metric_and_error_is_in_the_readme() -> None:
    """Each metric and each direct kind of pipeline error stands in the README."""
    kinds = [kind.__name__ for kind in errors.PipelineError.__subclasses__()]
    assert [name for name in [*METRICS, *kinds] if name not in README + CONFIGURATION] == []


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

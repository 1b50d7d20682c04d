"""What is recorded of an environment, whatever is installed in it."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

from tasks.proof.packages import installed_packages
from tasks.training.recipe import this_machine


def install(directory: Path, name: str, text: str | None) -> None:
    """Write the metadata of a package; None leaves its file out."""
    place = directory / f"{name}.dist-info"
    place.mkdir()
    if text is not None:
        (place / "METADATA").write_text(text)


def test_every_readable_package_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that comes first on the path counts; one that was half installed is left out and ends nothing."""
    install(tmp_path, "numpy-0.0.1", "Metadata-Version: 2.1\nName: NumPy\nVersion: 0.0.1\n")
    install(tmp_path, "broken-1.0", None)
    install(tmp_path, "nameless-1.0", "Metadata-Version: 2.1\nVersion: 1.0\n")
    before = installed_packages()
    assert before["numpy"] == version("numpy")
    monkeypatch.syspath_prepend(tmp_path)
    found = installed_packages()
    assert found == {**before, "numpy": "0.0.1"}
    assert found["keras"] == version("keras")


def test_the_machine_is_named() -> None:
    """Python, system and processor are known, because they decide the last bit of a number."""
    assert all(this_machine().values())

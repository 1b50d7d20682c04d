"""Imports of large modules: without garbage collections, and with the collector as it was before."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

import pytest

from tasks.waiting import importing


@pytest.fixture(autouse=True)
def _collector_as_it_was() -> Iterator[None]:
    yield
    gc.enable()


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("error", [None, ImportError])
def test_the_collector_rests_during_an_import(before: bool, error: type[Exception] | None) -> None:
    """It is off in the block and as before after it, also if the import fails; what was imported is left out of it."""
    frozen = gc.get_freeze_count()
    if not before:
        gc.disable()
    with contextlib.suppress(ImportError), importing("not_imported_yet"):
        assert not gc.isenabled()
        if error:
            raise error
        made = [[number] for number in range(1000)]
    assert gc.isenabled() == before
    if not error:
        assert gc.get_freeze_count() >= frozen + len(made)


def test_a_module_that_is_there_changes_nothing() -> None:
    """The collector works on, and nothing is frozen, where the module was imported before."""
    frozen = gc.get_freeze_count()
    with importing("threading"):
        assert gc.isenabled()
    assert gc.get_freeze_count() == frozen

"""Whose fault the end of a server is that serves the variants of a sweep."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.sections.serving import Serving
from tasks.datasets.rows import Array, load_arrays, save_arrays
from tasks.errors import AccessDenied, ModelLoadError, PredictionError, ServingError, ServingUnavailable
from tasks.records import Backend, Candidate, Signature, TensorSpec
from tasks.serving import side_by_side
from tasks.serving.exits import KILLED, explain_exit
from tasks.serving.side_by_side import Asked, ask_side_by_side

SIGNATURE = Signature((TensorSpec("x", "float32", (None,)),), (TensorSpec("y", "float32", (None,)),))


class Client:
    """Stands for a client of a server, which answers with the rows."""

    def predict(self, _version: int, rows: dict[str, Array], *_: object) -> dict[str, Array]:
        return {"y": rows["x"]}


@pytest.fixture
def asked(tmp_path: Path) -> list[Asked]:
    """Return two versions with a row each."""
    rows = tmp_path / "rows.npz"
    save_arrays(rows, {"x": np.zeros(1, np.float32)})
    versions = [Candidate("m", number, tmp_path, "", SIGNATURE, 0, rows, rows, rows) for number in (1, 2)]
    return [Asked(one, rows, tmp_path / f"answers{one.version}.npz") for one in versions]


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[ServingError | None]:
    """Return a list of what the next servers end with; None and all others after them answer."""
    ends: list[ServingError | None] = []

    @contextlib.contextmanager
    def server(*_: object, **__: object) -> Iterator[tuple[None, None]]:
        error = ends.pop(0) if ends else None
        if error is not None:
            raise error
        yield None, None

    monkeypatch.setattr(side_by_side, "throwaway_server", server)
    monkeypatch.setattr(side_by_side, "open_clients", lambda *_: contextlib.nullcontext([Client()]))
    return ends


def asking(asked: list[Asked], tmp_path: Path) -> dict[int, Any]:
    return dict(ask_side_by_side(Backend("embedded"), Serving(), asked, tmp_path / "log"))


def killed() -> ServingError:
    """Return the error of a server that somebody killed."""
    return explain_exit(KILLED, "", "m")


def test_a_server_that_was_killed_is_started_again(
    asked: list[Asked], starts: list[ServingError | None], tmp_path: Path
) -> None:
    """A kill from outside takes no variant out, whether one or several are served."""
    for several in (asked[:1], asked):
        starts[:] = [killed()]
        assert asking(several, tmp_path) == {}
        assert all("y" in load_arrays(one.answers) for one in several)


def test_a_variant_whose_server_is_killed_each_time(
    asked: list[Asked], starts: list[ServingError | None], tmp_path: Path
) -> None:
    """The variant that cannot be served by itself, twice, is at fault; the other one is served."""
    starts[:] = [killed(), killed(), killed()]
    assert list(asking(asked, tmp_path)) == [1]
    assert starts == []


@pytest.mark.parametrize("error", [ModelLoadError("damaged"), PredictionError("crashed at a row")])
def test_what_a_model_does_to_its_server(
    asked: list[Asked], starts: list[ServingError | None], tmp_path: Path, error: ServingError
) -> None:
    """A refused model, or one at which the server crashed, is not served again."""
    starts[:] = [error]
    assert asking(asked[:1], tmp_path) == {1: error}


@pytest.mark.parametrize(
    "error",
    [
        ServingUnavailable("no engine"),
        AccessDenied("401"),
        ModelLoadError("the server refused 'm': No space left on device"),
        explain_exit(1, "OSError: [Errno 24] Too many open files", "m"),
    ],
)
def test_what_no_variant_can_be_blamed_for(
    asked: list[Asked], starts: list[ServingError | None], tmp_path: Path, error: ServingError
) -> None:
    """Without a server, without access and without space on the machine there is no verdict on any variant."""
    starts[:] = [error]
    with pytest.raises(type(error)) as caught:
        asking(asked, tmp_path)
    assert caught.value is error

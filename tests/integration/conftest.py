"""Trained and exported models, made once a session in this process by the functions that the pipeline calls."""

from __future__ import annotations

import dataclasses
import socket
import uuid
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from configs.loading import load_config
from configs.schema import Config
from tasks.datasets.prepare import prepare_splits
from tasks.records import Candidate, Splits, TrainedModel
from tests.s3_server import BUCKET, S3Server, s3_server

USER = "tests.data.user_models"
# name: its loader, its builder, further settings
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "digits": ("configs.digits:load", "configs.digits:build", {"training.epochs": 4}),
    "penguins": ("configs.penguins:load", "configs.penguins:build", {"training.epochs": 3}),
    "one_number": (f"{USER}:line", f"{USER}:one_number", {"training.epochs": 3}),
    "table": (f"{USER}:people", f"{USER}:table", {}),
    "of_bytes": (f"{USER}:byte_strings", f"{USER}:of_bytes", {}),
    "two_by_two": (f"{USER}:pairs", f"{USER}:two_by_two", {}),
    "noisy": ("configs.digits:load", f"{USER}:noisy", {}),
    "naming": (f"{USER}:scored", f"{USER}:naming", {}),
    "renamed": (
        f"{USER}:pairs",
        f"{USER}:two_by_two",
        {"export.inputs": {"l": "left", "r": "right"}, "export.outputs": {"t": "total", "o": "odd"}},
    ),
    "padded": (f"{USER}:line", f"{USER}:one_number", {"export.version_width": 8, "export.warmup_rows": 0}),
}


@dataclasses.dataclass(frozen=True)
class Rehearsed:
    """A model on its way, up to the candidate."""

    config: Config
    splits: Splits
    trained: TrainedModel
    candidate: Candidate
    run_dir: Path

    def with_(self, **changes: Any) -> Rehearsed:
        """Return this with other parts."""
        return dataclasses.replace(self, **changes)


@pytest.fixture(scope="session")
def make_config(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Config]:
    """Return a function that reads a configuration whose every output lies in a directory of its own."""

    def making(load: str, build: str, name: str = "m", **settings: Any) -> Config:
        path = tmp_path_factory.mktemp(name) / "cfg.yaml"
        path.write_text(f"name: {name}\ndata: {{load: '{load}'}}\nmodel: {{build: '{build}'}}\n")
        return load_config(path, ["training.epochs=1", *(f"{key}={value}" for key, value in settings.items())])

    return making


@pytest.fixture(scope="session")
def user_config(make_config: Callable[..., Config]) -> Callable[..., Config]:
    """Return a function that configures functions of `tests.data.user_models`."""

    def making(load: str, build: str, **settings: Any) -> Config:
        return make_config(f"{USER}:{load}", f"{USER}:{build}", **settings)

    return making


@pytest.fixture(scope="session")
def rehearsed(make_config: Callable[..., Config]) -> Callable[[str], Rehearsed]:
    """Return a function that trains and exports one of `MODELS`, once a session."""
    from tasks.savedmodel.exporter import export_savedmodel
    from tasks.store.layout import claim_version, version_number
    from tasks.training.fit import fit_model

    @cache
    def making(name: str) -> Rehearsed:
        load, build, settings = MODELS[name]
        config = make_config(load, build, name, **settings)
        run_dir = config.work_dir / "runs" / "r"
        splits = prepare_splits(config.data, run_dir / "data")
        trained = fit_model(config, splits, run_dir / "model.keras")
        model_dir = config.work_dir / "candidates" / name
        with claim_version(model_dir, config.models_root / name, config.export.version_width) as claim:
            exported = export_savedmodel(config, splits, trained, claim.staging, run_dir)
            version_dir = claim.publish()
        number = version_number(version_dir.name)
        assert number == 1
        candidate = Candidate(
            name,
            number,
            version_dir,
            exported.digest,
            exported.signature,
            exported.size_bytes,
            run_dir / "requests.npz",
            run_dir / "reference.npz",
            splits.test,
        )
        return Rehearsed(config, splits, trained, candidate, run_dir)

    return making


@pytest.fixture
def held_port() -> Iterator[int]:
    """Return a port of loopback that is held for the test and refuses every connection."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, never listening
        yield int(held.getsockname()[1])


@pytest.fixture(scope="session")
def s3_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Run an S3 server for all modules that ask for one."""
    with s3_server(tmp_path_factory.mktemp("s3") / "server") as server:
        yield server


@pytest.fixture(scope="module")
def s3(s3_process: S3Server) -> Iterator[S3Server]:
    """Let this process and those that it starts find the S3 server in their environment.

    The next module finds its environment unchanged, so that no test passes only after this one.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_process.environment.items():
            patch.setenv(name, value)
        yield s3_process


@pytest.fixture
def address(s3: S3Server) -> str:
    """Return the address of an empty place in the object store."""
    return f"s3://{BUCKET}/{uuid.uuid4().hex[:12]}"

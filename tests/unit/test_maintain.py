"""The daily maintenance: what it removes and repairs, and what it does while something that it needs is away."""

from __future__ import annotations

from pathlib import Path

import docker.errors
import pytest
from filelock import FileLock

import flows.maintain
from configs.loading import load_config
from configs.schema import Config
from tasks.errors import LockTimeout, ServingUnavailable, StoreError
from tasks.maintain import examine_model, reap_containers
from tasks.serving import reaper


def config(directory: Path, text: str = "") -> Config:
    """Return a configuration whose store is in a directory."""
    (directory / "cfg.yaml").write_text(f"name: m\n{text}\n")
    return load_config(directory / "cfg.yaml")


def test_containers_of_ended_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A removed container is named with its run and the reason; a configuration that starts none asks no engine."""
    found = [reaper.Reaped("rehearsal-1", "r1", "it is past its deadline")]
    monkeypatch.setattr(reaper, "reap", lambda now: found if now > 0 else [])
    expected = ["removed rehearsal-1 of run r1: it is past its deadline"]
    assert reap_containers.fn(config(tmp_path)) == expected
    assert reap_containers.fn(config(tmp_path, "serving: {backend: docker}")) == expected
    assert reap_containers.fn(config(tmp_path, "serving: {backend: embedded}")) == []


@pytest.mark.parametrize("host", ["unix:///nonexistent.sock", "tcp://127.0.0.1:1", "nonsense"])
def test_an_engine_that_does_not_answer(host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine is needed where the configuration says so, and only there."""
    monkeypatch.setenv("DOCKER_HOST", host)
    assert reap_containers.fn(config(tmp_path)) == []
    with pytest.raises(ServingUnavailable, match="No Docker engine answers"):
        reap_containers.fn(config(tmp_path, "serving: {backend: docker}"))


def test_an_engine_that_does_not_remove(caplog: pytest.LogCaptureFixture) -> None:
    """A container that an engine refuses to remove is warned of, and the others are removed."""

    class Api:
        def containers(self, **_: object) -> list[dict[str, object]]:
            labels = {"keras-rehearsal": "throwaway-server", "keras-rehearsal.deadline": "1"}
            return [{"Id": name, "Names": [f"/{name}"], "Labels": labels} for name in ("kept", "removed")]

        def remove_container(self, name: str, **_: object) -> None:
            if name == "kept":
                raise docker.errors.APIError("no", explanation="it is busy")

    class Client:
        api = Api()

    found = reaper.remove_orphans(Client(), 2.0)  # type: ignore[arg-type]
    assert [one.container for one in found] == ["removed"]
    assert "Container kept could not be removed: it is busy" in caplog.text


def test_what_needs_a_person(tmp_path: Path) -> None:
    """A model in order has no findings; a version that nobody promoted is reported and stays."""
    cfg = config(tmp_path)
    assert examine_model.fn(cfg) == []
    foreign = cfg.live_dir / "7"
    foreign.mkdir()
    [finding] = examine_model.fn(cfg)
    assert (finding.done, foreign.is_dir()) == ("reported", True)
    assert "was not promoted by this project" in finding.text


def test_a_store_that_cannot_be_examined(tmp_path: Path) -> None:
    """A lock that another process holds, and a directory that cannot be written, end the stage with the reason."""
    cfg = config(tmp_path, "promote: {lock_timeout_s: 0}")
    cfg.live_dir.mkdir(parents=True)
    with FileLock(cfg.live_dir / ".lock"), pytest.raises(LockTimeout, match="was held for 0 s"):
        examine_model.fn(cfg)
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="models_root must be writable"):
        examine_model.fn(config(tmp_path, "models_root: file"))


def test_the_store_is_maintained_without_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that does not answer is a finding beside the others, not the end of the run."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent.sock")
    for stage in (examine_model, reap_containers):
        monkeypatch.setattr(flows.maintain, stage.fn.__name__, stage.fn)  # without Prefect's retries
    cfg = config(tmp_path, "serving: {backend: docker}")
    (cfg.live_dir / "7").mkdir(parents=True)
    state = flows.maintain.maintain.fn(str(tmp_path / "cfg.yaml"))
    assert (state.type, state.name) == ("FAILED", "NeedsDecision")
    assert "'7' was not promoted" in str(state.message).replace(f"{cfg.live_dir}/", "")
    assert "reported: No Docker engine answers" in str(state.message)

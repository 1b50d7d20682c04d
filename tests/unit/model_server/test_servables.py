"""Which versions are loaded, served and ended."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.model_server.model_config import ModelConfig, VersionPolicy, version_dirs
from tasks.model_server.servables import LoadRetries, ModelSpec, Servables, State
from tasks.model_server.status import Code, StatusError

START, LOADING, AVAILABLE, UNLOADING, END = State


class Disk:
    """A base path, and a loader that notes what it is asked for and fails on the versions named."""

    def __init__(self, base_path: Path, retries: int = 0, allow_labels: bool = True) -> None:
        self.base_path = base_path
        self.bad: set[int] = set()
        self.loaded: list[int] = []
        self.servables = Servables(self._load, LoadRetries(retries, 0.0), allow_labels)

    def _load(self, version_dir: Path) -> Any:
        version = int(version_dir.name)
        self.loaded.append(version)
        if version in self.bad:
            raise StatusError(Code.DATA_LOSS, "damaged")
        return version_dir.name

    def put(self, *versions: int) -> None:
        for version in versions:
            (self.base_path / str(version)).mkdir()

    def configure(self, policy: VersionPolicy | None = None, labels: dict[str, int] | None = None) -> None:
        policy = policy or VersionPolicy()
        self.servables.configure([ModelConfig("m", self.base_path, policy, labels or {})])

    def settle(self) -> dict[int, State]:
        self.servables.poll()
        while self.servables.act():
            pass
        return {state.version: state.state for state in self.servables.states(ModelSpec("m"))}


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    """Return a disk with an empty base path, configured to serve the highest version."""
    made = Disk(tmp_path)
    made.configure()
    return made


def test_new_version_replaces_the_old_one(disk: Disk) -> None:
    """The new version is available when the old one has ended."""
    disk.put(1)
    assert disk.settle() == {1: AVAILABLE}
    disk.put(2)
    assert disk.settle() == {2: AVAILABLE, 1: END}
    assert disk.servables.find(ModelSpec("m")) == (2, "2")


def test_new_version_is_loaded_before_the_old_one_goes(disk: Disk) -> None:
    """Between the two steps of a switch both versions are available."""
    disk.put(1)
    disk.settle()
    disk.put(2)
    disk.servables.poll()
    disk.servables.act()
    assert {state.version: state.state for state in disk.servables.states(ModelSpec("m"))} == {
        2: AVAILABLE,
        1: AVAILABLE,
    }


def test_bad_version_leaves_the_old_one_serving(disk: Disk) -> None:
    """A version that fails ends with its error, is not tried again, and changes nothing for requests."""
    disk.put(1)
    disk.settle()
    disk.put(2)
    disk.bad = {2}
    assert disk.settle() == {2: END, 1: AVAILABLE}
    assert disk.settle() == {2: END, 1: AVAILABLE}
    assert disk.loaded == [1, 2]
    (state,) = disk.servables.states(ModelSpec("m", version=2))
    assert (state.code, state.message) == (Code.DATA_LOSS, "damaged")


def test_bad_version_that_goes_and_comes_back_is_tried_again(disk: Disk) -> None:
    """Once its directory was gone, a version that failed gets a new chance."""
    disk.put(1)
    disk.bad = {1}
    assert disk.settle() == {1: END}
    (disk.base_path / "1").rmdir()
    disk.settle()
    disk.bad = set()
    disk.put(1)
    assert disk.settle() == {1: AVAILABLE}


def test_retries(tmp_path: Path) -> None:
    """A load is tried again as often as allowed, and the version is LOADING meanwhile."""
    disk = Disk(tmp_path, retries=2)
    disk.configure()
    disk.put(1)
    disk.bad = {1}
    disk.servables.poll()
    disk.servables.act()
    assert disk.servables.states(ModelSpec("m"))[0].state is LOADING
    assert disk.settle() == {1: END}
    assert disk.loaded == [1, 1, 1]


def test_highest_of_several_is_loaded_first(disk: Disk) -> None:
    """Of several versions the highest comes first, so that it serves first."""
    disk.configure(VersionPolicy(latest=3))
    disk.put(1, 2, 3, 4)
    assert disk.settle() == {4: AVAILABLE, 3: AVAILABLE, 2: AVAILABLE}
    assert disk.loaded == [4, 3, 2]


def test_versions_left_over_go_one_by_one(disk: Disk) -> None:
    """While no wanted version is available, the highest unwanted one is kept."""
    disk.configure(VersionPolicy(latest=2))
    disk.put(1, 2)
    disk.settle()
    disk.configure(VersionPolicy(specific=frozenset((3,))))
    disk.put(3)
    disk.bad = {3}
    assert disk.settle() == {3: END, 2: AVAILABLE, 1: END}


def test_model_that_is_no_longer_configured_is_unloaded(disk: Disk) -> None:
    """A model that a new configuration does not name ends, and is not found any more."""
    disk.put(1)
    disk.settle()
    disk.servables.configure([])
    assert disk.settle() == {1: END}
    with pytest.raises(StatusError, match=r"Latest\(m\)"):
        disk.servables.find(ModelSpec("m"))


def test_model_that_is_no_longer_configured_goes_without_its_base_path(disk: Disk) -> None:
    """Unloading a model that a configuration leaves out does not depend on its directory."""
    disk.put(1)
    disk.settle()
    (disk.base_path / "1").rmdir()
    disk.base_path.rmdir()
    disk.servables.configure([])
    assert disk.settle() == {1: END}
    disk.base_path.mkdir()
    disk.put(1)
    disk.configure()
    assert disk.settle() == {1: AVAILABLE}


def test_labels(disk: Disk) -> None:
    """A label finds its version; one that is unknown is a wrong argument, not a missing servable."""
    disk.put(1, 2)
    disk.configure(VersionPolicy(latest=2), {"stable": 1, "next": 9})
    disk.settle()
    assert disk.servables.find(ModelSpec("m", label="stable")) == (1, "1")
    for label, code in (("none", Code.INVALID_ARGUMENT), ("next", Code.NOT_FOUND)):
        with pytest.raises(StatusError) as raised:
            disk.servables.find(ModelSpec("m", label=label))
        assert raised.value.code is code


def test_moving_a_label_to_an_unloaded_version_is_refused(disk: Disk) -> None:
    """The flag allows a new label to run ahead of its version, never one that is in use."""
    disk.put(1)
    disk.configure(labels={"stable": 1})
    disk.settle()
    with pytest.raises(StatusError, match="not currently available") as raised:
        disk.configure(labels={"stable": 2})
    assert raised.value.code is Code.FAILED_PRECONDITION
    assert disk.servables.find(ModelSpec("m", label="stable")) == (1, "1")


def test_labels_without_the_flag(tmp_path: Path) -> None:
    """Without the flag even a new label must name a loaded version."""
    disk = Disk(tmp_path, allow_labels=False)
    with pytest.raises(StatusError, match="not currently available"):
        disk.configure(labels={"stable": 1})
    disk.configure()
    disk.put(1)
    disk.settle()
    disk.configure(labels={"stable": 1})


def test_settled_means_each_model_has_come_to_something(disk: Disk) -> None:
    """A model without a version that is available or has failed keeps the others waiting."""
    assert disk.servables.settled() is None
    disk.put(1)
    disk.settle()
    reached = disk.servables.settled()
    assert reached is not None
    assert [(name, state.version, state.state) for name, state in reached] == [("m", 1, AVAILABLE)]


@pytest.mark.parametrize(
    ("name", "version"),
    [("7", 7), ("007", 7), ("-1", -1), ("9223372036854775807", 2**63 - 1)],
)
def test_what_counts_as_a_version(tmp_path: Path, name: str, version: int) -> None:
    """A child whose whole name is a 64-bit integer is a version, even a file."""
    (tmp_path / name).touch()
    assert version_dirs(tmp_path) == ({version: tmp_path / name}, "")


@pytest.mark.parametrize("name", ["1.0", "v1", "1_", ".1", "٣", "9223372036854775808", "1e3", ".staging-1"])
def test_what_does_not_count_as_a_version(tmp_path: Path, name: str) -> None:
    """Every other name is passed over."""
    (tmp_path / name).touch()
    assert version_dirs(tmp_path) == ({}, "")


def _nothing_to_link_to(path: Path) -> None:
    path.mkdir()
    (path / "saved_model.pb").symlink_to("nowhere")


@pytest.mark.parametrize(
    "make",
    [Path.touch, os.mkfifo, lambda path: path.symlink_to("nowhere"), lambda path: path.symlink_to(path.name),
     lambda path: path.symlink_to("file"), _nothing_to_link_to],
    ids=["file", "fifo", "dangling link", "link to itself", "link to a file", "dangling link inside"],
)  # fmt: skip
def test_what_cannot_be_measured_stays_at_start(disk: Disk, make: Callable[[Path], None]) -> None:
    """It is never loaded, and the version before serves on until another one comes."""
    disk.put(1)
    disk.settle()
    (disk.base_path / "file").touch()
    made = disk.base_path / "9"
    make(made)
    assert disk.settle() == {9: START, 1: AVAILABLE}
    assert disk.servables.states(ModelSpec("m", 9))[0].message == ""
    assert disk.settle() == {9: START, 1: AVAILABLE}
    assert disk.loaded == [1]
    assert not disk.servables.is_loading
    disk.put(10)
    assert {version: state for version, state in disk.settle().items() if version != 9} == {10: AVAILABLE, 1: END}


def test_links_to_what_is_there_are_followed(disk: Disk) -> None:
    """A version may be a link, hold links, and even links that lead back; an empty directory fails in its load."""
    real = disk.base_path / "real"
    (real / "variables").mkdir(parents=True)
    (real / "saved_model.pb").touch()
    (real / "link").symlink_to("saved_model.pb")
    (real / "loop").symlink_to(real)
    (disk.base_path / "9").symlink_to("real")
    assert disk.settle() == {9: AVAILABLE}
    disk.put(10)
    disk.bad.add(10)
    assert disk.settle() == {10: END, 9: AVAILABLE}


def test_only_what_cannot_be_measured(disk: Disk) -> None:
    """With nothing else there, the server waits, as for a version that is still to come."""
    (disk.base_path / "9").touch()
    assert disk.settle() == {9: START}
    assert disk.servables.settled() is None
    assert disk.servables.has_new_models


def test_one_version_twice(tmp_path: Path) -> None:
    """Of two names of one version the last is taken, and both are named."""
    (tmp_path / "1").touch()
    (tmp_path / "0001").touch()
    found, complaint = version_dirs(tmp_path)
    assert found == {1: tmp_path / "1"}
    assert complaint.endswith("Version 1 will be loaded from 1, 0001 will be ignored.")


def test_base_path_that_is_missing_stops_every_model(disk: Disk, tmp_path: Path) -> None:
    """While one base path cannot be read, no model's versions change."""
    disk.put(1)
    disk.settle()
    missing = ModelConfig("o", tmp_path / "missing")
    disk.servables.configure([ModelConfig("m", disk.base_path), missing])
    disk.put(2)
    assert disk.settle() == {1: AVAILABLE}
    missing.base_path.mkdir()
    assert disk.settle() == {1: END, 2: AVAILABLE}


def test_retries_hold_everything_up_once_started(tmp_path: Path) -> None:
    """A load that is to be tried again lets nothing else happen, not even its own removal; before the start it does."""
    (tmp_path / "a").mkdir()
    disk = Disk(tmp_path / "a", retries=1)
    disk.configure()
    disk.bad = {2}
    disk.put(1)
    disk.settle()
    disk.servables.start()
    disk.put(2)
    disk.servables.poll()
    disk.servables.act()
    assert disk.servables.is_loading
    (disk.base_path / "2").rmdir()
    disk.put(3)
    disk.servables.poll()
    assert disk.servables.states(ModelSpec("m"))[0][:2] == (2, LOADING)
    assert disk.settle() == {1: AVAILABLE, 2: END}
    (failed,) = disk.servables.states(ModelSpec("m", version=2))
    assert failed.message == "damaged"
    assert disk.settle() == {1: END, 2: END, 3: AVAILABLE}
    assert disk.loaded == [1, 2, 2, 3]


def test_loaded_version_that_is_not_wanted_any_more_cannot_be_wanted_again(disk: Disk) -> None:
    """It waits to be unloaded; a bad successor that goes and comes back mended is not loaded until it is gone."""
    disk.put(1)
    disk.settle()
    disk.put(2)
    disk.bad = {2}
    disk.settle()
    (disk.base_path / "2").rmdir()
    assert disk.settle() == {1: AVAILABLE, 2: END}
    disk.bad = set()
    disk.put(2)
    assert disk.settle() == {1: AVAILABLE, 2: END}
    disk.put(3)
    assert disk.settle() == {1: END, 2: END, 3: AVAILABLE}


def test_labels_go_with_their_model(disk: Disk) -> None:
    """Labels of a model that was left out are unknown, and may name any version when it comes back."""
    disk.put(1)
    disk.configure(labels={"stable": 1})
    disk.settle()
    disk.servables.configure([])
    with pytest.raises(StatusError, match="Unrecognized servable version label: stable"):
        disk.servables.find(ModelSpec("m", label="stable"))
    disk.configure(labels={"stable": 2})


def test_model_is_new_until_a_version_has_come_to_something(disk: Disk) -> None:
    """Until then the configuration is not read again."""
    assert disk.servables.has_new_models
    disk.put(1)
    disk.settle()
    assert not disk.servables.has_new_models
    disk.configure(VersionPolicy(latest=2))
    assert not disk.servables.has_new_models
    disk.servables.configure([])
    disk.configure()
    assert disk.servables.has_new_models


def test_model_that_went_before_it_came_keeps_nobody_waiting(disk: Disk, tmp_path: Path) -> None:
    """A model that is left out before any version of it was found does not hold up the others."""
    other = tmp_path / "other"
    (other / "1").mkdir(parents=True)
    disk.servables.configure([ModelConfig("o", other)])
    disk.servables.poll()
    while disk.servables.act():
        pass
    reached = disk.servables.settled()
    assert reached is not None
    assert [name for name, _ in reached] == ["o"]

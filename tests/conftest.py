"""What every tier shares: marks by folder, and what `docker` means."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import settings

# what an example takes on a busy machine proves nothing
settings.register_profile("no-clock", deadline=None, database=None)
settings.load_profile("no-clock")

ENDS_WITH_US = ("setpriv", "--pdeathsig", "TERM")  # before the command of a server that outlives its test


def reset_signals() -> None:
    """Give signals the effect that they have by default, in this process and in those that it starts.

    A suite that is started in the background, by `nohup`, cron or some CI systems, inherits SIGINT ignored, and a
    process that is started with a signal ignored never sees it.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def pytest_configure() -> None:
    """Start from the same state, whoever started the suite."""
    reset_signals()
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):  # what tests read from a pipe is plain
        os.environ.pop(name, None)


def children() -> dict[int, int]:
    """Return pid to process group of every child of this process that is no zombie."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent, group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(parent) == os.getpid() and state != "Z":
                found[int(stat.parent.name)] = int(group)
    return found


@pytest.fixture(autouse=True)
def _no_process_outlives_its_test() -> Iterator[None]:
    """End what a test has started and not ended, with its group: one that failed must not disturb the next.

    Fixtures of a module or of the session are made before, so their processes stay.
    """
    before = children()
    yield
    for pid, group in children().items():
        if pid not in before:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL) if group == pid else os.kill(pid, signal.SIGKILL)


@cache
def engine_problem() -> str:
    """Return why no container can be tested here, or an empty string."""
    if not os.environ.get("REHEARSAL_TEST_IMAGE"):
        return "REHEARSAL_TEST_IMAGE does not name an image with TensorFlow Serving's contract"
    import docker
    from docker.errors import DockerException

    try:
        with contextlib.closing(docker.from_env(timeout=120)) as client:
            client.images.get(os.environ["REHEARSAL_TEST_IMAGE"])
    except DockerException as exc:
        return f"no engine with that image: {type(exc).__name__}"
    return ""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip `docker` tests without an engine; where REQUIRE_DOCKER=1 promises one, fail instead."""
    if item.get_closest_marker("docker") and engine_problem():
        if os.environ.get("REQUIRE_DOCKER") == "1":
            pytest.fail(f"REQUIRE_DOCKER=1, but {engine_problem()}", pytrace=False)
        pytest.skip(engine_problem())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the quick tiers first; on several workers last, so that none waits for another one's slow file at the end."""
    tiers = ("e2e", "integration", "unit") if os.environ.get("PYTEST_XDIST_WORKER") else ("unit", "integration", "e2e")
    items.sort(key=lambda item: next((n for n, tier in enumerate(tiers) if tier in item.path.parts), 0))


def pytest_collection_finish() -> None:
    """Leave the modules and the tests, which live until the end, out of later garbage collections."""
    gc.collect()
    gc.freeze()


APART = "No run here starts a container"


@cache
def unit_of_work(file: Path) -> str:
    """Return what keeps tests on one worker (`-n`): their file, or the engine that some files share.

    The tests of a file share what they train and start. Each run on an engine removes what killed runs have left there,
    so that the tests that kill one must not meet another's run; a file whose runs start no container says so.
    """
    text = file.read_text()
    return "the engine" if "mark.docker" in text and APART not in text else str(file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Give `-n auto` one worker more than there are processors, because some tests wait for servers and engines.

    More than four would not help, because the tests of containers share one worker.
    """
    return min(len(os.sched_getaffinity(0)) + 1, 4)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each worker whole units of work in the order of the tiers.

    By itself xdist begins with the files that have the most tests, and those that take minutes have few.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByUnit(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return unit_of_work(config.rootpath / nodeid.partition("::")[0])

    config.option.loadscopereorder = False
    return ByUnit(config, log)


@pytest.fixture(scope="session")
def mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an MLflow database with all its tables and nothing in them, to be copied.

    MLflow needs six seconds of a processor to create one, so that all workers share it.
    """
    base = tmp_path_factory.getbasetemp()
    path = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "empty-mlflow.db"
    with FileLock(f"{path}.lock"):
        if not path.exists():
            from mlflow import MlflowClient

            unfinished = path.with_suffix(".unfinished")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                MlflowClient(f"sqlite:///{unfinished}", f"sqlite:///{unfinished}").search_experiments()
            unfinished.rename(path)
    return path


@pytest.fixture(scope="session")
def test_image() -> str:
    """Return the image that container tests run."""
    return os.environ["REHEARSAL_TEST_IMAGE"]

"""What every tier shares: marks by folder, and what `docker` means."""

from __future__ import annotations

import contextlib
import os
from functools import cache

import pytest
from hypothesis import settings

# what an example takes on a busy machine proves nothing
settings.register_profile("no-clock", deadline=None, database=None)
settings.load_profile("no-clock")


@cache
def engine_problem() -> str:
    """Return why no container can be tested here, or an empty string."""
    if not os.environ.get("REHEARSAL_TEST_IMAGE"):
        return "REHEARSAL_TEST_IMAGE does not name an image with TensorFlow Serving's contract"
    import docker
    from docker.errors import DockerException

    try:
        with contextlib.closing(docker.from_env(timeout=5)) as client:
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
    """Run the quick tiers first."""
    tiers = ("unit", "integration", "e2e")
    items.sort(key=lambda item: next((n for n, tier in enumerate(tiers) if tier in item.path.parts), 0))


@pytest.fixture(scope="session")
def test_image() -> str:
    """Return the image that container tests run."""
    return os.environ["REHEARSAL_TEST_IMAGE"]

"""What is said of a server that ended while it loaded two versions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from configs.sections.serving import Serving
from tasks.errors import ModelLoadError, ServingError
from tasks.records import Candidate, Champion, GraphFacts, Signature
from tasks.serving.exits import explain_exit
from tasks.serving.launch import wait_available

NOTHING = Path()
CANDIDATE = Candidate("half", 12, Path("/c/half/12"), "", Signature((), ()), 0, NOTHING, NOTHING, NOTHING)
CHAMPION = Champion(2, Path("/live/half/2"), "", GraphFacts((), (), 0, 0, 0, 0))


@dataclass
class Ended:
    """A server that has ended (a `ThrowawayServer`)."""

    printed: str
    code: int = 255
    backend = "docker"
    served_name = "half"
    image = image_id = version = rest_url = grpc_target = ""

    def exit_code(self) -> int:
        return self.code

    def log(self) -> str:
        return self.printed

    def memory_mb(self) -> float:
        return 0.0

    def explain_exit(self) -> ServingError:
        return explain_exit(self.code, self.printed, "half")

    def ended(self) -> ServingError:
        return self.explain_exit()


def refused(*named: str) -> str:
    """Return the last line of a server that could not load versions, each named as the server names it."""
    which = ", ".join(f"{{{one}}} due to error: DATA_LOSS: too short" for one in named)
    return f"Failed to start server. Error: Unknown: {len(named)} servable(s) did not become available: {{{which}}}\n"


@pytest.mark.parametrize("named", ["name: half version: 2", "Name: half Version: 2"])
def test_the_live_version_was_refused(named: str) -> None:
    """A server that ends over the live version is not said to have refused the candidate; it spells in two ways."""
    with pytest.raises(ModelLoadError) as caught:
        wait_available(Ended(refused(named)), CANDIDATE, Serving(), CHAMPION)
    assert "the server must load 'half' version 2, which is live, but refused it: " in str(caught.value)
    assert "repair or remove '/live/half/2'" in str(caught.value)
    assert "xport it again" not in str(caught.value)


@pytest.mark.parametrize("named", ["name: half version: 12", "name: half version: 22"])
def test_another_version_was_refused(named: str) -> None:
    """A number that only contains the live version's number is another version."""
    with pytest.raises(ModelLoadError, match="'half' version 12 but refused it: .*Export it again"):
        wait_available(Ended(refused(named)), CANDIDATE, Serving(), CHAMPION)


def test_another_end() -> None:
    """A server that was killed refused nothing."""
    with pytest.raises(ServingError, match="SIGKILL") as caught:
        wait_available(Ended("", 137), CANDIDATE, Serving(), CHAMPION)
    assert type(caught.value) is ServingError

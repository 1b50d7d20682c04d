"""Interrupts that arrive at an awkward moment."""

from __future__ import annotations

import signal
import threading

import pytest

from flows.commands import session


class Awkward:
    """An object in whose destructor a signal arrives: Python drops what its handler raises."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        signal.raise_signal(self.number)
        for _ in range(1000):
            pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_in_a_destructor_is_not_lost(number: int) -> None:
    """It ends the block all the same, a step later."""
    with pytest.raises(KeyboardInterrupt), session():
        Awkward(number)
        threading.Event().wait(600)
        pytest.fail("the interrupt was lost")


def test_a_signal_that_prefect_turns_into_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect's handler raises an exception of its own, which names the signal; it is delivered again, too."""
    from prefect.exceptions import TerminationSignal

    def of_prefect(number: int, _frame: object) -> None:
        raise TerminationSignal(signal=number)

    with pytest.raises(TerminationSignal), session():
        signal.signal(signal.SIGTERM, of_prefect)
        Awkward(signal.SIGTERM)
        threading.Event().wait(600)
        pytest.fail("the signal was lost")


def test_other_errors_are_shown_as_ever(capsys: pytest.CaptureFixture[str]) -> None:
    """An ordinary error in a destructor ends nothing."""

    class Failing:
        def __del__(self) -> None:
            raise ValueError("in a destructor")

    seen = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sys.unraisablehook", seen.append)
        with session():
            Failing()
    assert [str(found.exc_value) for found in seen] == ["in a destructor"]

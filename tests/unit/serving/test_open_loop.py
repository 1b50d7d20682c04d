"""The load generator: its times do not depend on the answers, and what waits for a connection has waited."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from tasks.serving.open_loop import OK, SEED, Connection, OpenLoop, Reply

RATE = 2000.0


class Gate:
    """A server that answers nothing until it is opened; a fake at the seam of `Connection`."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.asked: list[int] = []
        self.closed = 0

    def ask(self, number: int) -> Reply:
        self.asked.append(number)
        self.opened.wait()
        return Reply(OK, b"answer %d" % number)

    def close(self) -> None:
        self.closed += 1


def passed(loop: OpenLoop, seconds: float) -> None:
    """Wait until the load has gone on for some seconds of its own time."""
    while loop.now() < seconds:
        time.sleep(0.005)


def test_the_times_do_not_depend_on_the_server() -> None:
    """While nothing is answered, requests become due at the times of the seeded Poisson process, and none is lost."""
    gate = Gate()
    loop = OpenLoop([lambda: gate], 7, RATE, connections=2)
    with loop.running():
        passed(loop, 0.1)
        stalled_until = loop.now()
        gate.opened.set()
    load = loop.load()
    expected = np.cumsum(np.random.default_rng(SEED).exponential(1 / RATE, len(load.due_s)))
    np.testing.assert_allclose(load.due_s, expected)
    assert len(load.due_s) > 50  # many more than the two that could be open
    waited = load.due_s < stalled_until
    assert (load.latency_ms[waited] >= (stalled_until - load.due_s[waited]) * 1e3 - 1).all()
    assert (load.status == OK).all()
    assert gate.closed == 2
    assert set(load.number.tolist()) == set(range(7))
    bodies = [load.replies[place] for place in load.reply.tolist()]
    assert bodies == [(0, number, b"answer %d" % number) for number in load.number.tolist()]


def test_kinds_take_turns() -> None:
    """With two kinds of connections each sends every other request, and each number."""
    gates = Gate(), Gate()
    for gate in gates:
        gate.opened.set()

    def opening(kind: int) -> Connection:
        return gates[kind]

    loop = OpenLoop([lambda: opening(0), lambda: opening(1)], 3, RATE, connections=1)
    with loop.running():
        passed(loop, 0.05)
    load = loop.load()
    assert load.kind.tolist() == [count % 2 for count in range(len(load.kind))]
    assert load.number.tolist() == [count // 2 % 3 for count in range(len(load.kind))]


def test_who_waits_too_long_gets_no_answer() -> None:
    """A request that has waited for longer than the time limit is not sent, and counts as one without an answer."""
    gate = Gate()
    loop = OpenLoop([lambda: gate], 1, RATE, connections=1, timeout_s=0.02, most_ms=1e9)
    with loop.running():
        passed(loop, 0.1)
        gate.opened.set()
    load = loop.load()
    late = load.status != OK
    assert late.any()
    assert loop.exceeding == late.sum()
    assert load.refusals == ("no answer within the time limit of a request",)
    assert len(gate.asked) == (~late).sum()


def test_an_error_waits_for_no_answer() -> None:
    """After an error in the block nothing more is sent and nothing is waited for; the threads end with the server."""
    gate = Gate()
    loop = OpenLoop([lambda: gate], 1, RATE, connections=2)
    with pytest.raises(KeyboardInterrupt), loop.running():
        passed(loop, 0.05)
        raise KeyboardInterrupt
    gate.opened.set()
    loop.join()
    assert len(gate.asked) == 2
    assert gate.closed == 2

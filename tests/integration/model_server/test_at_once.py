"""What the REST application answers in its event loop, with real models in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
ASK = """
import asyncio, json, sys
from pathlib import Path
from tasks.model_server import tf_runtime
from tasks.model_server.model_config import ModelConfig
from tasks.model_server.rest_app import RestApp
from tasks.model_server.servables import LoadRetries, Servables
from tasks.model_server.warmup import load_warm

tf_runtime._QUICK_S = float("inf")  # whatever this machine takes for a run counts as quick
name, base_path, bodies = sys.argv[1], Path(sys.argv[2]), sys.stdin.buffer.read().splitlines()
servables = Servables(load_warm, LoadRetries(0, 0.0), False)
servables.configure([ModelConfig(name, base_path)])
servables.poll()
while servables.act():
    pass
app = RestApp(servables, 30_000)
path = f"/v1/models/{name}:predict"

async def at_once(body):
    answering = app._answer("POST", path, body)
    try:
        answering.send(None)  # as far as it comes without waiting for a thread
    except StopIteration as done:
        return [done.value[0], done.value[1].decode()]
    answering.close()

async def usual(body):
    status, text = await app._answer("POST", path, body)
    return [status, text.decode()]

async def main():
    for body in bodies:
        print(json.dumps([await at_once(body), await usual(body), await at_once(body)]))

asyncio.run(main())
"""


def _ask(name: str, base_path: Path, *bodies: str) -> list[list[object]]:
    """Return for each body what is answered at once, the answer, and what is answered at once after that."""
    command, text = [sys.executable, "-c", ASK, name, str(base_path)], "\n".join(bodies)
    done = subprocess.run(command, cwd=ROOT, input=text, capture_output=True, text=True, check=True, timeout=600)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_quick_model(recorded_models: Path) -> None:
    """After one run of a size its like is answered at once, failures included, each as on the usual way."""
    small, large, wrong, broken = _ask(
        "half", recorded_models / "half", '{"instances": [[1.0]]}', '{"instances": [[1.0], [2.0]]}',
        '{"inputs": [[1.0, 2.0]]}', '{"instances": [[1.0]'
    )  # fmt: skip
    assert small == [None, [200, '{"predictions":[[2.5]]}'], [200, '{"predictions":[[2.5]]}']]
    assert large[0] is None
    assert large[1] == large[2] == [200, '{"predictions":[[2.5],[3.0]]}']
    for known, usual, again in (wrong, broken):
        assert known == usual == again
        assert isinstance(usual, list)
        assert usual[0] == 400


def test_what_takes_long_to_read(recorded_models: Path) -> None:
    """The event loop reads a small body however it is written, and a larger one only where that is quick."""
    rest = ", [2.0]" * 600 + "]}"
    small, plain, spelt, large = _ask(
        "half", recorded_models / "half", '{"instances": [[Inf]]}', '{"instances": [[2.0]' + rest,
        '{"instances": [[Inf]' + rest, '{"instances": [[2.0]' + rest + " " * 2**18
    )  # fmt: skip
    assert small[2] == small[1] == [200, '{"predictions":[[Infinity]]}']
    assert plain[2] == plain[1]
    for known, usual, again in (spelt, large):
        assert (known, again) == (None, None)
        assert isinstance(usual, list)
        assert usual[0] == 200
    assert large[1] == plain[1]


def test_what_may_take_long_or_is_not_there(odd_models: Path) -> None:
    """A graph with a loop is never run in the event loop; that a model is not served is said there."""
    [[known, usual, again]] = _ask("odd", odd_models / "odd", '{"signature_name": "slow", "inputs": 1}')
    assert (known, usual, again) == (None, [200, '{"outputs":1}'], None)
    [[known, usual, again]] = _ask("nope", odd_models / "nope", '{"signature_name": "slow", "inputs": 1}')
    assert known == usual == again
    assert isinstance(usual, list)
    assert usual[0] == 404

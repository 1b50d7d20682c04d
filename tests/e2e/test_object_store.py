"""The whole way over an object store by the command line: a run, a sync beside the server, the doctor, a rollback."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.s3_server import BUCKET, S3Server, s3_server

# No run here starts a container.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
STORE = f"s3://{BUCKET}/production"
QUICK = ("--set", "training.epochs=3", "--set", "gates.metrics.accuracy={min: 0.3, worse_by: 0.5}")


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Run an S3 server."""
    with s3_server(tmp_path_factory.mktemp("s3") / "server") as server:
        yield server


@pytest.fixture(scope="module")
def production(user: Any, s3: S3Server, open_server: Callable[[], Any]) -> Iterator[Any]:
    """Return a production server, beside which a sync follows the store; the user's commands find the store."""
    user.env.update(s3.environment)
    root = user.directory / "served"
    command = [sys.executable, "-m", "flows.sync", "--from", STORE, "--to", str(root), "--interval", "0.3"]
    sync = subprocess.Popen(command, env=user.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    server = open_server()
    server.watch(root / "digits")
    yield server
    sync.send_signal(signal.SIGTERM)
    out, err = sync.communicate(timeout=600)
    assert sync.returncode == 0, out + err
    assert "Traceback" not in out + err


def call(user: Any, production: Any, *args: str, flow: str = "train_and_serve") -> Any:
    store = ("--set", f"models_root={STORE}", "--set", f"promote.live_url={production.url}")
    return user.run(*store, *args, flow=flow)


def served(user: Any) -> dict[int, str]:
    """Return the digest of each version beside the server, as its manifest says."""
    manifests = (user.directory / "served" / "digits").glob("[0-9]*/assets.extra/manifest.json")
    return {int(path.parts[-3]): json.loads(path.read_text())["digest"] for path in manifests}


@pytest.fixture(scope="module")
def judged(user: Any, production: Any) -> Any:
    """Have version 1 await review, and lose the machine that judged it."""
    pod = user.work_dir.with_name("pod")
    done = call(user, production, *QUICK, "--set", "promote.mode=review", "--set", f"work_dir={pod}")
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.rmtree(pod)
    return done


@pytest.fixture(scope="module")
def one(user: Any, production: Any, judged: Any) -> Any:
    """Have version 1 in production, which a machine with an empty work_dir approved."""
    assert not user.work_dir.exists()
    done = call(user, production, *QUICK, "--version", "1", "--approve", "--by", "ann", flow="promote")
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.long
def test_an_approval_elsewhere_is_verified_behind_a_sync(user: Any, production: Any, judged: Any, one: Any) -> None:
    """What a lost machine judged goes live by another one's approval: the same bytes, with the validated answers."""
    assert "digits version 1 awaiting review" in judged.stdout
    assert "digits promoted: candidate 1: version 1 is live, approved by ann" in one.stdout
    assert "only checking that version" not in one.stdout + one.stderr
    [digest] = served(user).values()
    assert digest in judged.stdout
    assert production.serving() == [1]
    aliases, [version] = user.registry()
    assert (aliases["champion"], version.tags["promotion"], version.tags["digest"]) == (1, "promoted", digest)
    doctor = call(user, production, flow="doctor")
    assert (doctor.returncode, doctor.stdout) == (0, "'digits' is in order\n"), doctor.stderr
    back = call(user, production, flow="rollback")
    assert (back.returncode, back.stdout) == (1, ""), back.stdout
    assert "version 1 of 'digits' has none before it" in back.stderr


def test_a_store_that_refuses_is_said_before_the_training(user: Any, production: Any, one: Any) -> None:
    """Wrong credentials end a run before its training with exit code 2, and no secret is shown."""
    before = dict(user.env)
    user.env["AWS_SECRET_ACCESS_KEY"] = "wrong-secret-key"
    try:
        done = call(user, production, *QUICK)
        back = call(user, production, flow="rollback")
    finally:
        user.env.update(before)
    for one_of_both in (done, back):
        assert one_of_both.returncode == 2, one_of_both.stdout + one_of_both.stderr
        assert "the secret key is wrong" in one_of_both.stderr
        assert "wrong-secret-key" not in one_of_both.stdout + one_of_both.stderr
    assert "train_model" not in done.stdout
    assert production.serving() == [1]


@pytest.mark.long
def test_a_second_version_is_taken_back(user: Any, production: Any, one: Any) -> None:
    """The second version is judged beside the champion of the store, and one command takes it back."""
    first = served(user)[1]
    done = call(user, production, *QUICK, "--set", "seed=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "compared with version 1, which is live" in done.stdout
    back = call(user, production, "--by", "ann", flow="rollback")
    assert back.returncode == 0, back.stdout + back.stderr
    assert served(user)[3] == first
    assert production.comes_to_serve(3)
    work = Path(user.work_dir)
    elsewhere = ("--set", f"work_dir={work.with_name('elsewhere')}")  # another machine
    again = call(user, production, *elsewhere, "--check", flow="doctor")
    assert again.returncode == 1
    assert "generation" in again.stdout

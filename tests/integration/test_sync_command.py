"""The command `sync` as a process beside a real S3 server: exit codes, health, signals, a full disk, no extra."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.objects.live import LIVE
from tasks.store.layout import STAGING, versions
from tests.fault_proxy import FaultProxy
from tests.integration.test_object_store import live_of, machine, served
from tests.s3_server import S3Server
from tests.store_driver import bucket_at

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "flows.sync", *args]


def run(*args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(command(*args), cwd=ROOT, capture_output=True, text=True, timeout=600, check=False, **options)


class Sync:
    """A running sync with its health."""

    def __init__(self, *args: str, env: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            command(*args, "--health", "127.0.0.1:0", "--interval", "0.2"),
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})},
        )  # fmt: skip
        assert self.process.stdout is not None
        found = re.search(r"http://\S+", self.process.stdout.readline())
        assert found, self.process.communicate()
        self.url = found[0]

    def health(self) -> tuple[int, Any]:
        """Return status and JSON."""
        try:
            with urllib.request.urlopen(self.url, timeout=600) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, json.load(exc)

    def wait_for(self, happened: Callable[[int, Any], bool]) -> tuple[int, Any]:
        """Ask until something holds, or the test's time is over."""
        while True:
            status, found = self.health()
            if happened(status, found):
                return status, found
            assert self.process.poll() is None

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal; return the exit code and what was printed."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=600)
        return self.process.returncode, out + err


@pytest.fixture
def start() -> Iterator[Callable[..., Sync]]:
    """Start syncs that end with the test."""
    started: list[Sync] = []

    def starting(*args: str, **options: Any) -> Sync:
        started.append(Sync(*args, **options))
        return started[-1]

    yield starting
    for sync in started:
        sync.process.kill()
        sync.process.communicate()


def test_health_follows_the_store(address: str, tmp_path: Path, start: Callable[..., Sync]) -> None:
    """Health names what is there, keeps the last state with the reason after a bad live.json, and SIGTERM is exit 0."""
    store, root = machine(tmp_path, address), tmp_path / "models"
    store.promote(store.export())
    sync = start("--from", address, "--to", str(root), "--stale", "1")
    _, found = sync.wait_for(lambda status, _: status == 200)
    model = found["models"]["m"]
    assert (model["champion"], model["digest"], model["versions"]) == (1, store.digest(1), [1])
    store.promote(store.export())
    sync.wait_for(lambda _, found: found["models"]["m"]["champion"] == 2)
    second = run("--from", address, "--to", str(root), "--once")
    assert (second.returncode, second.stdout) == (1, "")
    assert "only one sync can fill" in second.stderr
    bucket = bucket_at(address)
    before = bucket.read(f"m/{LIVE}")
    assert before is not None
    assert before.content is not None
    etag = bucket.write(f"m/{LIVE}", b"garbage", before.etag)
    _, found = sync.wait_for(lambda status, _: status == 503)
    assert "must say what is live" in found["last_error"]
    assert found["models"]["m"]["champion"] == 2
    assert found["ready"]
    bucket.write(f"m/{LIVE}", before.content, etag)
    sync.wait_for(lambda status, _: status == 200)
    code, printed = sync.end()
    assert code == 0
    assert "the directory is again what the store says" in printed
    assert "Traceback" not in printed
    assert served(root, address) == [1, 2]
    assert run("--from", address, "--to", str(root), "--once").returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_middle_of_a_download(
    address: str, tmp_path: Path, start: Callable[..., Sync], s3: S3Server, number: int
) -> None:
    """While an answer of the store does not come, a signal ends the sync cleanly, and nothing half-fetched is seen."""
    store, root = machine(tmp_path, address), tmp_path / "models"
    store.promote(store.export())
    proxy = FaultProxy(s3.url.removeprefix("http://"))
    proxy.rule = lambda _method, path: "hang" if "variables.data" in path else ""
    sync = start("--from", address, "--to", str(root), env={"AWS_ENDPOINT_URL": proxy.address})
    assert proxy.misbehaved.wait(600)
    status, found = sync.health()
    assert (status, found["ready"], found["models"]) == (503, False, {})
    code, printed = sync.end(number)
    proxy.close()
    assert code == 0, printed
    assert "Traceback" not in printed
    assert [*versions(root / "m")] == []
    assert run("--from", address, "--to", str(root), "--once").returncode == 0
    assert served(root, address) == [1]


def test_a_full_disk_keeps_what_is_served(address: str, tmp_path: Path) -> None:
    """A version that cannot be written leaves no part of itself, and the one that is served stays."""
    store, root = machine(tmp_path, address), tmp_path / "models"
    store.promote(store.export())
    assert run("--from", address, "--to", str(root), "--once").returncode == 0
    store.promote(store.export())
    largest = max(path.stat().st_size for path in (root / "m" / "1").rglob("*") if path.is_file())
    full = run(
        "--from", address, "--to", str(root), "--once",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest - 1, largest - 1)),
    )  # fmt: skip
    assert full.returncode == 1
    assert "must be writable" in full.stderr
    assert [*versions(root / "m")] == [1]
    assert [*(root / "m").glob(f"{STAGING}*")] == []
    assert run("--from", address, "--to", str(root), "--once").returncode == 0


@pytest.mark.parametrize(
    ("args", "environment", "code", "words"),
    [
        (("--from", "s3://no-such-bucket/x"), {}, 2, "the bucket does not exist"),
        ((), {"AWS_SECRET_ACCESS_KEY": "wrong"}, 2, "the secret key is wrong"),
        ((), {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, 2, "there are no credentials"),
        ((), {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_MAX_ATTEMPTS": "1"}, 1, "check AWS_ENDPOINT_URL"),
        (("--health", "192.0.2.1:80"), {}, 1, "--health must be a free port of this machine"),
        (("--to", "/proc/x"), {}, 1, "--to must be a writable directory"),
    ],
)
def test_what_cannot_work_is_one_line(
    address: str, tmp_path: Path, args: tuple[str, ...], environment: dict[str, str], code: int, words: str
) -> None:
    """Each mistake ends the command with its exit code and one line that says what to do."""
    done = run("--from", address, "--to", str(tmp_path / "x"), *args, "--once", env={**os.environ, **environment})
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    if not done.stderr.startswith("usage"):
        assert done.stderr.count("\n") == 1


def test_before_anything_is_live(address: str, tmp_path: Path, start: Callable[..., Sync]) -> None:
    """An empty store is no error: the sync is healthy, says that nothing is live, and follows the first version."""
    root = tmp_path / "models"
    sync = start("--from", address, "--to", str(root))
    _, found = sync.wait_for(lambda status, _: status == 200)
    assert found["models"] == {}
    store = machine(tmp_path, address)
    store.promote(store.export())
    sync.wait_for(lambda _, found: bool(found["models"]))
    assert served(root, address) == [1]
    code, printed = sync.end()
    assert (code, printed.count("nothing is live below")) == (0, 1)


@pytest.mark.long
def test_a_rollback_is_interrupted(address: str, tmp_path: Path, s3: S3Server) -> None:
    """A rollback that waits for the store ends at Ctrl-C, says what is open, and the doctor ends it."""
    file = tmp_path / "cfg.yaml"
    file.write_text(f"name: m\nmodels_root: {address}\nwork_dir: {tmp_path / 'w'}\n")
    store = machine(tmp_path / "1", address)
    for _ in range(2):
        store.promote(store.export())
    proxy = FaultProxy(s3.url.removeprefix("http://"))
    proxy.rule = lambda method, path: "hang" if method == "PUT" and path.endswith(LIVE) else ""
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.rollback", "--config", str(file)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "AWS_ENDPOINT_URL": proxy.address},
    )  # fmt: skip
    try:
        assert proxy.misbehaved.wait(600)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=600)
    finally:
        process.kill()
        process.communicate()
        proxy.close()
    assert process.returncode == 130, out + err
    assert "the publish of version 3 is not finished" in err
    assert "Traceback" not in err
    doctor = subprocess.run(
        [sys.executable, "-m", "flows.doctor", "--config", str(file)],
        cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert "the publish of version 3: live" in doctor.stdout, doctor.stderr
    assert live_of(address).champion == 3
    assert live_of(address).change is None


def test_the_live_version_is_tried_from_the_store(address: str, tmp_path: Path) -> None:
    """`try-out` without a version serves the champion of the store, on a machine that has never seen it."""
    from configs.loading import load_config
    from tasks.try_out import choose_model

    store = machine(tmp_path / "1", address)
    store.promote(store.export())
    file = tmp_path / "cfg.yaml"
    file.write_text(f"name: m\nmodels_root: {address}\nwork_dir: {tmp_path / 'w'}\n")
    tried = choose_model(load_config(file), None, None, "", tmp_path)
    assert tried.version == 1
    assert (tried.version_dir / "saved_model.pb").is_file()


def test_without_the_extra(tmp_path: Path) -> None:
    """Without s3fs, an address names the extra and ends with exit code 2, and a directory works as always."""
    (tmp_path / "cfg.yaml").write_text("name: m\nmodels_root: s3://models/x\n")
    blocked = "import sys; sys.modules['s3fs'] = None; from {0} import main; raise SystemExit(main({1!r}))"
    config = str(tmp_path / "cfg.yaml")
    for module, args in (
        ("flows.sync", ["--from", "s3://models/x", "--to", str(tmp_path / "to"), "--once"]),
        ("flows.rollback", ["--config", config]),
        ("flows.doctor", ["--config", config]),
    ):
        done = subprocess.run(
            [sys.executable, "-c", blocked.format(module, args)],
            cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode == 2, done.stderr
        assert "keras-rehearsal[s3]" in done.stderr
    args = ["--config", config, "--set", f"models_root={tmp_path / 'models'}"]
    done = subprocess.run(
        [sys.executable, "-c", blocked.format("flows.doctor", args)],
        cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "'m' is in order\n")


def test_it_imports_nothing_heavy(address: str, tmp_path: Path) -> None:
    """A sync runs in a small container: it imports neither TensorFlow nor Keras, MLflow, Prefect, NumPy or pandas."""
    script = (
        "import sys; from flows.sync import main; code = main(sys.argv[1:]); "
        "print(sorted({'tensorflow', 'keras', 'mlflow', 'prefect', 'numpy', 'pandas', 'docker'} & {*sys.modules})); "
        "raise SystemExit(code)"
    )
    store = machine(tmp_path, address, "labels")
    store.promote(store.export())
    done = subprocess.run(
        [sys.executable, "-c", script, "--from", address, "--to", str(tmp_path / "to"), "--once"],
        cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert (tmp_path / "to" / "models.config").stat().st_mode & 0o777 == 0o644

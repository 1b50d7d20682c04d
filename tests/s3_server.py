"""A real S3 server: SeaweedFS in one process on loopback, for the tests and the benchmark of object stores."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

BUCKET = "models"
ACCESS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing-secret", "AWS_DEFAULT_REGION": "us-east-1"}
PARTS = ("master", "volume", "filer", "s3", "admin")
STARTS_S = 300  # a machine may be ten times slower


@dataclass(frozen=True)
class S3Server:
    """A running server with one empty bucket.

    Attributes:
        url: its address. process: its only process.
    """

    url: str
    process: subprocess.Popen[bytes]

    @property
    def environment(self) -> dict[str, str]:
        """Return what a client finds in its environment."""
        nothing = dict.fromkeys(("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"), os.devnull)
        return {**ACCESS, **nothing, "AWS_ENDPOINT_URL": self.url, "AWS_EC2_METADATA_DISABLED": "true"}


@contextlib.contextmanager
def s3_server(directory: Path) -> Iterator[S3Server]:
    """Run a server that keeps its files in a directory."""
    weed = Path(sys.executable).with_name("weed")
    http_ports, grpc_ports = _free_ports(), _free_ports()
    flags = [f"-{part}.port={port}" for part, port in http_ports.items()]
    flags += [f"-{part}.port.grpc={port}" for part, port in grpc_ports.items()]
    flags += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={directory / 'data'}", f"-bucket={BUCKET}"]
    flags += ["-webdav=false", "-admin.ui=false", "-master.telemetry=false", "-filer.ui.deleteDir=false"]
    flags += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.pprof=false"]
    (directory / "data").mkdir(parents=True)
    environment = {"PATH": os.environ["PATH"], "HOME": str(directory), **ACCESS}
    with (directory / "weed.log").open("wb") as log:
        process = subprocess.Popen([str(weed), "mini", *flags], stdout=log, stderr=log, env=environment, cwd=directory)
    try:
        _wait(process, http_ports["s3"], directory / "weed.log")
        yield S3Server(f"http://127.0.0.1:{http_ports['s3']}", process)
    finally:
        process.kill()  # nothing of it is kept
        process.wait()
        shutil.rmtree(directory / "data")
        for part in PARTS:  # which it puts into /tmp whatever it is told
            Path(f"/tmp/seaweedfs-{part}-{http_ports[part]}.sock").unlink(missing_ok=True)
            Path(f"/tmp/seaweedfs-{part}-grpc-{grpc_ports[part]}.sock").unlink(missing_ok=True)


def _free_ports() -> dict[str, int]:
    with ExitStack() as held:
        sockets = {part: held.enter_context(socket.socket()) for part in PARTS}
        for opened in sockets.values():
            opened.bind(("127.0.0.1", 0))
        return {part: int(opened.getsockname()[1]) for part, opened in sockets.items()}


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait until the bucket is there, which is made after the server has begun to answer."""
    import s3fs

    secrets = {"key": ACCESS["AWS_ACCESS_KEY_ID"], "secret": ACCESS["AWS_SECRET_ACCESS_KEY"]}
    settings = {"retries": {"max_attempts": 0}}
    system = s3fs.S3FileSystem(
        **secrets, endpoint_url=f"http://127.0.0.1:{port}", config_kwargs=settings, skip_instance_cache=True
    )
    deadline = time.monotonic() + STARTS_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(Exception):
            system.call_s3("head_bucket", Bucket=BUCKET)
            return
        time.sleep(0.05)
    raise AssertionError(f"no S3 server after {STARTS_S} s: {log.read_text()}")

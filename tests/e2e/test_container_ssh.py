"""A real engine behind a real sshd: DOCKER_HOST=ssh://..."""

import getpass
import os
import shutil
import socket
import subprocess
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from configs.sections.serving import Serving
from tasks.errors import ServingUnavailable
from tasks.records import Candidate, Signature
from tasks.serving.container import ensure_image, run_container
from tasks.serving.engine import engine
from tasks.serving.launch import wait_available
from tasks.serving.reaper import LABEL

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
HALF = Path(__file__).parents[1] / "data/tfs_rest/models/half/1"  # x -> 0.5 x + 2
CONFIG = """
HostKey {keys}/host
AuthorizedKeysFile {keys}/id_ed25519.pub
SetEnv DOCKER_HOST={engine}
StrictModes no
PermitRootLogin prohibit-password
"""

pytestmark = [pytest.mark.docker, pytest.mark.skipif(SSHD is None, reason="no sshd (openssh-server)")]


class SshDaemon:
    """An sshd for each connection to a port of loopback; whoever comes in finds the engine of these tests."""

    def __init__(self, home: Path) -> None:
        self._keys = home / ".ssh"
        self._keys.mkdir(mode=0o700)
        for name in ("host", "id_ed25519"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self._keys / name], check=True)
        self._config = home / "sshd_config"
        engine_address = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        self._config.write_text(CONFIG.format(keys=self._keys, engine=engine_address))
        self._listening = socket.create_server(("127.0.0.1", 0))
        port = self._listening.getsockname()[1]
        self.address = f"ssh://{getpass.getuser()}@127.0.0.1:{port}"
        kind, key = (self._keys / "host.pub").read_text().split()[:2]
        self.known_hosts = self._keys / "known_hosts"
        self.known_hosts.write_text(f"[127.0.0.1]:{port} {kind} {key}\n")
        self._sessions: list[subprocess.Popen[bytes]] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        assert SSHD is not None
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:  # closed
                return
            with connection:
                command = [SSHD, "-i", "-e", "-f", str(self._config)]
                self._sessions.append(
                    subprocess.Popen(command, stdin=connection, stdout=connection, stderr=subprocess.DEVNULL)
                )

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()
        for session in self._sessions:
            session.terminate()
            session.wait()


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SshDaemon]:
    """Make the engine reachable by ssh alone, for a user whose keys lie in a home of their own."""
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd insists on it, and only a service manager makes it
    daemon = SshDaemon(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.setenv("DOCKER_HOST", daemon.address)
    yield daemon
    daemon.close()


@pytest.fixture
def serving() -> Serving:
    """Return the configuration with the image under test."""
    return Serving(image=os.environ.get("REHEARSAL_TEST_IMAGE", "keras-rehearsal-serving:test"))


@pytest.mark.usefixtures("ssh")
def test_an_engine_over_ssh(serving: Serving, tmp_path: Path) -> None:
    """A model is copied in, served and removed as over the socket."""
    version_dir = Path(shutil.copytree(HALF, tmp_path / "half" / "1"))
    nothing, run_id = Path(os.devnull), uuid.uuid4().hex
    candidate = Candidate("half", 1, version_dir, "", Signature((), ()), 0, nothing, nothing, nothing)
    with run_container(serving, "half", version_dir, run_id=run_id) as server:
        wait_available(server, candidate, serving).close()
        url = f"{server.rest_url}/v1/models/half:predict"
        assert requests.post(url, json={"instances": [[1.0]]}, timeout=600).json() == {"predictions": [[2.5]]}
    with engine() as client:
        assert client.containers.list(all=True, filters={"label": f"{LABEL}.run={run_id}"}) == []


def test_an_unknown_host_is_an_absent_engine(ssh: SshDaemon, serving: Serving) -> None:
    """A host whose key is not known is not trusted, in one line with the address and the reason."""
    ssh.known_hosts.write_text("")
    with pytest.raises(ServingUnavailable, match=rf"engine answers at {ssh.address}: .* not found in known_hosts"):
        ensure_image(serving)

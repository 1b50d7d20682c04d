"""Pulling an image through a real engine, from a registry of one image that runs in the test."""

import gzip
import hashlib
import json
import logging
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from configs.sections.serving import Serving
from tasks.errors import ServingUnavailable
from tasks.serving.archive import tar_stream
from tasks.serving.container import ensure_image
from tasks.serving.engine import engine

pytestmark = pytest.mark.docker
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def digest(content: bytes) -> str:
    """Return the name by which a registry knows these bytes."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def image_blobs(tmp_path: Path) -> tuple[bytes, dict[str, bytes]]:
    """Return the manifest and the blobs of an image with one layer that no engine has yet."""
    version_dir = tmp_path / "1"
    version_dir.mkdir()
    (version_dir / "new").write_text(uuid.uuid4().hex)
    layer = b"".join(tar_stream(version_dir, "layer"))
    packed = gzip.compress(layer)
    with engine() as client:
        architecture = client.version()["Arch"]
    config = json.dumps(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
        }
    ).encode()
    described = [{"size": len(blob), "digest": digest(blob)} for blob in (config, packed)]
    kinds = ("container.image.v1+json", "image.rootfs.diff.tar.gzip")
    parts = [{"mediaType": f"application/vnd.docker.{k}"} | d for k, d in zip(kinds, described, strict=True)]
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": parts[0], "layers": parts[1:]}
    return json.dumps(manifest).encode(), {digest(config): config, digest(packed): packed}


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """Serve one image at `<address>/pulled:1` and return the address."""
    manifest, blobs = image_blobs(tmp_path)

    class Registry(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_manifest = self.path in ("/v2/pulled/manifests/1", f"/v2/pulled/manifests/{digest(manifest)}")
            body = manifest if is_manifest else blobs.get(self.path.rpartition("/")[2], b"{}")
            self.send_response(200 if is_manifest or body != b"{}" or self.path == "/v2/" else 404)
            self.send_header("Content-Type", MANIFEST if is_manifest else "application/octet-stream")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Docker-Content-Digest", digest(body))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            """Keep the test's output to itself."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_an_absent_image_is_pulled_with_its_progress(registry: str, caplog: pytest.LogCaptureFixture) -> None:
    """What is not available locally is pulled, layer by layer in the log, and found the next time."""
    serving = Serving(image=f"{registry}/pulled:1")
    with caplog.at_level(logging.INFO, logger="tasks.serving.container"):
        first = ensure_image(serving)
        second = ensure_image(serving)
    with engine() as client:
        client.images.remove(serving.image)
    assert first == second
    said = [line for line in caplog.messages if not line.startswith("waiting for ")]  # of a busy machine
    assert said == [f"Pulling {serving.image}", f"Pulling {serving.image}: 1 of 1 layers"]


def test_an_image_that_the_registry_does_not_have_is_said_so(registry: str) -> None:
    """A wrong tag gives the registry's reason and the field to look at."""
    with pytest.raises(ServingUnavailable, match=r"pulled:2 is not available locally .* Check serving\.image"):
        ensure_image(Serving(image=f"{registry}/pulled:2"))

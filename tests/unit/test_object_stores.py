"""Addresses of object stores, what live.json may say, and the health of a sync, without a store."""

from __future__ import annotations

import dataclasses
import json
import socket
import struct
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.loading import ConfigError, load_config
from configs.object_stores import bucket_and_prefix, directory_name, store_address
from flows.sync import build_parser, main
from tasks.errors import ManifestMismatch, StoreError
from tasks.objects.follow import Followed
from tasks.objects.health import Health, answering
from tasks.objects.live import Kept, Live, Stored, read_live
from tasks.objects.mirror import BEFORE_PRODUCTION
from tasks.records import Change
from tasks.savedmodel.manifest import MANIFEST, Manifest, read_manifest, write_manifest
from tasks.store.history import NOTES, State

DIGEST, UPLOAD = "a" * 64, "b" * 32
STORED = Stored("00007", DIGEST, f"versions/sha256-{DIGEST}/{UPLOAD}")
LIVE = Live(
    "m", 3, "w", "labels", {7: STORED}, Kept(f"history/{UPLOAD}.jsonl", 1, "c" * 64), (7,), {"stable": 7},
    Change("publish", 7, "00007", DIGEST, "/x"), "ann",
)  # fmt: skip


def test_each_state_is_production_s_or_a_candidate_s() -> None:
    """Lines about production come from the store; those about the candidates of a machine stay when it is refreshed."""
    of_production = {"canary", "live", "superseded", "rolled back", "pruned", *NOTES}
    assert of_production | set(BEFORE_PRODUCTION) == set(get_args(State))
    assert not of_production & set(BEFORE_PRODUCTION)


@pytest.mark.parametrize(
    ("text", "bucket", "prefix"),
    [("s3://models", "models", ""), ("s3://models/", "models", ""), ("s3://a-b.c/x/y_1/", "a-b.c", "x/y_1/")],
)
def test_an_address(text: str, bucket: str, prefix: str) -> None:
    """A bucket and a prefix are an address; slashes at its end do not count."""
    assert bucket_and_prefix(store_address(text)) == (bucket, prefix)


@pytest.mark.parametrize(
    "text",
    [
        "s3://", "s3://A/b", "s3://a", "s3:/models/x", "S3://models", "gs://models/x", "s3://models//x",
        "s3://models/../x", "s3://models/.", "s3://models/a b", "s3://models/x?versionId=1", "s3://key:pa55w0rd9@models/x",
        "s3://models/" + "x" * 500, "s3://models/x\n", "https://s3.example/models",
    ],
)  # fmt: skip
def test_no_address(text: str, tmp_path: Path) -> None:
    """What is no address of a store is refused when the configuration is read, and no secret in it is shown."""
    file = tmp_path / "cfg.yaml"
    file.write_text(json.dumps({"name": "m", "models_root": text}))
    with pytest.raises(ConfigError, match="'models_root' must be a directory, or s3://BUCKET/PREFIX") as caught:
        load_config(file)
    assert "key:pa55w0rd9" not in str(caught.value)


@given(st.text("ab-/.", max_size=8), st.text("ab-/.", max_size=8))
def test_mirrors_have_different_names(one: str, other: str) -> None:
    """No two addresses share a mirror, and its name is one directory."""
    names = {directory_name(f"s3://models/{one}"), directory_name(f"s3://models/{other}")}
    assert len(names) == len({one, other})
    assert not any("/" in name for name in names)


def test_live_as_it_is_written() -> None:
    """What is written is read as it was, and is canonical: it does not depend on the order of its parts."""
    text = LIVE.text()
    assert read_live(text, "m", "here") == LIVE
    assert text.count(b"\n") == 1
    assert json.dumps(json.loads(text), sort_keys=True, separators=(",", ":")).encode() + b"\n" == text
    assert LIVE.says_the_same(dataclasses.replace(LIVE, generation=9, write="x", writer="bob"))
    assert not LIVE.says_the_same(dataclasses.replace(LIVE, change=None))
    assert not LIVE.says_the_same(None)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "n"}, {"format": 2}, {"format": None}, {"layout": "other"}, {"listed": [8]}, {"labels": {"stable": 8}},
        {"versions": {"0": dataclasses.asdict(STORED)}}, {"versions": {"8": dataclasses.asdict(STORED)}},
        {"versions": {"7": {**dataclasses.asdict(STORED), "directory": "+7"}}},
        {"versions": {"7": {**dataclasses.asdict(STORED), "directory": "../7"}}},
        {"versions": {"7": {**dataclasses.asdict(STORED), "digest": "A" * 64}}},
        {"versions": {"7": {**dataclasses.asdict(STORED), "path": f"versions/sha256-{'c' * 64}/{UPLOAD}"}}},
        {"versions": {"7": {**dataclasses.asdict(STORED), "path": "/etc"}}},
        {"versions": {"7": None}}, {"versions": []}, {"generation": "x"},
        {"history": {"path": "history/../x", "size": 1, "sha256": "c" * 64}}, {"change": {"operation": "publish"}},
    ],
)  # fmt: skip
def test_live_that_cannot_be_used(changes: dict[str, Any]) -> None:
    """A path that leaves its place, a number with another directory, a label without a version: nothing is believed."""
    text = json.dumps({**json.loads(LIVE.text()), **changes}).encode()
    with pytest.raises(StoreError, match="must say what is live of 'm', but .*; what is served stays"):
        read_live(text, "m", "here")


@given(st.binary(max_size=200))
def test_live_of_any_bytes(text: bytes) -> None:
    """Any other bytes are one clear error."""
    with pytest.raises(StoreError):
        read_live(text, "m", "here")


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    """The manifest of an export is read from its bytes, and only with its own digest."""
    (tmp_path / "variables").mkdir()
    (tmp_path / "variables" / "ä b").write_bytes(b"x")
    written = write_manifest(tmp_path)
    text = (tmp_path / MANIFEST).read_bytes()
    assert read_manifest(text, written.digest) == written
    with pytest.raises(ManifestMismatch):
        read_manifest(text, DIGEST)
    with pytest.raises(ManifestMismatch):
        read_manifest(text + b" ", written.digest)


@pytest.mark.parametrize("path", ["../x", "/x", "a/../x", "a//b", "", ".", "a\nb", MANIFEST.as_posix(), 7, None])
def test_a_manifest_that_leaves_its_directory(path: Any) -> None:
    """A manifest whose paths would leave the directory is refused, even if the digest is right."""
    manifest = Manifest(((path, 1, "c" * 64),))
    entries = [{"path": path, "size": 1, "sha256": "c" * 64}]
    text = (json.dumps({"digest": manifest.digest, "files": entries}, indent=1) + "\n").encode()
    with pytest.raises(ManifestMismatch, match="not the manifest of digest"):
        read_manifest(text, manifest.digest)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--to", ""), "it must be a directory, got an empty text"),
        (("--from", "/models"), "such as s3://BUCKET/PREFIX"),
        (("--from", "s3://models/../x"), "must be a directory, or s3://BUCKET/PREFIX"),
        (("--from", "s3://key:pa55w0rd9@models"), "credentials and the endpoint belong in the environment"),
        (("--keep", "0"), "from 1 to 1000"),
        (("--interval", "nan"), "seconds must be a number"),
        (("--stale", "-1"), "seconds must be a number"),
        (("--model", "../x"), "a model must be the name of one"),
        (("--file-mode", "999"), "a mode must be octal digits"),
        (("--file-mode", "0044"), "a mode must be octal digits"),
        (("--health", "8080"), "must be HOST:PORT"),
        (("--health", "h:70000"), "must be HOST:PORT"),
    ],
)
def test_options_that_cannot_be_used(args: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A mistake in an option of the sync is a usage error that says what to write, and shows no secret."""
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args(["--from", "s3://models/x", "--to", "x", *args])
    said = capsys.readouterr().err
    assert caught.value.code == 2
    assert words in " ".join(said.split())
    assert "key:pa55w0rd9" not in said


def test_health() -> None:
    """A sync is healthy after a complete look, names its last error, and is not healthy without looks for too long."""
    health = Health(stale_s=3600)
    with answering(health, ("127.0.0.1", 0)) as whole:
        url = whole.removesuffix("/healthz")
        assert ask(f"{url}/healthz")[0] == 503
        assert ask(f"{url}/other")[0] == 404
        health.note({"m": Followed(3, 7, DIGEST, (6, 7))}, "", serves=True)
        status, found = ask(f"{url}/healthz?x=1")
        assert (status, found["models"]["m"]["champion"], found["last_error"]) == (200, 7, "")
        health.note({"m": Followed(3, 7, DIGEST, (6, 7))}, "no answer", serves=False)
        status, found = ask(f"{url}/healthz")
        assert (status, found["ready"], found["last_error"]) == (200, True, "no answer")
        health.stale_s = 0
        assert ask(f"{url}/healthz")[0] == 503


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_client_that_goes_away_is_no_error(host: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A probe that does not wait for its answer leaves no traceback in the log, and others are answered."""
    with answering(Health(stale_s=3600), (host, 0)) as url:
        threads, port = threading.active_count(), int(url.rpartition(":")[2].partition("/")[0])
        for sent in (b"GET /heal", b"GET /healthz HTTP/1.1\r\n\r\n" * 100):
            with socket.create_connection((host, port)) as client:
                client.sendall(sent)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closed by a reset
        assert ask(url)[0] == 503
        while threading.active_count() > threads:  # the threads of the clients that went away
            time.sleep(0.01)
    assert capfd.readouterr().err == ""


def test_a_sync_that_would_be_unhealthy_between_two_looks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An age that each look exceeds is a usage error before anything is done."""
    args = ("--from", "s3://models/x", "--to", str(tmp_path / "to"), "--health", "127.0.0.1:0", "--interval", "400")
    assert main(args) == 2
    assert "--stale must be at least twice --interval" in capsys.readouterr().err
    assert not (tmp_path / "to").exists()


def ask(url: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(url, timeout=600) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, json.load(exc)

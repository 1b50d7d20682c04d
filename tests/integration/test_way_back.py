"""The way back, proven by a real server: before a promotion, and before the server of production is upgraded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flows.rehearse_cli import main
from tasks.records import Backend
from tasks.savedmodel.manifest import write_manifest
from tasks.store.champion import find_champion
from tasks.store.history import append, read
from tasks.store.rehearsals import record_of, rehearsal_file
from tests.attached_server import SharedServer
from tests.fault_proxy import FaultProxy
from tests.in_production import TWOV, Shop, new_shop


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """Return a model whose version 1 is live."""
    return new_shop(tmp_path)


@pytest.fixture
def moved(tmp_path: Path) -> Iterator[tuple[FaultProxy, SharedServer]]:
    """Run a server whose answers of version 1 moved by 1e-3."""
    server = SharedServer(tmp_path / "shared").start()
    proxy = FaultProxy(server.url.removeprefix("http://"), edit=moving(1e-3, 1))
    yield proxy, server
    proxy.close()
    server.kill()


def moving(by: float, version: int) -> Callable[[str, bytes], bytes]:
    """Return an edit that moves the first answer of one version."""

    def edit(path: str, content: bytes) -> bytes:
        if not path.endswith(f"/versions/{version}:predict") or b'"outputs"' not in content:
            return content
        answer = json.loads(content)
        answer["outputs"][0][0] += by
        return json.dumps(answer).encode()

    return edit


def through(proxy: FaultProxy, server: SharedServer) -> list[str]:
    """Return the settings of the attached server behind a proxy."""
    return [
        "serving.backend=attached", f"serving.attached.url={proxy.address}",
        f"serving.attached.directory={server.directory}",
    ]  # fmt: skip


def republish(shop: Shop, damage: Callable[[Path], None]) -> None:
    """Make the bytes of version 1 others, as if these had been promoted: an earlier server could load them."""
    config = shop.config()
    live = config.live_dir / "1"
    before = find_champion(config.live_dir)
    assert before is not None
    for path in [path for path in live.rglob("*") if path.is_file()]:  # no hard link to the candidate
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    damage(live)
    digest = write_manifest(live).digest
    text = record_of(config.candidates_dir, before.digest, 1).read_text()
    rehearsal_file(config.candidates_dir, digest, 1).write_text(text.replace(before.digest, digest))
    append(config.live_dir, 1, "live", digest)


def unknown_op(version_dir: Path) -> None:
    """Put an operation into the graph that this server's TensorFlow does not have."""
    graph = version_dir / "saved_model.pb"
    content = graph.read_bytes()
    assert b"AddV2" in content
    graph.write_bytes(content.replace(b"AddV2", b"AddV9"))


def test_a_champion_that_answers_as_recorded(shop: Shop) -> None:
    """Beside a candidate it repeats its own requests, which are not the candidate's, and the gate says how many."""
    way = shop.verdict(shop.candidate(2))
    assert way.passed, way.summary
    assert way.summary.startswith("version 1 can be returned to: all 40 recorded answers are repeated")
    assert way.figures["max_abs_difference"] == 0


def test_the_first_version(tmp_path: Path, shop: Shop) -> None:
    """Where nothing is live the gate passes and says that there is none."""
    shutil.rmtree(tmp_path / "models")
    way = shop.verdict(shop.candidate(2))
    assert (way.passed, way.summary) == (True, "there is none, because no version is live")


def test_an_operation_that_the_server_lacks(shop: Shop) -> None:
    """A champion that this server refuses is a verdict, with the server's words; allowed, it passes with them."""
    republish(shop, unknown_op)
    candidate = shop.candidate(2)
    way = shop.verdict(candidate)
    assert not way.passed
    assert "version 1, which a rollback would return to, cannot be served: the server refused it" in way.summary
    assert "AddV9" in way.summary
    assert "AddV9" in way.evidence["log"]
    allowed = shop.verdict(candidate, "promote.allow_no_way_back=true")
    assert allowed.passed
    assert "AddV9" in allowed.summary
    assert "promote.allow_no_way_back permits" in allowed.summary


def test_answers_that_moved_by_a_thousandth(shop: Shop, moved: tuple[FaultProxy, SharedServer]) -> None:
    """A server on which the champion's answers moved by 1e-3 leaves no way back, and the row is named."""
    proxy, server = moved
    candidate, backend = shop.candidate(2), Backend("attached", url=proxy.address)
    way = shop.verdict(candidate, *through(proxy, server), backend=backend)
    assert not way.passed
    assert "1 of 40 rows differ, worst in row 0: served now 2.001, recorded 2.0" in way.summary
    proxy.edit = moving(1e-6, 1)
    assert shop.verdict(candidate, *through(proxy, server), backend=backend).passed


def test_damaged_bytes_are_never_loaded(shop: Shop) -> None:
    """A live directory with another digest than the promoted one fails the gate, and no server loads it."""
    index = shop.config().live_dir / "1" / "variables" / "variables.index"
    index.write_bytes(index.read_bytes()[:10])
    candidate = shop.candidate(2)
    way = shop.verdict(candidate)
    assert not way.passed
    assert "changed: variables/variables.index" in way.summary
    assert not list(candidate.requests.parent.rglob("server_both.log"))


@pytest.mark.long
def test_the_files_of_its_run_are_gone(shop: Shop) -> None:
    """A champion whose recorded answers are gone is served, and a person decides."""
    candidate, run_dir = shop.candidate(2), next(shop.config().work_dir.glob("runs/20261121*"))
    (run_dir / "server1" / "served.npz").write_bytes(b"cut")
    assert "saved arrays must be readable" in shop.verdict(candidate).needs_person
    (run_dir / "requests.npz").unlink()
    way = shop.verdict(candidate)
    assert way.passed
    assert "requests.npz' is not there any more" in way.needs_person
    assert shop.verdict(shop.candidate(3), "promote.allow_no_way_back=true").needs_person == ""


def test_the_way_back_is_not_the_champion(shop: Shop) -> None:
    """Beside a version that somebody copied there, a rollback returns to version 1, which is asked alone."""
    shutil.copytree(TWOV / "3", shop.config().live_dir / "3")
    candidate = shop.candidate(2)
    way = shop.verdict(replace(candidate, version=2))
    assert way.summary.startswith("version 1 can be returned to: all 40 recorded answers are repeated")
    assert (candidate.requests.parent / "again" / "server_way_back.log").is_file()


@pytest.mark.parametrize("protocol", ["grpc", "both"])
def test_over_the_other_transport(shop: Shop, protocol: str) -> None:
    """Answers that were recorded over REST are repeated over gRPC."""
    assert shop.verdict(shop.candidate(2), f"serving.protocol={protocol}").passed


# --- rehearse --live


def test_an_equal_server_raises_no_alarm(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """Both versions pass all gates on the server that judged them, and production and candidates stay as they are."""
    shop.promote(2)
    before, entries = shop.files(), read(shop.config().live_dir)
    assert shop.live() == 0
    out = capsys.readouterr().out
    assert "twov can be served by embedded: version 2 and version 1 passed" in out
    assert out.count("all 40 recorded answers are repeated") == 2
    for gate in ("safety", "contract", "parity", "latency"):
        assert out.count(f"  {gate} ") == 2, out
    assert shop.files() == before
    assert read(shop.config().live_dir) == entries


@pytest.mark.long
def test_twenty_equal_servers_raise_no_alarm(shop: Shop) -> None:
    """In 20 runs on an equal server no version is refused."""
    shop.promote(2)
    assert [shop.live() for _ in range(20)] == [0] * 20


def test_a_server_whose_answers_moved(
    shop: Shop, moved: tuple[FaultProxy, SharedServer], capsys: pytest.CaptureFixture[str]
) -> None:
    """The upgrade is refused with exit code 3 for the way back alone, whose row is named; allowed, it passes."""
    shop.promote(2)
    words = [word for item in through(*moved) for word in ("--set", item)]
    assert shop.live(*words) == 3
    out = " ".join(capsys.readouterr().out.split())
    assert "twov must not be served by attached" in out
    sentence = out[out.index("must not be served") :]
    assert "version 1, which a rollback would return to: parity: " in sentence
    assert (
        "recorded: output 'output_0': 1 of 40 rows differ, worst in row 0: served now 2.001, recorded 2.0" in sentence
    )
    assert "version 2" not in sentence
    assert shop.live(*words, "--set", "promote.allow_no_way_back=true") == 0
    moved[0].edit = moving(1e-3, 2)  # of the version that is live, which nothing excuses
    assert shop.live(*words, "--set", "promote.allow_no_way_back=true") == 3


def test_a_server_that_refuses_the_live_version(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """The upgrade is refused with exit code 3, in the server's words; without an earlier version the line says so."""
    republish(shop, unknown_op)
    assert shop.live("--set", "gates.safety.allow_ops=[AddV9]") == 3
    out = capsys.readouterr().out
    assert "version 1, which is live: serving: " in out
    assert "AddV9" in out
    assert "no way back of version 1 is judged, because there is none: no version before it served other bytes" in out


def test_damaged_bytes_and_answers_that_are_gone(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is said of its version, and neither passes silently."""
    shop.promote(2)
    config = shop.config()
    (config.live_dir / "1" / "fingerprint.pb").write_bytes(b"bit rot")
    next(config.work_dir.glob("runs/20261122*/reference.npz")).unlink()
    assert shop.live() == 3
    out = capsys.readouterr().out
    assert "version 2, which is live: recorded: it loads, but nothing is known of its answers" in out
    assert "version 1, which a rollback would return to: recorded: it cannot be served" in out
    assert "changed: fingerprint.pb" in out


def test_a_bound_that_was_raised_is_not_the_servers_fault(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """A gate that fails with the recorded answers as well passes and says so."""
    bounds = ["--set", "gates.metrics={rmse: {min: 5}}", "--set", "gates.use=[quality, parity, size]"]
    assert shop.live(*bounds, "--set", "gates.size.max_parameters=1") == 0
    out = capsys.readouterr().out
    assert out.count("it fails without this server as well") == 2


def test_settings_of_another_version_say_nothing_of_a_server(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """Golden rows and slices that do not fit what is live are said, and nothing else is judged less."""
    golden = shop.directory / "golden.json"
    golden.write_text('{"inputs": {"other": [[1.0]]}, "outputs": {"output_0": [[1.0]]}}')
    words = ["--set", f"gates.golden.file={golden}", "--set", "gates.slices=[colour]"]
    assert shop.live(*words, "--set", "gates.use=[golden, quality, parity]") == 0
    out = capsys.readouterr().out
    assert out.count("not judged, because its settings do not fit this version") == 2
    assert "all 40 recorded answers are repeated" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rows", "rows.csv"], "--live judges the live version by its recorded requests"),
        (["--no-promote"], "got --no-promote as well"),
        (["--set", "name=other"], "--live judges the live version, but there is none in"),
        (["--set", "serving.args=[--enable_batching]"], "args needs backend: docker or auto"),
    ],
)
def test_usage(shop: Shop, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    """What cannot be judged is one line and exit code 2."""
    assert shop.live(*words) == 2
    assert message in capsys.readouterr().err


def test_a_model_is_needed_without_live(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --live a model must be named, and --image has no meaning."""
    config = ["--config", str(shop.directory / "cfg.yaml")]
    assert main(config) == 2
    assert "add --model MODEL, or --live" in capsys.readouterr().err
    assert main([*config, "--model", "x", "--image", "y"]) == 2
    assert "--image belongs to --live" in capsys.readouterr().err

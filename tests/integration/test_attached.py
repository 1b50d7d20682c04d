"""Rehearsals in a server that was running before: what is put in, what is taken out, and what cannot be known."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from configs.schema import Config
from configs.sections.serving import Attached, Serving
from tasks.check import checks
from tasks.errors import ModelLoadError, PredictionError, ServingError, ServingTimeout, ServingUnavailable
from tasks.production.changes import examine
from tasks.records import Backend, Candidate, Signature
from tasks.serving import attached as module
from tasks.serving import launch, turns
from tasks.serving.attached import left_behind
from tasks.serving.launch import check_engine, throwaway_server
from tasks.serving.turns import LOCK, OWNER, own_turn
from tasks.validate import check_services
from tests.attached_server import NO_MODELS, ROOT, SharedServer, wait_until

HALF = ROOT / "tests/data/tfs_rest/models/half/1"  # x -> 0.5 x + 2
OWNING = """
import os, sys, time
from pathlib import Path
from configs.sections.serving import Attached
from tasks.serving.attached import run_attached
attached = Attached.model_validate_json(sys.argv[1])
try:
    with run_attached(attached, "half", Path(sys.argv[2]), run_id="r") as server:
        print(server.served_name, flush=True)
        time.sleep(3000)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
Run = Callable[..., AbstractContextManager[Any]]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedServer]:
    """Run a server on a shared directory for the whole module."""
    server = SharedServer(tmp_path_factory.mktemp("attached") / "shared").start()
    yield server
    server.kill()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[SharedServer]:
    """Give a server for one test, which may end it; it is not started yet."""
    server = SharedServer(tmp_path / "shared")
    yield server
    server.kill()


@pytest.fixture
def version_dir(tmp_path: Path) -> Path:
    """Return a private copy of a version directory whose name is padded."""
    return Path(shutil.copytree(HALF, tmp_path / "half" / "00000012"))


@pytest.fixture
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait long for a server that is not there."""
    monkeypatch.setattr(module, "QUIET_S", 0.1)


@pytest.fixture
def running(tmp_path: Path, version_dir: Path) -> Run:
    """Return a function that serves the version directory in a running server, as the pipeline does."""
    nothing = Path(os.devnull)

    @contextmanager
    def run(server: SharedServer, **settings: Any) -> Iterator[Any]:
        serving = Serving(**{**server.settings, **settings})
        candidate = Candidate("half", 12, version_dir, "", Signature((), ()), 0, nothing, nothing, nothing)
        with throwaway_server(Backend("attached", url=server.url), serving, candidate, tmp_path / "log") as pair:
            yield pair

    return run


def predict(server: Any) -> Any:
    url = f"{server.rest_url}/v1/models/{server.served_name}/versions/12:predict"
    with urllib.request.urlopen(url, b'{"instances": [[1.0], [2.0]]}', timeout=600) as answer:
        return json.loads(answer.read())


def attached_of(server: SharedServer, **settings: Any) -> Attached:
    return Attached(**{**server.settings["attached"], **settings})


# in and out -----------------------------------------------------------------------------------------------------


def test_a_model_is_copied_in_served_and_taken_out_without_a_trace(
    shared: SharedServer, running: Run, version_dir: Path, tmp_path: Path
) -> None:
    """The server serves a copy under a name of its own, and knows it no longer when the block has ended."""
    with running(shared) as (server, client):
        shutil.rmtree(version_dir)  # nothing is shared: the server has its own copy
        assert shared.models == [server.served_name]
        assert server.served_name.startswith("half-rehearsal-")
        assert predict(server) == {"predictions": [[2.5], [3.0]]}
        assert client.states() == {12: ("AVAILABLE", "")}
        assert (server.exit_code(), server.ended()) == (None, None)
    assert shared.is_empty
    assert module.states_of(attached_of(shared), server.served_name) == {12: "END"}
    assert "did not start this server" in (tmp_path / "log").read_text()


def test_a_damaged_model_is_refused_in_the_servers_own_words(
    shared: SharedServer, running: Run, version_dir: Path
) -> None:
    """A model that the server does not load is a refusal with the server's words, by the user's name of the model."""
    (version_dir / "variables" / "variables.index").write_bytes(b"damaged")
    with (
        pytest.raises(ModelLoadError, match=r"must load 'half' version 12 but refused it: .*too short") as caught,
        running(shared),
    ):
        pytest.fail("it was served")
    assert "-rehearsal-" not in str(caught.value) + caught.value.detail
    assert shared.is_empty


def test_a_refused_request_is_the_models(shared: SharedServer, running: Run) -> None:
    """A request that the server refuses while it serves the model is a refusal, by the user's name of the model."""
    with pytest.raises(PredictionError, match=r"/v1/models/half/versions/13/metadata.*Specific\(half, 13") as caught:  # noqa: SIM117
        with running(shared) as (_, client):
            client.signature_def(13, "serving_default")
    assert "-rehearsal-" not in str(caught.value)


def test_an_exception_in_the_block_leaves_nothing(shared: SharedServer, running: Run) -> None:
    """Whatever is raised while the server is used comes out as it is, and the model is gone."""
    with pytest.raises(ZeroDivisionError), running(shared):
        raise ZeroDivisionError
    assert shared.is_empty


def test_files_that_cannot_be_copied_leave_nothing(shared: SharedServer, running: Run, version_dir: Path) -> None:
    """A version directory that cannot be read is one line, and the server never hears of it."""
    shutil.rmtree(version_dir)
    with pytest.raises(ServingError, match=r"got '.*00000012': No such file"), running(shared):
        pytest.fail("it was served")
    assert shared.is_empty


def test_a_server_that_sees_the_directory_elsewhere(tmp_path: Path, own: SharedServer, running: Run) -> None:
    """With serving.attached.seen_as the server finds the model where it sees the shared directory."""
    (tmp_path / "inside").symlink_to(own.directory)
    own.seen_as = tmp_path / "inside"
    own.start()
    with running(own) as (server, _):
        assert f'base_path: "{tmp_path}/inside/{server.served_name}"' in (own.directory / "models.config").read_text()
        assert predict(server)
    assert own.is_empty


# ended runs -----------------------------------------------------------------------------------------------------


def start_owner(server: SharedServer, version_dir: Path) -> tuple[subprocess.Popen[str], str]:
    """Start another process that uses the server; return it, and the name of its model, when that is listed."""
    attached = Attached(**server.settings["attached"]).model_dump_json()
    command = [sys.executable, "-c", OWNING, attached, str(version_dir)]
    owner = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    return owner, owner.stdout.readline().strip()


def test_an_interrupt_takes_the_model_out(shared: SharedServer, version_dir: Path) -> None:
    """Ctrl-C in the middle of a rehearsal leaves nothing, even before the server has read of the model."""
    owner, name = start_owner(shared, version_dir)
    assert shared.models == [name]
    owner.send_signal(signal.SIGINT)
    assert owner.communicate(timeout=600)[0] == "interrupted\n"
    assert shared.is_empty


def test_the_next_run_takes_out_what_a_killed_one_left(shared: SharedServer, version_dir: Path, running: Run) -> None:
    """After SIGKILL the model stays; the doctor names it, and the next run unloads and removes it."""
    owner, name = start_owner(shared, version_dir)
    wait_until(lambda: shared.status(name) == 200)
    owner.kill()
    owner.communicate()
    assert shared.models == [name]
    [found] = left_behind(attached_of(shared), only_look=True)
    assert name in found
    assert shared.models == [name]
    with running(shared) as (server, _):
        assert shared.models == [server.served_name]
        assert predict(server)
        assert module.states_of(attached_of(shared), name) == {12: "END"}
    assert shared.is_empty


def test_the_doctor_takes_out_what_a_killed_run_left_and_leaves_a_living_ones(
    shared: SharedServer, version_dir: Path
) -> None:
    """What is used is no leftover; when its run is killed, it is."""
    owner, name = start_owner(shared, version_dir)
    assert left_behind(attached_of(shared), only_look=False) == []
    assert shared.models == [name]
    owner.kill()
    owner.communicate()
    [found] = left_behind(attached_of(shared), only_look=False)
    assert name in found
    assert shared.is_empty
    assert left_behind(attached_of(shared), only_look=False) == []


@pytest.mark.usefixtures("_no_patience")
def test_the_doctor(own: SharedServer, tmp_path: Path) -> None:
    """Leftovers, also incomplete ones, are named by the doctor and removed unless it only looks; it needs no server."""
    listed, partial, kept = "half-rehearsal-0123456789ab", ".partial-half-rehearsal-0123456789cd", "notes"
    for name in (listed, partial, kept):
        shutil.copytree(HALF, own.directory / name / "1")
    config = f'model_config_list {{ config {{ name: "{listed}" base_path: "{own.directory / listed}" }} }}'
    (own.directory / "models.config").write_text(config)
    settings = Config(name="m", work_dir=tmp_path / "w", models_root=tmp_path / "m", serving=Serving(**own.settings))

    looked = examine(settings, only_look=True)
    assert [finding.done for finding in looked] == ["removed", "removed"]
    assert f"'{own.directory / listed}', which a run left in the attached server at {own.url}" == looked[0].text
    assert own.models == sorted([listed, partial, kept])

    assert examine(settings, only_look=False) == looked
    assert own.models == [kept]
    assert (own.directory / "models.config").read_text() == NO_MODELS
    assert examine(settings, only_look=False) == []

    (own.directory / "models.config").write_text(config.replace("-rehearsal-", "-of-others-"))
    [finding] = examine(settings, only_look=False)
    assert (finding.done, "it lists half-of-others-" in finding.text) == ("reported", True)


# turns ----------------------------------------------------------------------------------------------------------


def test_two_runs_wait_for_each_other(shared: SharedServer, running: Run) -> None:
    """A second run waits until the first has taken its model out; each gets its own model's answers."""
    begun, seen = threading.Event(), []

    def second() -> None:
        begun.set()
        with running(shared) as (server, _):
            assert server.waited_s > 0
            seen.append((shared.models, server.served_name, predict(server)))

    with running(shared) as (server, _):
        other = threading.Thread(target=second)
        other.start()
        begun.wait()
        assert predict(server)
        assert shared.models == [server.served_name]
    other.join(600)
    [(models, name, answer)] = seen
    assert (models, answer) == ([name], {"predictions": [[2.5], [3.0]]})
    assert name != server.served_name
    assert shared.is_empty


def test_a_run_that_waits_too_long_says_for_whom(tmp_path: Path) -> None:
    """A run that gets no turn in time names the one that has it, and may try again."""
    waiting = pytest.raises(ServingUnavailable, match=r"run first \(process \d+ on .*lock_timeout_s")
    with own_turn(tmp_path, "first", 0), waiting, own_turn(tmp_path, "second", 0):
        pytest.fail("two at once")
    with own_turn(tmp_path, "second", 0):
        assert json.loads((tmp_path / OWNER).read_text())["run"] == "second"
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


@pytest.fixture
def _quick_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let owners change their file often, and give them long enough for it."""
    monkeypatch.setattr(turns, "BEAT_S", 0.01)
    monkeypatch.setattr(turns, "LOOK_S", 0.01)


@pytest.mark.usefixtures("_quick_beats")
def test_the_owner_on_another_host_keeps_others_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the lock does not reach, a run sees that another one changes its file, and waits; its own file stays."""
    monkeypatch.setattr(turns, "SILENCE_S", 600.0)
    with own_turn(tmp_path, "far", 0):
        (tmp_path / LOCK).unlink()  # another host's lock is another one
        monkeypatch.setattr(turns, "host_id", lambda: "near")
        with pytest.raises(ServingUnavailable, match="run far"), own_turn(tmp_path, "near", 0):
            pytest.fail("two at once")
        assert json.loads((tmp_path / OWNER).read_text())["run"] == "far"


@pytest.mark.parametrize("content", ['{"host": "far", "run": "dead"}', "", "[1]"])
@pytest.mark.usefixtures("_quick_beats")
def test_a_silent_owner_on_another_host_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    """A file that nobody changes, whatever is in it, keeps nobody out for long."""
    monkeypatch.setattr(turns, "SILENCE_S", 0.05)
    (tmp_path / OWNER).write_text(content)
    with own_turn(tmp_path, "near", 0):
        assert json.loads((tmp_path / OWNER).read_text())["run"] == "near"
    assert not (tmp_path / OWNER).exists()


@pytest.mark.usefixtures("_quick_beats")
def test_a_file_of_another_owner_is_left_alone(tmp_path: Path) -> None:
    """A run whose file another one has replaced neither changes nor removes it."""
    with own_turn(tmp_path, "first", 0):
        (tmp_path / OWNER).write_text("another's")
    assert (tmp_path / OWNER).read_text() == "another's"


# servers and directories that cannot be used --------------------------------------------------------------------


@pytest.mark.usefixtures("_no_patience")
def test_no_server_answers(own: SharedServer, running: Run) -> None:
    """Without a server there is one line with what to start, at once in the check, and a run leaves nothing."""
    with pytest.raises(ServingUnavailable, match=r"No model server answers at http.*--model_config_file=.*shared/"):
        check_services.fn(Config(name="m", serving=Serving(**own.settings)))
    with (
        pytest.raises(ServingUnavailable, match=r"'half' version 12 was not AVAILABLE after 0.3 s, because no server"),
        running(own, startup_timeout_s=0.3),
    ):
        pytest.fail("it was served")
    assert own.is_empty


@pytest.mark.usefixtures("_no_patience")
def test_a_server_that_ends_while_it_is_asked(own: SharedServer, running: Run) -> None:
    """The error says that exit status, log and memory are not known, is no verdict, and is not tried again."""
    own.start()
    with pytest.raises(ServingError, match=r"stopped answering while it served 'half'.*are not known here") as caught:  # noqa: SIM117
        with running(own) as (_, client):
            own.kill()
            client.signature_def(12, "serving_default")
    assert type(caught.value) is ServingError
    assert not caught.value.retryable
    assert own.is_empty


@pytest.mark.usefixtures("_no_patience")
def test_a_server_that_ends_while_it_loads(own: SharedServer, running: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that has read of the model and answers no more is not given the model a second time."""
    own.start()
    asking = launch._told

    def told_then_killed(*arguments: Any) -> Any:
        told = asking(*arguments)
        own.kill()
        return told

    monkeypatch.setattr(launch, "_told", told_then_killed)
    clock = SimpleNamespace(monotonic=itertools.count().__next__, sleep=lambda _seconds: None)
    monkeypatch.setattr(launch, "time", clock)  # so that it is asked twice, however long that takes
    with pytest.raises(ServingError, match=r"stopped answering while it loaded the model.*not known") as caught:  # noqa: SIM117
        with running(own, startup_timeout_s=3):
            pytest.fail("it was served")
    assert not caught.value.retryable
    assert own.is_empty


@pytest.mark.usefixtures("_no_patience")
def test_a_server_that_was_started_again_without_the_model(own: SharedServer, running: Run) -> None:
    """A 404 of a server that no longer knows the model is no verdict on it."""
    own.start()
    with pytest.raises(ServingError, match=r"now reports that it does not know it: it was started again") as caught:  # noqa: SIM117
        with running(own) as (_, client):
            own.kill()
            (own.directory / "models.config").write_text(NO_MODELS)
            own.start()
            client.signature_def(12, "serving_default")
    assert type(caught.value) is ServingError
    assert own.is_empty


def test_a_server_that_was_started_again_with_the_model(own: SharedServer, running: Run) -> None:
    """A server that comes back with the model answers on, because it has read models.config again."""
    own.start()
    with running(own) as (server, client):
        own.kill()
        own.start()
        assert client.states() == {12: ("AVAILABLE", "")}
        assert server.ended() is None
    assert own.is_empty


@pytest.mark.usefixtures("_no_patience")
def test_a_server_that_does_not_see_the_directory(own: SharedServer, running: Run, tmp_path: Path) -> None:
    """The message has the flags, the path that the server must see, and what the server said."""
    own.start()
    own.seen_as = tmp_path / "nowhere"
    words = r"last state: unknown.*nowhere/models.config.*seen_as.*any versions of model half$"
    with pytest.raises(ServingTimeout, match=words), running(own, startup_timeout_s=3):
        pytest.fail("it was served")


def test_what_the_check_finds(shared: SharedServer, tmp_path: Path, own: SharedServer) -> None:
    """A server and a directory that fit pass, over both interfaces; each mistake is one line."""
    settings = shared.settings
    check_engine(Serving(**settings, protocol="both"))
    config = Config(name="m", serving=Serving(**settings))
    said = dict(checks(config, tmp_path))["serving"]()
    assert said == f"the model server at {shared.url} answers, and '{shared.directory}' is writable"
    assert shared.is_empty

    def problem(**changes: Any) -> str:
        with pytest.raises(ServingError) as caught:
            check_engine(Serving(**{**settings, "attached": {**settings["attached"], **changes}}, protocol="both"))
        return str(caught.value)

    (own.directory / "models.config").unlink()
    (tmp_path / "file").touch()
    assert "watches another directory" in problem(directory=own.directory)
    assert "that this process can write" in problem(directory=tmp_path / "file")
    assert "that this process can write" in problem(directory=tmp_path / "missing")
    assert "No model server answers at 127.0.0.1:" in problem(grpc=f"127.0.0.1:{own.grpc_port}")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ('model_config_list { config { name: "live" base_path: "/live" } }', "it lists live"),
        ("model_config_list {", "must be a ModelServerConfig"),
        ("custom_model_config { type_url: 'a/b' }", "it lists a custom model"),
    ],
)
def test_a_directory_that_is_not_for_rehearsals(own: SharedServer, running: Run, config: str, words: str) -> None:
    """A models.config of others is never replaced."""
    (own.directory / "models.config").write_text(config)
    with pytest.raises(ServingError, match=words), running(own):
        pytest.fail("it was replaced")
    assert (own.directory / "models.config").read_text() == config
    with pytest.raises(ServingError, match=words):
        left_behind(attached_of(own), only_look=False)

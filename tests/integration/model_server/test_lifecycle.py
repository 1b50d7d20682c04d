"""Versions come, go and fail in the embedded server as in TensorFlow Serving."""

import http.client
import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

BROKEN_INDEX = b"x"


@pytest.fixture
def store(tmp_path: Path, recorded_models: Path) -> "Store":
    """Return a base path that versions can be put into."""
    return Store(tmp_path / "half", recorded_models)


class Store:
    """A base path with versions of y = 0.5x + bias, published by one rename each."""

    def __init__(self, base_path: Path, recorded_models: Path) -> None:
        self.base_path = base_path
        self._sources = {
            "1": recorded_models / "half" / "1",
            "2": recorded_models / "half_v2" / "2",
            "3": recorded_models / "half_v2" / "3",
        }
        base_path.mkdir()

    def publish(self, version: str, source: str | None = None) -> Path:
        staging = self.base_path / f".staging-{version}"
        shutil.copytree(self._sources[source or version], staging)
        return staging.rename(self.base_path / version)

    def publish_broken(self, version: str) -> None:
        staging = self.base_path / f".staging-{version}"
        shutil.copytree(self._sources["1"], staging)
        (staging / "variables" / "variables.index").write_bytes(BROKEN_INDEX)
        staging.rename(self.base_path / version)

    @property
    def flags(self) -> tuple[str, ...]:
        return ("--model_name=half", f"--model_base_path={self.base_path}")


def _value(server: Any, path: str = "half") -> Any:
    """Return what y = 0.5 * 2 + bias is."""
    status, answer = server.predict(path, {"instances": [[2.0]]})
    return answer["predictions"][0][0] if status == 200 else status


def test_highest_version_is_served(starter: Any, store: Store) -> None:
    """Of the versions on disk only the highest number is served, whatever else lies beside it."""
    store.publish("1")
    store.publish("00000010", "2")
    store.publish("9", "3")
    (store.base_path / "11.tmp").mkdir()
    (store.base_path / ".lock").touch()
    server = starter.start(*store.flags)
    assert server.states("half") == {"10": "AVAILABLE"}
    assert _value(server) == 4.0


def test_port_opens_only_when_a_version_has_come(starter: Any, store: Store) -> None:
    """An empty base path opens no port; the first version that appears does."""
    server = starter.spawn(*store.flags)
    server.wait_for(lambda: "No versions of servable half found" in server.log)
    assert server.rest_port == 0
    store.publish("1")
    server.wait_for(lambda: server.rest_port != 0)
    assert _value(server) == 3.0


def test_hot_switch_never_fails_a_request(starter: Any, store: Store) -> None:
    """Requests are answered by the old version until the new one answers; the old one then ends."""
    store.publish("1")
    server = starter.start(*store.flags)
    seen: list[Any] = []
    store.publish("2")
    server.wait_for(lambda: seen.append(_value(server)) or seen[-1] == 4.0)
    assert set(seen) == {3.0, 4.0}
    server.wait_for(lambda: server.states("half") == {"1": "END", "2": "AVAILABLE"})


def test_rollback_by_removing_the_highest(starter: Any, store: Store) -> None:
    """When the highest version directory goes, the one below is loaded again."""
    store.publish("1")
    newest = store.publish("2")
    server = starter.start(*store.flags)
    newest.rename(store.base_path / ".gone")
    server.wait_for(lambda: _value(server) == 3.0)
    server.wait_for(lambda: server.states("half") == {"1": "AVAILABLE", "2": "END"})


def test_base_path_emptied_and_removed(starter: Any, store: Store) -> None:
    """A base path that is missing changes nothing; one that is empty unloads everything.

    Only the route for the metadata says whether a version is AVAILABLE: readiness in Kubernetes stands on this.
    """

    def status(route: str = "") -> int:
        return int(server.request("GET", f"/v1/models/half{route}")[0])

    store.publish("1")
    server = starter.start(*store.flags)
    assert (status(), status("/metadata")) == (200, 200)
    hidden = store.base_path.rename(store.base_path.with_name("hidden"))
    server.wait_for(lambda: "Could not find base path" in server.log)
    assert server.states("half") == {"1": "AVAILABLE"}
    store.base_path.mkdir()
    server.wait_for(lambda: server.states("half") == {"1": "END"})
    assert _value(server) == 404
    assert (status(), status("/metadata")) == (200, 404)
    shutil.copytree(hidden / "1", store.base_path / "1")
    server.wait_for(lambda: _value(server) == 3.0)


def test_bad_new_version_ends_and_the_old_one_serves(starter: Any, store: Store) -> None:
    """Without retries a version that does not load is at END with its error, beside the old one."""
    store.publish("1")
    server = starter.start(*store.flags, "--max_num_load_retries=0")
    store.publish_broken("2")
    server.wait_for(lambda: server.states("half") == {"1": "AVAILABLE", "2": "END"})
    answer = json.loads(server.request("GET", "/v1/models/half/versions/2")[2])
    status = answer["model_version_status"][0]["status"]
    assert status["error_code"] == "DATA_LOSS"
    assert "too short to be an sstable" in status["error_message"]
    assert _value(server) == 3.0


def test_bad_new_version_stays_loading_while_retries_are_left(starter: Any, store: Store) -> None:
    """While a bad version is tried again it stays at LOADING, and not even its successor is looked at."""
    store.publish("1")
    server = starter.start(*store.flags, "--max_num_load_retries=1", "--load_retry_interval_micros=3000000")
    store.publish_broken("2")
    server.wait_for(lambda: "version: 2} failed: DATA_LOSS" in server.log)
    shutil.rmtree(store.base_path / "2")
    store.publish("3")
    assert server.states("half") == {"1": "AVAILABLE", "2": "LOADING"}
    server.wait_for(lambda: server.log.count("version: 2} failed: ") == 2)
    server.wait_for(lambda: _value(server) == 5.0)
    assert server.states("half") == {"1": "END", "2": "END", "3": "AVAILABLE"}


def test_a_file_in_place_of_a_version(starter: Any, store: Store) -> None:
    """A plain file named 9 is at START for good, the log says why, and the version before serves on."""
    store.publish("1")
    server = starter.start(*store.flags)
    (store.base_path / "9").touch()
    server.wait_for(lambda: "Error while attempting to reserve resources to load servable" in server.log)
    assert server.states("half") == {"1": "AVAILABLE", "9": "START"}
    assert _value(server) == 3.0
    assert f"{store.base_path / '9'}; Not a directory" in server.log


def test_load_is_tried_again(starter: Any, store: Store) -> None:
    """A version that loads at a later try within the retries becomes available."""
    store.publish("1")
    server = starter.start(*store.flags, "--max_num_load_retries=1000", "--load_retry_interval_micros=1000")
    store.publish_broken("2")
    server.wait_for(lambda: server.log.count("version: 2} failed: DATA_LOSS") >= 2)
    shutil.copy(store.base_path / "1" / "variables" / "variables.index", store.base_path / "2" / "variables")
    server.wait_for(lambda: server.states("half") == {"1": "END", "2": "AVAILABLE"})


def test_only_version_is_bad(starter: Any, store: Store) -> None:
    """A server whose only version is bad exits with 255 and TensorFlow's own words last in its log."""
    store.publish_broken("1")
    server = starter.spawn(*store.flags, "--max_num_load_retries=0")
    assert server.process.wait(timeout=600) == 255
    server.wait_for(lambda: "Failed to start server. Error:" in server.log)
    last = server.log[server.log.index("Failed to start server. Error:") :]
    assert "1 servable(s) did not become available: {{{name: half version: 1} due to error: DATA_LOSS" in last
    assert server.rest_port == 0


def test_unknown_op_fails_the_load(starter: Any, store: Store) -> None:
    """A graph with an operation that TensorFlow does not know fails with TensorFlow's message."""
    graph = store.publish("1") / "saved_model.pb"
    graph.write_bytes(graph.read_bytes().replace(b"MatMul", b"MatMux"))
    server = starter.spawn(*store.flags, "--max_num_load_retries=0")
    assert server.process.wait(timeout=600) == 255
    server.wait_for(lambda: "Op type not registered 'MatMux'" in server.log)


def test_one_version_under_two_names(starter: Any, store: Store) -> None:
    """Of `1` and `00001` together `1` is served, and the log names both."""
    store.publish("1")
    store.publish("00001", "2")
    server = starter.start(*store.flags)
    assert "Version 1 will be loaded from 1, 00001 will be ignored." in server.log


def test_warmup_file_that_cannot_be_read(starter: Any, store: Store) -> None:
    """The version that brings it fails to load, and the one before serves on."""
    store.publish("1")
    server = starter.start(*store.flags, "--max_num_load_retries=0")
    (store.publish("2") / "assets.extra" / "tf_serving_warmup_requests").mkdir(parents=True)
    server.wait_for(lambda: server.states("half") == {"2": "END", "1": "AVAILABLE"})
    assert "tf_serving_warmup_requests; Is a directory" in server.log


def test_ports_open_when_every_version_has_come(starter: Any, store: Store) -> None:
    """With several versions to serve all are there, or have failed, when the port opens."""
    versions = [store.publish(str(number), "1") for number in range(1, 6)]
    (versions[2] / "saved_model.pb").write_bytes(b"damaged")
    config = store.base_path.parent / "models.config"
    config.write_text(
        f'model_config_list {{ config {{ name: "half" base_path: "{store.base_path}" model_platform: "tensorflow"'
        " model_version_policy { all {} } } }"
    )
    server = starter.start(f"--model_config_file={config}", "--max_num_load_retries=0")
    assert server.states("half") == {str(n): "END" if n == 3 else "AVAILABLE" for n in range(1, 6)}


def test_poll_once(starter: Any, store: Store) -> None:
    """With --file_system_poll_wait_seconds=0 a version that comes later is not loaded."""
    store.publish("1")
    config = store.base_path.parent / "models.config"
    entry = 'config {{ name: "{}" base_path: "{}" model_platform: "tensorflow" }}'
    config.write_text(f"model_config_list {{ {entry.format('half', store.base_path)} }}")
    server = starter.start(
        f"--model_config_file={config}",
        "--model_config_file_poll_wait_seconds=1",
        "--file_system_poll_wait_seconds=0",
    )
    store.publish("2")
    config.write_text("model_config_list {}")  # a later event, to know that time has passed
    server.wait_for(lambda: "Adding/updating models" in server.log)
    assert "version: 2" not in server.log


def test_lifeline(starter: Any, store: Store) -> None:
    """The process ends when the pipe it was given closes at the other end."""
    store.publish("1")
    reading, writing = os.pipe()
    server = starter.spawn(*store.flags, env={"REHEARSAL_LIFELINE_FD": str(reading)}, pass_fds=[reading])
    os.close(reading)
    server.wait_for(lambda: server.rest_port != 0)
    os.close(writing)
    assert server.process.wait(timeout=10) == 1


def test_sigterm_answers_what_is_in_flight(starter: Any, odd_models: Path) -> None:
    """SIGTERM ends the process with 0 after the request that was running has been answered."""
    flags = ["--model_name=odd", f"--model_base_path={odd_models / 'odd'}"]
    server = starter.start(*flags, env={"REHEARSAL_STOP_S": "600"})  # a slow machine takes long for what is in flight
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=600)
    body = json.dumps({"signature_name": "slow", "inputs": 300_000})
    connection.request("POST", "/v1/models/odd:predict", body)
    answers: list[Any] = []
    reader = threading.Thread(target=lambda: answers.append(connection.getresponse().read()))
    reader.start()
    # Connections are accepted in turn: once the second is answered, the first has been read and runs.
    assert server.states("odd") == {"1": "AVAILABLE"}
    assert server.stop() == 0
    reader.join()
    connection.close()
    assert json.loads(answers[0]) == {"outputs": 300_000}


def test_sigterm_while_waiting_for_a_version(starter: Any, store: Store) -> None:
    """A server that still waits for its first version ends with 0 too."""
    server = starter.spawn(*store.flags)
    server.wait_for(lambda: "No versions of servable half found" in server.log)
    assert server.stop() == 0


def test_slow_prediction_times_out(starter: Any, odd_models: Path) -> None:
    """A prediction that takes longer than --rest_api_timeout_in_ms is answered with 504."""
    server = starter.start("--model_name=odd", f"--model_base_path={odd_models / 'odd'}", "--rest_api_timeout_in_ms=50")
    status, answer = server.predict("odd", {"signature_name": "slow", "inputs": 10_000_000})
    assert status == 504
    assert list(answer) == ["error"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--enable_batchin=true"], "unknown argument: --enable_batchin=true"),
        (["--port=eight"], "Couldn't interpret value eight for flag --port"),
        (["--model_name=x"], "model_base_path and server_options.model_config_file are empty"),
        (["--model_base_path=relative/path"], "to have an absolute path"),
        (["--model_config_file=/nonexistent/file"], "/nonexistent/file"),
    ],
)
def test_wrong_command_line(starter: Any, flags: list[str], message: str) -> None:
    """A wrong command line exits with 255 and a message that names what is wrong."""
    server = starter.spawn(*flags)
    assert server.process.wait(timeout=600) == 255
    server.wait_for(lambda: message in server.log)


def test_taken_port(starter: Any, store: Store) -> None:
    """A port that is taken ends the start with 255 and the port's number."""
    store.publish("1")
    first = starter.start(*store.flags)
    second = starter.spawn(*store.flags, f"--rest_api_port={first.rest_port}")
    assert second.process.wait(timeout=600) == 255
    second.wait_for(lambda: f"Failed to start HTTP Server at 127.0.0.1:{first.rest_port}" in second.log)

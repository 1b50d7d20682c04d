"""`flows.ab` on a real server, store and registry: started, asked by the written client, decided, ended."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import socket
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.loading import load_config
from flows import ab, doctor, rollback
from tasks.datasets.rows import save_arrays
from tasks.experiment.routing import arm_of
from tasks.production.live_check import Endpoint, Expected, live_problem
from tasks.records import Arm, Change, Signature, TensorSpec
from tasks.store.experiment import running
from tasks.store.history import read
from tasks.store.journal import begin, pending
from tasks.store.serving_config import MODELS_CONFIG, labels_of, write_config
from tests.integration.model_server.conftest import RunningServer, ServerStarter
from tests.store_driver import Store

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of MLflow, which is not judged here
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
LONG_S = 600.0
NUMBERS = (1, 2, 3)
Command = Callable[..., int]


@dataclasses.dataclass
class Live:
    """A model with the versions 1 (superseded), 2 (stable) and 3 (canary), its server and its configuration."""

    store: Store
    server: RunningServer
    config: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.rest_port}"

    @property
    def labels(self) -> dict[str, int]:
        return labels_of(self.store.live)

    @property
    def text(self) -> str:
        return (self.store.live.parent / MODELS_CONFIG).read_text()

    def registry(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(load_config(self.config).tracking.uri, load_config(self.config).tracking.uri)

    def added(self, version: int | str) -> float:
        """Return what a version adds to 0.5 x."""
        status, _, answer = self.server.request(
            "POST", f"/v1/models/m/versions/{version}:predict", b'{"instances": [[0.0]]}'
        )
        assert status == 200, answer
        [[found]] = json.loads(answer)["predictions"]
        return float(found)

    def client(self, name: str = "client.py") -> Any:
        """Return the written client as a module."""
        found = types.ModuleType("client")
        exec((self.config.parent / name).read_text(encoding="utf-8"), found.__dict__)
        return found

    def run(self, given: str, module: Any = ab) -> int:
        try:
            return int(module.main(["--config", str(self.config), *given.split()]))
        except SystemExit as exc:
            return int(str(exc.code))


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Iterator[Live]:
    """Serve three versions as production does, each registered in MLflow with its digest."""
    root = tmp_path_factory.mktemp("experiments")
    shutil.copy(mlflow_database, root / "mlflow.db")
    config = root / "cfg.yaml"
    store = Store(root / "models" / "m", root / "work" / "candidates" / "m", root / "aliases.json", "labels")
    for _ in range(2):
        store.promote(store.export())
    store.make_stable()
    store.promote(store.export())
    flags = [f"--model_config_file={root / 'models' / MODELS_CONFIG}", "--model_config_file_poll_wait_seconds=1"]
    starting = ServerStarter()
    try:
        server = starting.start(*flags, "--allow_version_labels_for_unavailable_models=true")
        config.write_text(
            f"name: m\nwork_dir: work\nmodels_root: models\ntracking: {{uri: 'sqlite:///{root}/mlflow.db'}}\n"
            f"promote: {{layout: labels, live_url: 'http://127.0.0.1:{server.rest_port}'}}\n"
        )
        found = Live(store, server, config)
        server.wait_for(lambda: server.states("m").get("3") == "AVAILABLE", LONG_S)
        registry = found.registry()
        registry.create_registered_model("m")
        run = registry.create_run(registry.create_experiment("m")).info.run_id
        for version in NUMBERS:
            digest = {"digest": store.digest(version)}
            registry.create_model_version("m", f"{root}/models/m/{version}", run_id=run, tags=digest)
        registry.set_registered_model_alias("m", "champion", "2")
        yield found
        assert server.process.poll() is None, server.log
    finally:
        starting.stop_all()


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, live: Live) -> Iterator[None]:
    """Let no test write where it runs, and end its experiment."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.chdir(live.config.parent)
    yield
    if running(live.store.live):
        live.run("--stop")
    assert live.labels == {"stable": 2, "canary": 3}


def test_from_the_start_to_the_stop(live: Live, capsys: pytest.CaptureFixture[str]) -> None:
    """Users get the versions that the report expects; the stop restores models.config, and the client outlives it."""
    before = live.text
    assert live.run("--versions 2,1 --shares 30,70 --name one --client client.py --by ann") == 0
    out = capsys.readouterr().out
    assert "m in experiment: one: a: version 2 (30 %), b: version 1 (70 %)" in out
    client = live.client()
    assert live.added(1) != live.added(2)
    assert (live.config.parent / "client.py").read_text(encoding="utf-8") in out
    known = running(live.store.live)
    assert known is not None
    lines = ["key,version,outcome"]
    for number in range(60):
        [[answer]], version = client.predict(f"u{number}", [[1.0]])
        assert int(version) == arm_of("one", known.arms, f"u{number}").version
        assert answer == 0.5 + live.added(version)
        lines.append(f"u{number},{version},{number % 2}")
    Path("outcomes.csv").write_text("\n".join(lines))
    texts = live.text, [entry.state for entry in read(live.store.live)]
    assert live.run("--decide outcomes.csv") == 0
    assert "60 outcomes of 60 keys" in capsys.readouterr().out
    assert live.run("") == 0
    assert "experiment one of 'm' runs since 20" in capsys.readouterr().out
    assert (live.text, [entry.state for entry in read(live.store.live)]) == texts
    tags = live.registry().get_model_version("m", "1").tags
    assert tags["experiment"].startswith("one, label b, 70 %, since 20")
    assert live.run("--stop --by bob") == 0
    assert "m experiment ended: one: stopped without a winner" in capsys.readouterr().out
    assert live.text == before
    page = live.registry().get_model_version("m", "1")
    assert "Experiment: one, label b, 70 %, until 20" in page.description
    live.server.wait_for(lambda: client.predict("u1", [[1.0]])[1] == "stable", LONG_S)
    assert client.predict("u1", [[1.0]])[0] == [[0.5 + live.added(2)]]
    assert [entry.actor for entry in read(live.store.live)][-4:] == ["ann", "ann", "bob", "bob"]


def test_the_winner(live: Live, capsys: pytest.CaptureFixture[str]) -> None:
    """--to makes the winner stable: label, history and MLflow's alias say so, and a rollback takes it back."""
    assert live.run("--versions 2,3 --shares 50,50 --name two") == 0
    assert live.run("--to C") == 2
    assert "must be a label of the experiment two, got 'c'" in capsys.readouterr().err
    assert live.run("--to B --by ann") == 0
    assert "m promoted: version 3 is live, b is the winner of the experiment two" in capsys.readouterr().out
    assert live.labels == {"stable": 3, "canary": 3}
    assert live.registry().get_model_version_by_alias("m", "champion").version == 3
    assert running(live.store.live) is None
    last = [e for e in read(live.store.live) if e.version == 3][-1]
    assert (last.state, last.actor, last.reason) == ("live", "ann", "b is the winner of the experiment two")
    assert live.run("--to b") == 2
    assert "no experiment of 'm' runs" in capsys.readouterr().err
    live.server.wait_for(lambda: live.server.request("GET", "/v1/models/m/labels/a/metadata")[0] == 400, LONG_S)
    write_config(live.store.live, [1, 2, 3], {"stable": 2, "canary": 3})  # as it was, for the next test


def test_what_is_refused_while_one_runs(live: Live, capsys: pytest.CaptureFixture[str]) -> None:
    """A second start, an unknown label, and labels that somebody else set: exit code 2, and nothing changes."""
    assert live.run("--versions 2,1 --shares 50,50 --name three") == 0
    before = live.text
    for given, words in (
        ("--versions 1,2 --shares 50,50", "only one experiment of 'm' can run, and three does"),
        ("--to stable", "must be a label of the experiment three"),
    ):
        capsys.readouterr()
        assert (live.run(given), words in capsys.readouterr().err) == (2, True)
    assert live.text == before
    assert live.run("--stop") == 0
    write_config(live.store.live, [1, 2, 3], {"stable": 2, "canary": 3, "a": 1})
    assert live.run("--versions 2,1 --shares 50,50") == 2
    assert "the labels of an experiment must be free, but models.config has a" in capsys.readouterr().err
    write_config(live.store.live, [1, 2, 3], {"stable": 2, "canary": 3})


def test_a_winner_that_cannot_win(live: Live, capsys: pytest.CaptureFixture[str], held_port: int) -> None:
    """Files that are gone or changed, and a production that is away, leave the experiment as it is, in one line."""
    assert live.run("--versions 2,3 --shares 50,50 --name eleven") == 0
    before, files, away = live.text, live.store.live / "3", live.store.live / ".away"
    added = files / "assets.extra" / "added"
    for make, undo, code, words in (
        (lambda: files.rename(away), lambda: away.rename(files), 2, "--to b must name versions whose files are in"),
        (lambda: added.write_text(""), added.unlink, 2, "--to b must name files that were judged, got 3, but "),
    ):
        make()
        capsys.readouterr()
        assert (live.run("--to b"), words in capsys.readouterr().err) == (code, True)
        undo()
    dead = f"--set promote.live_url=http://127.0.0.1:{held_port} --set promote.live_timeout_s=0.2"
    assert live.run(f"{dead} --to b") == 1
    assert "version 2 is still live, and the experiment eleven goes on" in capsys.readouterr().err
    assert live.text == before
    known = running(live.store.live)
    assert known is not None
    assert known.name == "eleven"


def test_production_does_not_answer(live: Live, capsys: pytest.CaptureFixture[str], held_port: int) -> None:
    """If one address does not serve the versions in time, everything is taken back: exit code 1, and no client."""
    before, urls = live.text, f"[{live.url},http://127.0.0.1:{held_port}]"
    more = f"--set promote.live_urls={urls} --set promote.live_timeout_s=1"
    assert live.run(f"{more} --versions 2,1 --shares 50,50 --client absent.py") == 1
    err = capsys.readouterr().err
    assert f"production at http://127.0.0.1:{held_port}: the version was not AVAILABLE after 1 s" in err
    assert "the experiment does not run, and production is as it was" in err
    assert live.text == before
    assert not Path("absent.py").exists()


def test_a_client_that_cannot_be_written(live: Live, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the default place of the client cannot be written, the experiment runs and the client is on the screen."""
    place = live.config.parent / "work" / "experiments"
    shutil.rmtree(place, ignore_errors=True)
    place.write_text("")
    try:
        assert live.run("--versions 2,1 --shares 50,50 --name four") == 0
        out, err = capsys.readouterr()
        assert "could not be written" in err
        assert "EXPERIMENT = 'four'" in out
    finally:
        place.unlink()
    assert live.run("--client again.py") == 0  # it can be written later
    assert live.client("again.py").EXPERIMENT == "four"


def test_two_at_once(live: Live, capsys: pytest.CaptureFixture[str]) -> None:
    """A start that waits for another change says so when its time is up."""
    from tasks.store.lock import model_lock

    with model_lock(live.store.live, 60):  # reentrant in this process, so another one must wait for it
        given = ["--versions", "2,1", "--shares", "50,50", "--set", "promote.lock_timeout_s=0.2"]
        done = subprocess.run(
            [sys.executable, "-m", "flows.ab", "--config", str(live.config), *given],
            capture_output=True, text=True, check=False, cwd=Path(ab.__file__).parents[1],
        )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "only one process can change 'm' at a time" in done.stderr
    assert running(live.store.live) is None


def test_a_label_is_verified_with_recorded_rows(live: Live, tmp_path: Path) -> None:
    """A label must name its version and repeat its validated answers, over REST and over gRPC."""
    live.run("--versions 2,1 --shares 50,50 --name five")
    rows = np.arange(4, dtype=np.float32).reshape(4, 1)
    save_arrays(tmp_path / "requests.npz", {"x": rows})
    found = {}
    for version in NUMBERS:
        added = live.added(version)
        save_arrays(tmp_path / f"{version}.npz", {"output_0": 0.5 * rows + np.float32(added)})
        spec = [TensorSpec(name, "float32", (None, 1)) for name in ("x", "output_0")]
        signature = Signature((spec[0],), (spec[1],))
        found[version] = Expected(signature, tmp_path / "requests.npz", tmp_path / f"{version}.npz", 4, None, None)
    for address in (live.url, f"grpc://127.0.0.1:{live.server.grpc_port}"):
        endpoint = Endpoint(address, "m")
        assert live_problem(endpoint, 2, found[2], LONG_S, "a") == ""
        assert live_problem(endpoint, 1, found[1], LONG_S, "b") == ""
        wrong = live_problem(endpoint, 2, found[3], LONG_S, "a")
        assert wrong.startswith(f"production at {address}: it answers version 2 as 'a' differently than validated")
        other = live_problem(endpoint, 2, found[2], 0.1, "b")
        assert "the label 'b' did not name version 2 after 0.1 s: it names version 1" in other
        unknown = live_problem(endpoint, 2, found[2], 0.1, "z")
        assert "the label 'z' did not name version 2 after 0.1 s: " in unknown
        assert "Unrecognized servable version label: z" in unknown


def test_a_killed_start_is_removed_by_the_stop(live: Live, capsys: pytest.CaptureFixture[str]) -> None:
    """--stop after a start that was killed removes what it left, and says that no experiment runs."""
    before = live.text
    arms = tuple(Arm(label, n, live.store.digest(n), 50) for label, n in (("a", 2), ("b", 1)))
    begin(live.store.live, Change("experiment", 2, "2", arms[0].digest, experiment="seven", arms=arms))
    write_config(live.store.live, [1, 2, 3], {"stable": 2, "canary": 3, "a": 2, "b": 1})
    assert live.run("--stop") == 2
    out, err = capsys.readouterr()
    assert "the start of the experiment seven: rolled back (it was interrupted before it ran)" in out
    assert "no experiment of 'm' runs" in err
    assert (live.text, pending(live.store.live)) == (before, None)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_ended_while_production_is_asked(
    live: Live, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    """A signal takes everything back; what a kill leaves is said by the state and removed by the next change."""
    before = live.text
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it accepts, and never answers
        given = ["--versions", "2,1", "--shares", "50,50", "--name", "nine"]
        given += ["--set", f"promote.live_url=http://127.0.0.1:{silent.getsockname()[1]}"]
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.ab", "--config", str(live.config), *given],
            stdout=subprocess.PIPE, text=True, cwd=Path(ab.__file__).parents[1],
        )  # fmt: skip
        silent.accept()[0].close()
        process.send_signal(number)
        process.communicate(timeout=LONG_S)
    assert process.returncode == (130 if number == signal.SIGTERM else -signal.SIGKILL)
    assert live.run("") == 0
    killed = "the start of the experiment nine is not finished" in capsys.readouterr().err
    assert killed == (number == signal.SIGKILL) == (pending(live.store.live) is not None)
    assert live.run("--versions 2,1 --shares 50,50 --name ten") == 0
    assert live.run("--stop") == 0
    assert live.text == before


def test_mlflow_is_away(live: Live, capsys: pytest.CaptureFixture[str], held_port: int) -> None:
    """Start and stop do not wait for an MLflow that does not answer; the doctor tells it of both, in order."""
    away = f"--set tracking.uri=http://127.0.0.1:{held_port}"
    assert live.run(f"{away} --versions 2,1 --shares 50,50 --name eight") == 0
    assert "MLflow is not updated yet" in capsys.readouterr().err
    assert live.run(f"{away} --stop") == 0
    assert live.run("", doctor) == 0
    out = capsys.readouterr().out
    first, second = "the start of the experiment eight was sent", "the end of the experiment eight was sent"
    assert 0 < out.index(first) < out.index(second)
    assert live.registry().get_model_version("m", "1").tags["experiment"].startswith("eight, label b, 50 %, until 20")


def test_a_rollback_says_what_became_of_the_experiment(live: Live, capsys: pytest.CaptureFixture[str]) -> None:
    """A rollback of an arm warns, the state warns, --to refuses the arm, and --stop works."""
    assert live.run("--versions 2,3 --shares 50,50 --name six") == 0
    known = running(live.store.live)
    assert known is not None
    arms = known.arms
    assert live.run("", rollback) == 0
    assert live.labels == {"stable": 1, "canary": 3, "a": 1, "b": 3}
    out = capsys.readouterr().out
    assert "the experiment six is no longer what it was: the label 'a' names version 1 instead of version 2" in out
    assert live.run("") == 0
    assert "the label 'a' names version 1 instead of version 2: the outcomes decide nothing" in capsys.readouterr().err
    assert live.run("--to a") == 2
    assert "must be a label that still names its version" in capsys.readouterr().err
    assert live.run("--stop") == 0
    rows = [(f"u{number}", arm_of("six", arms, f"u{number}").version, number % 7 > 3) for number in range(200)]
    Path("six.csv").write_text("key,version,outcome\n" + "".join(f"{k},{v},{int(good)}\n" for k, v, good in rows))
    for name, words in (("six", "none, because version 2, which was 'a', was rolled back at 20"), ("6", "")):
        capsys.readouterr()
        assert live.run(f"--decide six.csv --versions 2,3 --shares 50,50 --name {name}") == 0
        out, err = capsys.readouterr()
        assert words in out
        assert ("the history of 'm' has no experiment 6 with a: version 2 (50 %), b: version 3" in err) == (not words)
    assert live.run("--to 2", rollback) == 0  # as it was
    write_config(live.store.live, [1, 2, 3], {"stable": 2, "canary": 3})

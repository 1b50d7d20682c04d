"""Gates where people meet them: candidate and champion in one container, and a verdict by the command line."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient

from configs.loading import load_config
from configs.schema import Config
from configs.sections.gates import Gates, Replay
from configs.sections.serving import Serving
from tasks.datasets.rows import Rows, load_arrays, save_arrays, save_rows
from tasks.datasets.seen import RECORD, Record, write_record
from tasks.errors import ModelLoadError, ServingError
from tasks.gates.judge import judge
from tasks.gates.replay import new_tally
from tasks.production.rehearsed_change import rehearse_change
from tasks.records import Backend, Candidate, Champion, Signature, TensorSpec
from tasks.savedmodel.manifest import write_manifest
from tasks.serving.launch import throwaway_server
from tasks.serving.rehearsal import Rehearsal
from tasks.serving.rehearse import rehearse
from tasks.serving.side_by_side import Asked, ask_side_by_side
from tasks.store.champion import find_champion
from tasks.store.history import append
from tasks.store.serving_config import write_config
from tests.e2e.conftest import built_image
from tests.in_production import new_shop
from tests.integration.test_change import make_model

TWOV = Path("tests/data/tfs_rest/models/twov")  # version N: x -> 0.5 x + N + 1
BACKENDS = [pytest.param("embedded"), pytest.param("docker", marks=pytest.mark.docker)]
X, Y = TensorSpec("x", "float32", (None, 1)), TensorSpec("output_0", "float32", (None, 1))
GATES = Gates.model_validate(
    {
        "metrics": {"rmse": {"max": 0.5}},
        "latency": {"requests": 40, "max_memory_mb": 4000},
        "robustness": {"large_batch": 64},
    }
)


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Backend:
    """Return the server of the test; only a docker one needs an image."""
    kind = str(request.param)
    return Backend(kind, str(request.getfixturevalue("test_image")) if kind == "docker" else "")


@pytest.fixture
def candidate(tmp_path: Path) -> Candidate:
    """Return version 3 of the recorded model with 40 rows, for which it is right."""
    version_dir = Path(shutil.copytree(TWOV / "3", tmp_path / "candidates" / "twov" / "3"))
    x = np.arange(40, dtype=np.float32)[:, None]
    run_dir = tmp_path / "runs" / "r"
    save_arrays(run_dir / "requests.npz", {"x": x})
    save_arrays(run_dir / "reference.npz", {"output_0": 0.5 * x + 4})
    save_rows(run_dir / "test.npz", Rows({"x": x}, {"target": 0.5 * x[:, 0] + 4}))
    files = (run_dir / "requests.npz", run_dir / "reference.npz", run_dir / "test.npz")
    return Candidate("twov", 3, version_dir, "", Signature((X,), (Y,)), 0, *files)


@pytest.fixture
def champion(tmp_path: Path) -> Champion:
    """Return version 2, which is live and has seen no row, with version 1 beside it."""
    for version in ("1", "2"):
        shutil.copytree(TWOV / version, tmp_path / "models" / "twov" / version)
    nothing = dict.fromkeys(("train", "validation", "test"), np.zeros(0, np.uint64))
    write_record(tmp_path / "models" / "twov" / "2" / RECORD, Record(nothing))
    found = find_champion(tmp_path / "models" / "twov")
    assert found is not None
    return found


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_candidate_and_champion_answer_in_one_server(
    backend: Backend, candidate: Candidate, champion: Champion, tmp_path: Path
) -> None:
    """Each answers as itself and replays requests, both are timed, the memory is known, and the other gates pass."""
    file = tmp_path / "requests.jsonl"
    file.write_text('{"instances": [[1.0], [2.0]]}\n{"inputs": [[3.0]]}\n{"inputs": {"x": "text"}}\n')
    gates = GATES.model_copy(update={"replay": Replay(file=file, tolerance=0.9)})
    tally = partial(new_tally, gates, candidate, {})
    served = rehearse(Rehearsal(Serving(), candidate, backend, tmp_path / "server1", gates, champion, tally=tally))
    verdicts = {gate.name: gate for gate in judge(gates, candidate, served)}
    replayed = verdicts.pop("replay")  # each answer of version 3 lies 1 above that of version 2
    assert not replayed.passed
    assert (replayed.figures["flips"], replayed.figures["rows"], replayed.figures["refused_by_both"]) == (1, 3, 1)
    assert all(gate.passed for gate in verdicts.values()), [gate.summary for gate in verdicts.values()]
    assert verdicts.keys() == {"contract", "parity", "quality", "latency", "robustness"}
    assert verdicts["quality"].figures["rmse.gain"] == pytest.approx(1, abs=1e-5)
    assert verdicts["latency"].champion["p50_ms"] > 0
    assert served.champion is not None
    assert served.champion.answers is not None
    x = np.arange(40)[:, None]
    np.testing.assert_allclose(load_arrays(served.answers)["output_0"], 0.5 * x + 4)
    np.testing.assert_allclose(load_arrays(served.champion.answers)["output_0"], 0.5 * x + 3)
    assert served.latency is not None
    assert 10 < served.latency.memory_mb < 4000
    assert load_arrays(served.latency.samples).keys() == {"candidate", "champion"}


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_both_are_pinned(backend: Backend, candidate: Candidate, champion: Champion, tmp_path: Path) -> None:
    """Candidate and champion are AVAILABLE in the same server, and version 1 is not there."""
    with throwaway_server(backend, Serving(), candidate, tmp_path / "log", champion) as (_, client):
        states = {version: state for version, (state, _) in client.states().items()}
    assert states == {2: "AVAILABLE", 3: "AVAILABLE"}


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_a_live_version_that_does_not_load(
    backend: Backend, candidate: Candidate, champion: Champion, tmp_path: Path
) -> None:
    """A damaged champion is an error that names the live version and where it lies; the candidate is not judged."""
    index = champion.version_dir / "variables" / "variables.index"
    index.write_bytes(index.read_bytes()[:10])
    with pytest.raises(ServingError, match="served alone.* version 2, which is live, but refused it") as caught:
        rehearse(Rehearsal(Serving(), candidate, backend, tmp_path / "server1", Gates(use=("parity",)), champion))
    assert type(caught.value) is ServingError  # a refusal would be a verdict on the candidate
    assert str(champion.version_dir) in str(caught.value)
    assert "\n" not in str(caught.value)


def live_in_a_container(
    image: str, candidate: Candidate, champion: Champion, directory: Path, layout: str = "latest"
) -> tuple[Config, Rehearsal]:
    """Make the champion live, and return the configuration and a rehearsal of the candidate in a container."""
    path = directory / "cfg.yaml"
    path.write_text(f"""
name: twov
gates: {{use: [change], change: {{seconds: 0.2, max_p99_ratio: 0}}}}
promote: {{layout: {layout}, live_url: "http://127.0.0.1:1"}}
""")
    config = load_config(path, ["models_root=models", "work_dir=work"])
    candidate = replace(candidate, digest=write_manifest(candidate.version_dir).digest)
    champion = replace(champion, digest=write_manifest(champion.version_dir).digest)
    append(config.live_dir, 2, "live", champion.digest)
    if layout == "labels":
        write_config(config.live_dir, [2], {"stable": 2})
    backend = Backend("docker", image)
    return config, Rehearsal(Serving(), candidate, backend, directory / "server1", config.gates, champion)


@pytest.mark.docker
@pytest.mark.parametrize("layout", ["latest", "labels"])
def test_a_change_in_a_container(
    test_image: str, candidate: Candidate, champion: Champion, tmp_path: Path, layout: str
) -> None:
    """In a container the candidate replaces the champion by a rename and is taken back, and no request fails."""
    config, rehearsal = live_in_a_container(test_image, candidate, champion, tmp_path, layout)
    served = rehearse_change(config, rehearsal, rehearse(rehearsal))
    (found,) = judge(config.gates, rehearsal.candidate, served)
    assert found.passed, found.summary
    assert "rollback" not in (found.note or "")
    assert {"change_s", "rollback_s", "peak_mb"} <= found.figures.keys()
    assert served.change is not None
    assert served.change.requests is not None
    named = set(load_arrays(served.change.requests)["named"].tolist())
    assert named == ({0, 2, 3} if layout == "labels" else {0, 2, 3, 4})  # REST names no version


@pytest.mark.long
@pytest.mark.docker
def test_more_memory_than_the_limit_in_a_container(
    test_image: str, candidate: Candidate, champion: Champion, tmp_path: Path
) -> None:
    """A container in which only one of two versions fits is killed by the kernel, which the gate says of both."""
    for version_dir in (candidate.version_dir, champion.version_dir):
        shutil.rmtree(version_dir)
        make_model(version_dir, weights_mb=600)
    (candidate.version_dir / "assets" / "number.txt").write_text("3")  # no two versions have the same digest
    config, rehearsal = live_in_a_container(test_image, candidate, champion, tmp_path)
    served = rehearse(replace(rehearsal, serving=Serving(memory_mb=8192)))
    limited = replace(rehearsal, serving=Serving(memory_mb=1000))
    (found,) = judge(config.gates, rehearsal.candidate, rehearse_change(config, limited, served))
    assert not found.passed
    assert found.evidence["missed"] == ["peak_mb"], found.summary
    assert "version 2 and version 3 loaded at the same time" in found.summary
    assert "limit of 1000 MiB" in found.summary


@pytest.mark.long
def test_an_unsafe_graph_by_the_command_line(workspace: Any) -> None:
    """A graph that writes files is rejected with exit code 3 and logged, and no server has ever been started."""
    config = workspace.directory / "cfg.yaml"
    config.write_text(f"""
name: writer
data: {{load: "tests.data.user_models:groups"}}
model:
  build: tests.data.user_models:with_layer
  params: {{layer: writing, file: {workspace.directory / "mark"}}}
training: {{epochs: 1}}
""")
    done = workspace.run(config=config)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "rejected" in done.stdout
    assert "operations must not reach outside the graph, got WriteFile" in done.stdout
    assert [path for path in (workspace.models_root / "writer").iterdir() if path.name.isdigit()] == []
    assert not list(workspace.work_dir.rglob("*server*"))
    client = MlflowClient(workspace.tracking_uri, workspace.tracking_uri)
    (run,) = client.search_runs([client.get_experiment_by_name("writer").experiment_id])
    tags = run.data.tags
    assert (tags["validation_status"], tags["promotion"], tags["failed_gates"]) == ("rejected", "rejected", "safety")
    assert run.data.metrics["gate.safety.reaching_out"] > 0


@pytest.mark.docker
@pytest.mark.parametrize("backend", ["docker"], indirect=True)
def test_variants_in_one_container(backend: Backend, candidate: Candidate, tmp_path: Path) -> None:
    """Three versions are asked in one container, each answers by itself, and one that is damaged is named and left out.

    `tests/integration/test_side_by_side.py` does so with the embedded server.
    """
    for version in ("1", "2"):
        shutil.copytree(TWOV / version, tmp_path / "candidates" / "twov" / version)
    shutil.copytree(TWOV / "2", tmp_path / "candidates" / "twov" / "4")
    index = tmp_path / "candidates" / "twov" / "4" / "variables" / "variables.index"
    index.write_bytes(index.read_bytes()[:10])
    asked = [
        Asked(
            replace(candidate, version=number, version_dir=tmp_path / "candidates" / "twov" / str(number)),
            candidate.requests,
            tmp_path / f"answers{number}.npz",
        )
        for number in (1, 2, 3, 4)
    ]
    faults = ask_side_by_side(backend, Serving(), asked, tmp_path / "log")
    assert {number: type(fault) for number, fault in faults.items()} == {4: ModelLoadError}
    x = np.arange(40)[:, None]
    for one in asked[:3]:
        np.testing.assert_allclose(load_arrays(one.answers)["output_0"], 0.5 * x + one.candidate.version + 1)


RUNTIME = Path("tasks/model_server/tf_runtime.py")
MOVED = (
    "        return dict(zip(wanted or signature.fetches, values, strict=True))",
    "        moved = [value._replace(values=value.values + value.values.dtype.type(1e-3)) for value in values]\n"
    "        return dict(zip(wanted or signature.fetches, moved, strict=True))",
)
REFUSED = (
    "        self.signature_defs: dict[str, Any] = dict(meta_graph.signature_def)",
    "        raise invalid_argument(\"Op type not registered 'AddV2' in this binary\")",
)


@pytest.mark.long
@pytest.mark.docker
def test_another_image_for_what_is_live(test_image: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An equal image may serve both versions; one that moves answers by 1e-3, and one that refuses models, may not.

    `tests/integration/test_way_back.py` does so with the embedded and an attached server.
    """
    shop = new_shop(tmp_path)
    shop.promote(2)
    assert shop.live("--image", "NO image") == 1  # what cannot be asked is no verdict on it
    assert "invalid reference format" in capsys.readouterr().err
    assert shop.live("--image", test_image) == 0
    assert f"twov can be served by docker {test_image}: version 2 and version 1 passed" in capsys.readouterr().out
    for (old, new), words in ((MOVED, "recorded: output 'output_0': 40 of 40 rows differ"), (REFUSED, "AddV2")):
        source = RUNTIME.read_text()
        assert old in source
        files = {
            "Dockerfile": f"FROM {test_image}\nCOPY {RUNTIME.name} /app/{RUNTIME}",
            RUNTIME.name: source.replace(old, new),
        }
        with built_image(files) as image:
            assert shop.live("--image", image) == 3
        said = " ".join(capsys.readouterr().out.split())
        sentence = said[said.index(f"twov must not be served by docker {image}") :]
        for which in ("version 2, which is live", "version 1, which a rollback would return to"):
            assert which in sentence
        assert words in sentence

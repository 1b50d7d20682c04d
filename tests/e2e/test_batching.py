"""Production's flags in the throwaway container, and a server that batches, which stands in for TensorFlow Serving."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from configs.sections.gates import Gates
from configs.sections.serving import Serving
from tasks.datasets.rows import Rows, save_arrays, save_rows
from tasks.errors import ServingUnavailable, UnknownFlag
from tasks.gates.judge import judge
from tasks.records import Backend, Candidate, GateResult, ServedAnswers, Signature, TensorSpec
from tasks.report.sections import server_lines
from tasks.serving.launch import choose_backends
from tasks.serving.rehearsal import Rehearsal
from tasks.serving.rehearse import rehearse
from tests.e2e.conftest import built_image

pytestmark = pytest.mark.docker
MODELS = Path("tests/data/serving_models")
PLACE = "/etc/serving/batching.txt"  # production's own path, outside of /models
FLAGS = ("--enable_batching", f"--batching_parameters_file={PLACE}")
X = np.arange(48, dtype=np.float32)
GATES = Gates.model_validate({"use": ["parity", "batching", "robustness"], "robustness": {"large_batch": 64}})


@pytest.fixture(scope="module")
def batching_image() -> Iterator[str]:
    """Build an image whose server batches."""
    files = {
        "Dockerfile": (
            f"FROM {os.environ['REHEARSAL_TEST_IMAGE']}\nCOPY batching_server.py start.sh /app/\n"
            'ENTRYPOINT ["/bin/sh", "/app/start.sh"]\n'
        ),
        "start.sh": (
            "exec /opt/serving/bin/python /app/batching_server.py --port=8500 --model_name=$MODEL_NAME "
            '--model_base_path=$MODEL_BASE_PATH/$MODEL_NAME "$@"\n'
        ),
        "batching_server.py": Path("tests/data/batching_server.py").read_text(),
    }
    with built_image(files) as image:
        yield image


@pytest.fixture
def serving(batching_image: str, tmp_path: Path) -> Serving:
    """Return the configuration of a production that batches."""
    (tmp_path / "batching.txt").write_text("max_batch_size { value: 8 }\nbatch_timeout_micros { value: 50000 }\n")
    return Serving(image=batching_image, backend="docker", args=FLAGS, files={PLACE: tmp_path / "batching.txt"})


Judged = Callable[[str, np.ndarray], tuple[ServedAnswers, dict[str, GateResult]]]


@pytest.fixture
def judged(serving: Serving, tmp_path: Path) -> Judged:
    """Return a function that rehearses a model whose answers alone are known."""

    def judging(model: str, alone: np.ndarray) -> tuple[ServedAnswers, dict[str, GateResult]]:
        version_dir = Path(shutil.copytree(MODELS / model / "1", tmp_path / "candidates" / model / "1"))
        run_dir = tmp_path / "runs" / "r"
        save_arrays(run_dir / "requests.npz", {"x": X})
        save_arrays(run_dir / "reference.npz", {"y": alone})
        save_rows(run_dir / "test.npz", Rows({"x": X}, {}))
        x, y = (TensorSpec(name, "float32", (None,)) for name in ("x", "y"))
        files = (run_dir / "requests.npz", run_dir / "reference.npz", run_dir / "test.npz")
        candidate = Candidate(model, 1, version_dir, "", Signature((x,), (y,)), 0, *files)
        backend = Backend("docker", serving.image)
        served = rehearse(Rehearsal(serving, candidate, backend, tmp_path / "server1", GATES))
        return served, {gate.name: gate for gate in judge(GATES, candidate, served)}

    return judging


def test_concurrent_clients_get_their_own_answers(judged: Judged, tmp_path: Path) -> None:
    """The server gets the flags and the file, requests meet in batches, no request is larger than it accepts."""
    served, gates = judged("steady", X + X)
    assert all(gate.passed for gate in gates.values()), [gate.summary for gate in gates.values()]
    assert gates["batching"].figures["requests"] == 4 * len(X)
    assert "192 one-row requests from 16 concurrent clients" in gates["batching"].summary
    log = (tmp_path / "server1" / "server.log").read_text()
    assert "batching is enabled" in log
    assert "a batch of 8 rows from 8 requests" in log
    assert served.server.args == FLAGS
    assert server_lines(served)["flags"] == " ".join(FLAGS)


def test_rows_that_a_batch_mixes(judged: Judged) -> None:
    """A model whose answer depends on the rows beside it answers 0 alone; the gate names a row that it mixed."""
    _, gates = judged("mixing", np.zeros_like(X))
    assert not gates["batching"].passed
    assert gates["batching"].figures["rows_differing"] > 0
    assert "in process 0.0" in gates["batching"].summary


def test_a_flag_that_the_image_does_not_know(serving: Serving) -> None:
    """A misspelt flag is found before anything is served, with the nearest that there is; right ones are taken."""
    assert choose_backends(serving) == (Backend("docker", serving.image),)
    wrong = serving.model_copy(update={"args": ("--enable_batchin",)})
    with pytest.raises(UnknownFlag, match=r"has no flag --enable_batchin; did you mean --enable_batching\?"):
        choose_backends(wrong)


def test_flags_never_fall_back(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """With flags, `auto` without an engine is an error, because the embedded server would not have them."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with pytest.raises(ServingUnavailable, match=r"has no serving\.args"):
        choose_backends(serving.model_copy(update={"backend": "auto"}))
    with pytest.raises(ServingUnavailable, match=r"has no serving\.gpus"):
        choose_backends(Serving(gpus=1))

"""Several command lines at once into one production directory."""

from __future__ import annotations

from typing import Any

import pytest

# MLflow warns while it is imported and used, about the next NumPy, protobuf or Python; it is not judged here.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
RIVALS = 3
QUICK = ("--set", "training.epochs=3", "--set", "gates.metrics.accuracy={min: 0.3, worse_by: 0.5}")


@pytest.mark.long
def test_each_gets_a_number_and_the_last_is_the_champion(workspace: Any) -> None:
    """All end promoted, under distinct rising numbers, each judged beside the one before; the alias is the last.

    Each is a first run: neither Prefect's database nor MLflow's nor models_root is there.
    """
    (workspace.directory / "mlflow.db").unlink()
    del workspace.env["PREFECT_API_URL"]
    workspace.env["PREFECT_HOME"] = str(workspace.directory / "prefect")
    runs = [workspace.start(*QUICK, "--set", f"seed={seed}") for seed in range(RIVALS)]
    outputs = [run.communicate(timeout=500) for run in runs]
    assert [run.returncode for run in runs] == [0] * RIVALS, "\n".join(err[-3000:] for _, err in outputs)
    assert sum(out.count("judging again") for out, _ in outputs) >= 1
    live = [version for version, state in workspace.history() if state == "live"]
    assert len(set(live)) == RIVALS
    assert live == sorted(live)
    assert workspace.versions() == live
    aliases, found = workspace.registry()
    champion = found[aliases["champion"] - 1]
    assert (champion.tags["serving_version"], champion.tags["promotion"]) == (str(live[-1]), "promoted")
    assert champion.tags["judged_beside"] == str(live[-2])

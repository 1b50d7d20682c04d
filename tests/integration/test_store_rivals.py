"""Eight processes promote at once, through the product's own promotion and one MLflow."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from configs.loading import load_config
from tasks.savedmodel.manifest import verify_manifest
from tasks.store.history import read, served_digest
from tasks.store.journal import pending
from tasks.store.layout import versions
from tasks.store.repair import repair
from tasks.store.transaction import untold
from tests.store_driver import Store

ROOT = Path(__file__).parents[2]
RIVALS = 8

RIVAL = """
import sys, time
from pathlib import Path
from filelock import FileLock
from mlflow import MlflowClient
from configs.loading import load_config
from tasks.production.changes import put_live
from tasks.records import Candidate, Signature, TrackedRun
from tasks.store.champion import find_champion
from tests.store_driver import Store

config = load_config(Path(sys.argv[1]))
store = Store(config.live_dir, config.candidates_dir, config.work_dir / "unused.json")
client = MlflowClient(config.tracking.uri, config.tracking.uri)

def together(what):
    (config.work_dir / f"{what}-{sys.argv[2]}").touch()
    while len(list(config.work_dir.glob(f"{what}-*"))) < int(sys.argv[3]):
        time.sleep(0.01)

together("exporting")
number = store.export()
with FileLock(config.work_dir / "registering"):  # what is raced for here is production, not MLflow's numbers
    run = client.create_run("0").info.run_id
    made = client.create_model_version("m", "nowhere", run_id=run, tags={"digest": store.digest(number)})
candidate = Candidate("m", number, store.candidates / str(number), store.digest(number), Signature((), ()), 1,
                      Path("q"), Path("r"), Path("t"))
tracked = TrackedRun(run, "0", "m", int(made.version), "")
together("promoting")
champion = None  # all were judged while nothing was live
while True:
    promotion = put_live(config, candidate, tracked, champion, "")
    if promotion.state == "promoted":
        break
    assert promotion.state == "stale", promotion
    champion = find_champion(store.live)  # judged again, compared with the champion of that moment
print(promotion.live_dir.name)
"""


@pytest.mark.long
def test_eight_promote_at_once(tmp_path: Path, mlflow_database: Path) -> None:
    """Eight distinct numbers rise in the order in which they went live, each complete; the alias is the last one's."""
    from mlflow import MlflowClient

    path = tmp_path / "cfg.yaml"
    path.write_text(
        "name: m\ndata: {load: 'configs.digits:load'}\nmodel: {build: 'configs.digits:build'}\n"
        "promote: {lock_timeout_s: 300}\n"
        f"tracking: {{uri: 'sqlite:///{tmp_path}/mlflow.db'}}\n"
    )
    config = load_config(path, [])
    config.work_dir.mkdir(parents=True)
    shutil.copyfile(mlflow_database, tmp_path / "mlflow.db")
    client = MlflowClient(config.tracking.uri, config.tracking.uri)
    client.create_registered_model("m")
    commands = [[sys.executable, "-c", RIVAL, str(path), str(n), str(RIVALS)] for n in range(RIVALS)]
    rivals = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    numbers = []
    for rival in rivals:
        out, err = rival.communicate(timeout=500)
        assert rival.returncode == 0, err
        numbers.append(int(out))
    live, entries = versions(config.live_dir), read(config.live_dir)
    went_live = [entry.version for entry in entries if entry.state == "live"]
    assert sorted(numbers) == sorted(live) == went_live
    assert len(live) == RIVALS
    for version, directory in live.items():
        verify_manifest(directory, served_digest(entries, version))
    exported = [entry.version for entry in entries if entry.state == "exported"]
    assert sorted(exported) == [*range(1, RIVALS + 1)]
    assert len({served_digest(entries, version) for version in live}) == RIVALS
    last = client.get_model_version_by_alias("m", "champion")
    assert last.tags["digest"] == served_digest(entries, max(live))
    assert last.tags["serving_version"] == str(max(live))
    store = Store(config.live_dir, config.candidates_dir, tmp_path / "unused.json")
    assert pending(store.live) is None
    assert untold(store.live) == {}
    assert repair(store.production, store.candidates) == []

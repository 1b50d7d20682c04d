"""The candidates' archive in a real S3 server: what one machine judged, another one decides about."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from configs.schema import Config
from flows import sync
from tasks.errors import ManifestMismatch, StoreConflict, StoreError, StoreUnreachable, VersionExists
from tasks.objects.archive import forget_old
from tasks.objects.live import LIVE, Archived, Live
from tasks.objects.mirror import Mirror
from tasks.objects.store import _bucket
from tasks.objects.upkeep import damaged, sweep
from tasks.outcomes import Promotion, PromotionState
from tasks.production.archive import archive, share_history
from tasks.production.changes import go_back, put_live
from tasks.promote import promote_model
from tasks.registry.approvals import Reviewed, reviewed_versions, set_review
from tasks.review import decided_here, find_reviewed, objection
from tasks.savedmodel.manifest import verify_manifest
from tasks.store.champion import find_champion
from tasks.store.history import append, read
from tasks.store.layout import STAGING, versions
from tasks.store.lock import model_lock
from tasks.store.rehearsals import recall
from tasks.store.runs import RUNS
from tests.fault_proxy import FaultProxy
from tests.integration.test_object_store import OPEN, follower, live_of
from tests.integration.test_store_crash import Driver
from tests.s3_server import S3Server
from tests.store_driver import Store, bucket_at

pytestmark = [
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning"),
]


def machine(work_dir: Path, address: str, keep: int = 0) -> Store:
    """Return a machine with a work_dir as a configuration has it."""
    empty = Store(work_dir / "live" / "m", work_dir / "candidates" / "m", work_dir / "aliases.json", objects=address)
    return dataclasses.replace(empty, live=empty.config.live_dir, keep=keep)


def promoted_by(store: Store, number: int, digest: str) -> Promotion:
    """Do what an approval does after its checks; MLflow is away."""
    known = recall(store.candidates, digest)
    assert known is not None
    return put_live(offline(store), known.report.candidate, known.run, None, "ann")


def offline(store: Store) -> Config:
    tracking = store.config.tracking.model_copy(update={"uri": "http://127.0.0.1:9"})
    return store.config.model_copy(update={"tracking": tracking})


def meanwhile(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Let another machine do something once, after the next change here was prepared and before it is shown."""
    prepare, left = Mirror._now, [act]

    def slow(mirror: Mirror, *args: Any) -> Live | None:
        live = prepare(mirror, *args)
        if live is not None and live.change is not None and left:
            left.pop()()
        return live

    monkeypatch.setattr(Mirror, "_now", slow)


def reviewed(store: Store, number: int, review: str = "approved") -> Reviewed:
    return Reviewed(1, number, store.digest(number), review, "ann", "r", "awaiting review")


def test_a_candidate_of_a_lost_machine_goes_live(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A machine with an empty work_dir has files, evidence, verdict and history of a candidate, and promotes it."""
    one, two = machine(tmp_path / "1", address), machine(tmp_path / "2", address)
    number = one.judge()
    one.archive(number)
    decision, digest = reviewed(one, number), one.digest(number)
    live = live_of(address)
    assert [(kept.version, kept.digest) for kept in live.candidates] == [(number, digest)]
    assert (live.champion, live.change) == (None, None)
    assert follower(address, tmp_path / "served").look()
    assert [*versions(tmp_path / "served" / "m")] == []
    assert sync.main(["--from", address, "--to", str(tmp_path / "served"), "--model", "m", "--once"]) == 1
    assert "nothing is live of m" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "1")
    assert decided_here(two.config, [decision]) == [decision]
    known = recall(two.candidates, digest)
    assert known is not None
    for path in (known.splits.train, known.trained.keras_file, known.report.candidate.requests):
        assert path.is_file()
        assert path.is_relative_to(tmp_path / "2")
    assert known.report.served is not None
    assert known.report.served.answers.is_file()
    verify_manifest(known.report.candidate.version_dir, digest)
    assert objection(two.config, decision) == ""
    assert promoted_by(two, number, digest).state is PromotionState.PROMOTED
    assert live_of(address).versions[number].digest == digest
    assert follower(address, tmp_path / "served").look()
    verify_manifest(tmp_path / "served" / "m" / str(number), digest)
    two.clear()  # what a next run removes
    assert recall(two.candidates, digest) == known
    assert known.report.candidate.requests.is_file()


def test_a_rejection_is_the_last_word_everywhere(address: str, tmp_path: Path) -> None:
    """What another machine rejected cannot be approved by the one that judged it, which has all files."""
    one, two = machine(tmp_path / "1", address), machine(tmp_path / "2", address)
    number = one.judge()
    one.archive(number)
    assert objection(one.config, reviewed(one, number)) == ""
    assert two.bring(number, one.digest(number))
    append(two.live, number, "rejected", one.digest(number), reason="no")
    share_history(two.config)
    assert decided_here(one.config, [reviewed(one, number)])
    assert "was rejected before (no)" in objection(one.config, reviewed(one, number))


def test_a_rejection_counts_until_the_change(address: str, tmp_path: Path) -> None:
    """A candidate that another machine rejects after it was approved here, and before it is published, stays out."""
    one, two = machine(tmp_path / "1", address), machine(tmp_path / "2", address)
    number = one.judge()
    one.archive(number)
    digest = one.digest(number)
    assert two.bring(number, digest)
    assert objection(one.config, reviewed(one, number)) == ""
    append(two.live, number, "rejected", digest, actor="bob", reason="no")
    share_history(two.config)
    append(one.live, number, "approved", digest, actor="ann")
    promotion = promoted_by(one, number, digest)
    assert (promotion.state, promotion.reason) == (PromotionState.REJECTED, "bob has rejected it: no")
    assert live_of(address).versions == {}
    assert "was rejected before (no)" in objection(one.config, reviewed(one, number))  # whatever its last line is


def test_an_archive_at_the_same_time_stops_no_change(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A promotion and a rollback during which another machine archives a candidate succeed at once."""
    one, two = machine(tmp_path / "1", address), machine(tmp_path / "2", address)
    numbers = [one.judge(), one.judge()]
    for number in (two.judge(), two.judge()):
        if number == 3:
            assert two.promote(number) == "live"
    with monkeypatch.context() as patch:
        meanwhile(patch, lambda: one.archive(numbers[0]))
        known = recall(two.candidates, two.digest(4))
        assert known is not None
        champion = find_champion(two.live)
        promotion = put_live(offline(two), known.report.candidate, known.run, champion, "")
    assert (promotion.state, live_of(address).champion) == (PromotionState.PROMOTED, 4)
    with monkeypatch.context() as patch:
        meanwhile(patch, lambda: one.archive(numbers[1]))
        assert go_back(offline(two), None, "ann").state is PromotionState.PROMOTED
    live = live_of(address)
    assert [kept.version for kept in live.candidates] == numbers
    assert live.champion is not None
    assert live.versions[live.champion].digest == two.digest(3)


def test_of_two_rollbacks_at_once_one_goes_back(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rollback that another one overtook is an error, and does not go back one version further."""
    one, two = machine(tmp_path / "1", address), machine(tmp_path / "2", address)
    for number in (two.judge(), two.judge(), two.judge()):
        assert two.promote(number) == "live"
    meanwhile(monkeypatch, one.rollback)
    with pytest.raises(StoreConflict, match="changed by another process"):
        go_back(offline(two), None, "ann")
    live = live_of(address)
    assert live.champion is not None
    assert live.versions[live.champion].digest == two.digest(2)


def test_two_approvals_of_one_candidate(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two approvals at once both end with the candidate live, which is not judged beside itself."""
    one, two = machine(tmp_path / "1", address), machine(tmp_path / "2", address)
    number = one.judge()
    one.archive(number)
    digest = one.digest(number)
    assert two.bring(number, digest)
    meanwhile(monkeypatch, lambda: promoted_by(one, number, digest))
    promotion = promoted_by(two, number, digest)
    assert (promotion.state, promotion.reason) == (PromotionState.PROMOTED, "version 1 is live")
    assert [entry.state for entry in read(two.live)].count("live") == 1


def test_evidence_that_was_lost_here_is_brought_again(address: str, tmp_path: Path) -> None:
    """An approval brings the rows and answers again that are gone, and replaces those that are not the archive's."""
    one, two = machine(tmp_path / "1", address), machine(tmp_path / "2", address)
    number = one.judge()
    one.archive(number)
    digest = one.digest(number)
    assert two.bring(number, digest)
    shutil.rmtree(two.config.work_dir / RUNS)
    assert two.bring(number, digest)
    known = recall(two.candidates, digest)
    assert known is not None
    requests = known.report.candidate.requests
    content = requests.read_bytes()
    requests.write_bytes(b"other")
    shutil.rmtree(two.candidates / str(number))
    assert two.bring(number, digest)
    assert requests.read_bytes() == content


def test_what_is_not_in_the_archive_is_left_alone(
    address: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A candidate that was never archived, or whose digest is another one, is left to the machine that has it."""
    one, two = machine(tmp_path / "1", address), machine(tmp_path / "2", address)
    number, other = one.judge(), one.judge()
    one.archive(other)
    wrong = dataclasses.replace(reviewed(one, other), digest=one.digest(number))
    assert decided_here(two.config, [reviewed(one, number), wrong]) == []
    assert "is not in the candidates' archive" in caplog.text
    assert versions(two.candidates) == {}


def test_a_damaged_archive_brings_nothing(address: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever object was changed or lost, nothing of the candidate gets its name, and the doctor says so."""
    one = machine(tmp_path / "1", address)
    number = one.judge()
    one.archive(number)
    [kept] = live_of(address).candidates
    bucket = bucket_at(address)
    keys = [found.key for found in bucket.objects(f"m/{kept.path}/")]
    assert any("/runs/" in key for key in keys)
    for place, key in enumerate(keys):
        found = bucket.read(key)
        assert found is not None
        assert found.content is not None
        bucket.remove([key]) if place % 2 else bucket.write(key, found.content + b" ", found.etag)
        two = machine(tmp_path / f"2-{place}", address)
        with pytest.raises(ManifestMismatch):
            two.bring(number, one.digest(number))
        assert decided_here(two.config, [reviewed(one, number)]) == []
        assert versions(two.candidates) == {}
        assert recall(two.candidates, one.digest(number)) is None
        assert not [*(tmp_path / f"2-{place}" / "runs").glob("*")]
        now = bucket.read(key)
        bucket.write(key, found.content, now.etag if now else "")
    bucket.remove([keys[0]])
    with model_lock(one.live, 60):
        one.mirror.refresh()
        assert [f"candidate {number} is damaged" in found.text for found in damaged(one.mirror)] == [True]


def test_retention_of_the_archive(address: str, tmp_path: Path) -> None:
    """promote.keep limits the archive as it limits the candidates here; who waits stays, and objects go when old."""
    one, bucket = machine(tmp_path / "1", address, keep=1), bucket_at(address)
    numbers = [one.judge(state) for state in ("rejected", "awaiting review", "rejected", "rejected")]
    for number in numbers:
        archive(
            one.config.model_copy(update={"promote": one.config.promote.model_copy(update={"keep": 0})}),
            number,
            one.digest(number),
        )
    with model_lock(one.live, 60):
        forget_old(one.config, ())
    assert [kept.version for kept in live_of(address).candidates] == [numbers[1], numbers[3]]
    with model_lock(one.live, 60):
        assert sweep(one.mirror) == []
        assert len([found for found in sweep(one.mirror, older_s=0) if "/candidates/" in found.text]) == 2
    left = {found.key.split("/")[2] for found in bucket.objects("m/candidates/")}
    assert left == {kept.path.split("/")[1] for kept in live_of(address).candidates}
    two = machine(tmp_path / "2", address)
    assert two.bring(numbers[1], one.digest(numbers[1]))


def test_a_pointer_that_is_gone_forgets_no_candidate(address: str, tmp_path: Path) -> None:
    """A new machine does not begin anew where candidates wait and only live.json is gone."""
    one, two = machine(tmp_path / "1", address), machine(tmp_path / "2", address)
    for number in (one.judge(), one.judge()):
        one.archive(number)
    bucket_at(address).remove([f"m/{LIVE}"])
    with pytest.raises(StoreError, match="has versions or candidates .* restore it"):
        two.promote(two.export())


def test_a_model_below_another_one_stays(address: str, tmp_path: Path) -> None:
    """The doctor removes no object of a model whose address ends with the name of this one, whatever its name is."""
    one, bucket = machine(tmp_path / "1", address), bucket_at(address)
    one.promote(one.export())
    others = {f"m/{name}/{LIVE}" for name in ("versions", "candidates", "history", "numbers")}
    others |= {
        f"m/versions/versions/sha256-{'a' * 64}/{'b' * 32}/saved_model.pb",
        f"m/history/history/{'b' * 32}.jsonl",
    }
    for key in others:
        bucket.write(key, b"theirs", "")
    with model_lock(one.live, 60):
        one.mirror.refresh()
        sweep(one.mirror, older_s=0)
    assert others <= {found.key for found in bucket.objects("m/")}
    two = machine(tmp_path / "2", f"{address}/m")
    assert two.promote(two.export()) == "live"  # and their history is not taken for its own


def test_what_was_swept_is_not_named(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upload that a doctor took for a leftover is not named afterwards; the run says so."""
    one, two = machine(tmp_path / "1", address), machine(tmp_path / "2", address)
    one.promote(one.export())
    number = one.judge()
    from tasks.production import archive as module

    def slow(*args: object) -> Archived:
        kept = sending(*args)  # type: ignore[arg-type]
        with model_lock(two.live, 60):
            two.mirror.refresh()
            assert any(kept.path in found.text for found in sweep(two.mirror, older_s=0))
        return kept

    sending = module.send_candidate
    monkeypatch.setattr(module, "send_candidate", slow)
    with pytest.raises(ManifestMismatch):
        one.archive(number)
    assert live_of(address).candidates == ()


def test_two_machines_at_once(address: str, tmp_path: Path) -> None:
    """Two machines that know nothing of each other never use a number twice, and both candidates are archived."""
    one, two = machine(tmp_path / "1", address), machine(tmp_path / "2", address)
    numbers = [one.judge(), two.judge(), two.judge(), one.judge()]
    assert numbers == [1, 2, 3, 4]
    one.archive(1)
    two.archive(2)
    assert [kept.version for kept in live_of(address).candidates] == [1, 2]
    three = machine(tmp_path / "3", address)
    assert three.bring(1, one.digest(1))
    assert three.bring(2, two.digest(2))
    shutil.copytree(two.candidates / "2", one.candidates / "2")  # as without the claims
    (one.candidates / "2" / "more").write_text("other bytes")
    with pytest.raises(VersionExists, match="decide about it with another work_dir"):
        one.bring(2, two.digest(2))


def test_a_connection_that_breaks(address: str, tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the connection breaks, live.json names a whole candidate or none, and the next try succeeds."""
    one, two = machine(tmp_path / "1", address), machine(tmp_path / "2", address)
    number = one.judge()
    proxy, broken = FaultProxy(s3.url.removeprefix("http://")), 0
    try:
        with monkeypatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", proxy.address)
            patch.setenv("AWS_MAX_ATTEMPTS", "1")
            _bucket.cache_clear()
            for store, act in (
                (one, lambda: one.archive(number)),
                (two, lambda: two.bring(number, one.digest(number))),
            ):
                for good in itertools.count(0, 7):
                    left = iter([""] * good)
                    proxy.rule = lambda _method, _path, left=left: next(left, "reset")
                    try:
                        act()
                        break
                    except StoreUnreachable:
                        broken += 1
                    if store is two:
                        assert recall(two.candidates, one.digest(number)) is None
                proxy.rule = lambda _method, _path: ""
    finally:
        proxy.close()
        OPEN.append(_bucket(address))
        _bucket.cache_clear()
    assert broken > 4
    assert machine(tmp_path / "3", address).bring(number, one.digest(number))


def test_a_store_that_is_away_costs_no_decision(
    address: str, tmp_path: Path, mlflow_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a candidate cannot be archived, the error says so, and MLflow lets a person decide with its work_dir."""
    from mlflow import MlflowClient

    one = machine(tmp_path / "1", address)
    number = one.judge("validated")
    shutil.copy(mlflow_database, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(uri, uri)
    client.create_registered_model("m")
    run_id = client.create_run(client.create_experiment("m")).info.run_id
    tags = {"digest": one.digest(number), "candidate": str(number)}
    client.create_model_version("m", str(tmp_path / "m"), run_id=run_id, tags=tags)
    config = one.config.model_copy(
        update={
            "tracking": one.config.tracking.model_copy(update={"uri": uri}),
            "promote": one.config.promote.model_copy(update={"mode": "review"}),
        }
    )
    known = recall(one.candidates, one.digest(number))
    assert known is not None
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        patch.setenv("AWS_MAX_ATTEMPTS", "1")
        _bucket.cache_clear()
        with pytest.raises(
            StoreUnreachable, match=rf"candidate {number} is awaiting review, but .* with this work_dir"
        ):
            promote_model.fn(config, known.report, dataclasses.replace(known.run, mlflow_run_id=run_id), wanted=True)
    OPEN.append(_bucket(address))
    _bucket.cache_clear()
    [waiting] = reviewed_versions(config)
    assert waiting.waits
    set_review(config, waiting, "approved", "ann")
    [decided] = reviewed_versions(config)
    assert find_reviewed.fn(config, number) == find_reviewed.fn(config) == [decided]
    assert find_reviewed.fn(config, number + 1) == []  # and nothing is fetched for it
    assert objection(config, decided) == ""


@pytest.fixture(scope="module")
def driver(s3: S3Server) -> Iterator[Driver]:
    """Start a process that forks, and dies in, each step; it finds the object store in its environment."""
    assert s3.process.poll() is None
    started = Driver()
    yield started
    started.close()


@pytest.mark.parametrize("step", [101, pytest.param(1, marks=pytest.mark.long)])
def test_a_killed_archive_and_a_killed_fetch(driver: Driver, address: str, tmp_path: Path, step: int) -> None:
    """Wherever a process is killed that archives or fetches, nothing half-done is taken for a candidate."""
    one, points = machine(tmp_path / "1", address), 0
    for kill_at in itertools.count(1, step):
        number = one.judge()
        digest = one.digest(number)
        answer = driver(one, kill_at, "archive", number)
        named = [kept for kept in _candidates(address) if kept.version == number]
        two = machine(tmp_path / f"2-{kill_at}", address)
        if named:
            assert two.bring(number, digest)
            verify_manifest(two.candidates / str(number), digest)
        one.archive(number)
        three = machine(tmp_path / f"3-{kill_at}", address)
        fetched = driver(three, kill_at, "bring", number, digest)
        if recall(three.candidates, digest) is not None:
            assert objection(three.config, reviewed(one, number)) == ""
        three.clear()
        assert three.bring(number, digest)
        assert objection(three.config, reviewed(one, number)) == ""
        known = recall(three.candidates, digest)
        assert known is not None
        assert known.report.candidate.requests.is_file()
        assert [*three.candidates.glob(f"{STAGING}*")] == []
        points += ("killed_before" in answer) + ("killed_before" in fetched)
        if not {"killed_before"} & {*answer, *fetched}:
            break
    assert points >= (40 if step == 1 else 2)
    with model_lock(one.live, 60):
        one.mirror.refresh()
        sweep(one.mirror, older_s=0)
    left = {"/".join(found.key.split("/")[1:4]) for found in bucket_at(address).objects("m/candidates/")}
    assert left == {kept.path for kept in _candidates(address)}


def _candidates(address: str) -> tuple[Archived, ...]:
    found = bucket_at(address).read(f"m/{LIVE}")
    return live_of(address).candidates if found is not None else ()

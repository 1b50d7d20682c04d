"""A store with a real directory and a registry in a file, and a driver that dies before its k-th file-system call.

    python tests/store_driver.py    # one JSON command a line in, one JSON answer a line out

Nothing in the product knows of it: Python's audit hooks tell of every call that changes a file, a name or a lock;
`fsync`, `write` and `sendfile`, which have none, are wrapped in the dying process. The driver imports once and forks
for each command, so that a point costs milliseconds.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec

from configs.schema import Config
from tasks.datasets.rows import save_arrays
from tasks.objects.bucket import Bucket
from tasks.objects.follow import Follower, Target, only_sync
from tasks.objects.mirror import Mirror
from tasks.production.archive import archive, bring
from tasks.production.live_check import Endpoint, live_problem
from tasks.proof.chain import Signer
from tasks.records import (
    Arm,
    Candidate,
    Change,
    GateResult,
    GraphFacts,
    ServedAnswers,
    ServerFacts,
    Signature,
    Splits,
    TensorSpec,
    TrackedRun,
    TrainedModel,
    ValidationReport,
)
from tasks.savedmodel.manifest import write_manifest
from tasks.store.champion import champion_version, predecessor
from tasks.store.experiment import eligible, running
from tasks.store.history import append, read, served_digest
from tasks.store.journal import write_atomically
from tasks.store.layout import claim_version, next_number, version_number, versions
from tasks.store.leftovers import clear
from tasks.store.lock import model_lock
from tasks.store.rehearsals import Rehearsed, rehearsal_file, save_rehearsal
from tasks.store.repair import catch_up, mend, repair
from tasks.store.retention import prune
from tasks.store.runs import RUNS, create_run_dir, note_digest
from tasks.store.serving_config import labels_of
from tasks.store.shared_rows import ROWS, share
from tasks.store.transaction import CANARY, STABLE, Production, carry_out, overtaken, tell

MODELS = Path(__file__).parent / "data" / "tfs_rest" / "models"
HALVES = (MODELS / "half" / "1", MODELS / "half_v2" / "2", MODELS / "half_v2" / "3")  # 0.5 x + 2, 3, 4
SIGNER = Signer(ec.derive_private_key(1, ec.SECP256R1()))  # the same one in every process
CHANGING = {
    "os.rename", "os.link", "os.symlink", "os.mkdir", "os.rmdir", "os.remove", "os.truncate", "os.chmod", "os.utime",
    "fcntl.flock",
}  # fmt: skip


def bucket_at(address: str) -> Bucket:
    """Return a client of an object store, which half a second is needed to make."""
    return _bucket(address, os.environ.get("AWS_ENDPOINT_URL", ""))


@cache
def _bucket(address: str, endpoint: str) -> Bucket:
    return Bucket(address)


@dataclasses.dataclass(frozen=True)
class Store:
    """One model's directories.

    Attributes:
        registry: a JSON file of alias to digest, in MLflow's place.
        url: of a server that must have loaded a version before it is verified; empty: nobody is asked.
        refuses: production answers differently than validated, whatever it has loaded.
        refuses_labels: so it does when it is asked by the label of an experiment.
        keep: as promote.keep.
        objects: address of an object store, of which `live` is a mirror; empty: servers watch `live` itself.
        patience_s: seconds until a change that another machine does not go on with is gone on with here.
    """

    live: Path
    candidates: Path
    registry: Path
    layout: Literal["latest", "labels"] = "latest"
    url: str = ""
    refuses: bool = False
    refuses_labels: bool = False
    keep: int = 0
    objects: str = ""
    patience_s: float = 0.0

    @property
    def signer(self) -> Signer | None:
        """Return who signs the head of the history."""
        return SIGNER

    @property
    def production(self) -> Production:
        show = self.mirror.show if self.objects else lambda: None
        return Production(
            self.live, self.layout, self._verify, self._record, verify_label=self._verify_label, show=show,
            signer=self.signer,
        )  # fmt: skip

    @property
    def mirror(self) -> Mirror:
        return Mirror(bucket_at(self.objects), self.live, self.layout, signer=self.signer)

    def _catch_up(self) -> None:
        """Do what a change does before it begins."""
        if self.objects:
            self.mirror.refresh(self.patience_s)
        mend(self.production, self.candidates)
        self.production.show()

    @property
    def aliases(self) -> dict[str, str]:
        return dict(json.loads(self.registry.read_text())) if self.registry.exists() else {}

    def _verify(self, change: Change) -> str:
        if self.url and (problem := live_problem(Endpoint(self.url, self.live.name), change.version, None, 60)):
            return problem
        return "it answers differently than validated" if self.refuses else ""

    def _verify_label(self, change: Change) -> str:
        endpoint = Endpoint(self.url, self.live.name)
        if self.url and (problem := live_problem(endpoint, change.version, None, 60, change.label)):
            return problem
        return "it answers differently as a label" if self.refuses_labels else ""

    def _record(self, change: Change) -> None:
        aliases = self.aliases
        if change.arms:
            aliases.pop("experiment", "")
        if change.operation == "experiment":
            aliases["experiment"] = change.experiment
        elif change.operation == "end" or overtaken(read(self.live), change):
            pass
        elif change.operation == "withdraw":
            aliases["champion"] = change.previous_digest
        else:
            aliases["canary" if change.label == CANARY else "champion"] = change.digest
            if change.rolls_back is not None and aliases.get("canary") == change.previous_digest:
                aliases["canary"] = change.digest
        temporary = self.registry.with_suffix(".new")
        temporary.write_text(json.dumps(aliases))
        temporary.replace(self.registry)

    def export(self, is_free: Callable[[int], bool] = lambda _number: True) -> int:
        """Make the next candidate, whose bytes no other has; return its number."""
        with claim_version(self.candidates, self.live, 0, is_free) as claim:
            source = HALVES[len(versions(self.candidates)) % len(HALVES)]
            shutil.copytree(source, claim.staging, dirs_exist_ok=True)
            (claim.staging / "assets.extra").mkdir(exist_ok=True)
            (claim.staging / "assets.extra" / "who").write_text(claim.staging.name)
            digest = write_manifest(claim.staging).digest
            version = version_number(claim.publish().name)
        assert version is not None
        append(self.live, version, "exported", digest, self.signer)
        append(self.live, version, "validated", digest, self.signer)
        return version

    @property
    def config(self) -> Config:
        """Return the configuration of a model with these directories."""
        promote = {"keep": self.keep, "layout": self.layout}
        root = self.objects or self.live.parent
        return Config(name=self.live.name, work_dir=self.candidates.parents[1], models_root=root, promote=promote)

    def judge(self, state: str = "awaiting review") -> int:
        """Do what a run does with the files of a candidate that passes, before its archive; return its number."""
        run_dir = create_run_dir(self.config)
        number = self.export(self.mirror.claim)
        files = {
            name: run_dir / name for name in ("data/train.npz", "requests.npz", "server1/answers.npz", "model.keras")
        }
        for path in files.values():
            save_arrays(path, {"x": np.full(3, float(number))})
        train, requests, answers, model = files.values()
        signature = Signature((TensorSpec("x", "float32", (None, 1)),), (TensorSpec("y", "float32", (None, 1)),))
        directory, digest = self.candidates / str(number), self.digest(number)
        note_digest(run_dir, digest)
        candidate = Candidate("m", number, directory, digest, signature, 1, requests, answers, train)
        server = ServedAnswers(ServerFacts("embedded", "", "", "", "", 0.0, answers), signature, answers, 3, 1.0)
        report = ValidationReport(
            candidate, GraphFacts((), (), 1, 1, 1, 1), server, (GateResult("size", passed=True, summary=""),)
        )
        splits, trained = Splits(train, train, train, {"train": 3}, "", "", ()), TrainedModel(model, {}, 1, 1)
        save_rehearsal(self.candidates, Rehearsed(splits, trained, report, TrackedRun("r", "0", "m", number, "")))
        append(self.live, number, state, digest, self.signer)  # type: ignore[arg-type]
        return number

    def archive(self, number: int) -> None:
        """Do what a run does with a candidate that waits for a person."""
        archive(self.config, number, self.digest(number))

    def bring(self, number: int, digest: str) -> bool:
        """Do what an approval does before it reads a candidate."""
        return bring(self.config, number, digest)

    def run(self, state: str = "") -> str:
        """Do what a run does with files, up to its verdict, if there is one; return its directory."""
        run_dir = create_run_dir(self.config)
        train = run_dir / "data" / "train.npz"
        save_arrays(train, {"x/a": np.arange(1000.0)})
        share(self.config, train)
        with claim_version(self.candidates, self.live, 0) as claim:
            (claim.staging / "who").write_text(claim.staging.name)
            digest = write_manifest(claim.staging).digest
            note_digest(run_dir, digest)
            version = version_number(claim.publish().name)
        assert version is not None
        append(self.live, version, "exported", digest, self.signer)
        if state:
            record = rehearsal_file(self.candidates, digest, version)
            record.parent.mkdir(exist_ok=True)
            write_atomically(record, json.dumps({"splits": {"train": str(train)}}))
            append(self.live, version, state, digest, self.signer)  # type: ignore[arg-type]
        return str(run_dir)

    def clear(self) -> None:
        """Do what a run does before it begins."""
        clear(self.config)

    def digest(self, version: int) -> str:
        """Return what a number was validated with."""
        return next(entry.digest for entry in reversed(read(self.live)) if entry.version == version)

    def promote(self, version: int) -> str:
        """Do what a promotion does with a candidate, from its lock to the registry; return what became of it."""
        with model_lock(self.live, 60):
            self._catch_up()
            label = "" if self.layout == "latest" else CANARY if STABLE in labels_of(self.live) else STABLE
            change = Change(
                "publish", version, str(version), self.digest(version), str(self.candidates / str(version)),
                label=label, **self._previous(),
            )  # fmt: skip
            return self._carry_out(change)

    def rollback(self) -> str:
        """Do what a rollback does."""
        with model_lock(self.live, 60):
            self._catch_up()
            champion = champion_version(self.live, self.layout)
            target = predecessor(self.live, champion)
            assert target is not None
            source, digest = versions(self.live)[target], served_digest(read(self.live), target)
            change = Change(
                "label", target, source.name, digest, str(source), rolls_back=champion, label=STABLE, **self._previous()
            )
            if self.layout == "latest":
                with next_number(self.candidates, self.live) as number:
                    change = dataclasses.replace(
                        change, operation="publish", version=number, directory=str(number), label=""
                    )
            return self._carry_out(change)

    def make_stable(self) -> str:
        """Do what moving the label to the canary does."""
        with model_lock(self.live, 60):
            self._catch_up()
            version = labels_of(self.live)[CANARY]
            digest = served_digest(read(self.live), version)
            return self._carry_out(Change("label", version, str(version), digest, label=STABLE, **self._previous()))

    def experiment(self, *numbers: int) -> str:
        """Do what the start of an experiment does, by default with the stable version and the canary."""
        with model_lock(self.live, 60):
            self._catch_up()
            numbers = numbers or (labels_of(self.live)[STABLE], labels_of(self.live)[CANARY])
            arms = tuple(
                Arm(label, version, eligible(self.live, version), 100 // len(numbers))
                for label, version in zip("abc", numbers, strict=False)
            )
            change = Change("experiment", numbers[0], "", arms[0].digest, experiment="e", arms=arms, actor="ann")
            return self._carry_out(change)

    def end(self) -> str:
        """Do what its end without a winner does."""
        with model_lock(self.live, 60):
            self._catch_up()
            arms = self._arms()
            return self._carry_out(Change("end", arms[0].version, "", arms[0].digest, experiment="e", arms=arms))

    def choose(self) -> str:
        """Do what making its last version stable does."""
        with model_lock(self.live, 60):
            self._catch_up()
            arms = self._arms()
            version, digest = arms[-1].version, arms[-1].digest
            change = Change("label", version, str(version), digest, label=STABLE, **self._previous())
            return self._carry_out(dataclasses.replace(change, experiment="e", arms=arms))

    def _arms(self) -> tuple[Arm, ...]:
        known = running(self.live)
        assert known is not None
        return known.arms

    def prune(self) -> str:
        """Remove old versions."""
        with model_lock(self.live, 60):
            self._catch_up()
            pruned = prune(self.live, self.candidates, self.layout, self.keep, signer=self.signer)
            self.production.show()
            return str(pruned)

    def repair(self) -> str:
        """Be the doctor."""
        with model_lock(self.live, 60):
            if self.objects:
                self.mirror.refresh(self.patience_s)
            found = repair(self.production, self.candidates)
            self.production.show()
        return str([*found, *catch_up(self.production)])

    def sync(self, directory: str) -> bool:
        """Do what `sync --once` does."""
        target = Target(Path(directory))
        with only_sync(target.root):
            follower = Follower(bucket_at(self.objects), target)
            complete = follower.look()
        assert complete, follower.problems
        return complete

    def _previous(self) -> dict[str, Any]:
        champion = champion_version(self.live, self.layout)
        digest = served_digest(read(self.live), champion) if champion else ""
        return {"previous": champion, "previous_digest": digest}

    def _carry_out(self, change: Change) -> str:
        result = carry_out(self.production, change)
        if result.state == "live":
            prune(self.live, self.candidates, self.layout, self.keep, signer=self.signer)
            self.production.show()
        tell(self.production)
        return result.state

    def to_json(self) -> dict[str, Any]:
        return {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Store:
        paths = {key: Path(fields[key]) for key in ("live", "candidates", "registry")}
        return cls(**{**fields, **paths})


class Watch:
    """Counts the calls of this process that change something below some directories, and kills it before one."""

    def __init__(self, below: list[Path], kill_at: int, say: Callable[[dict[str, Any]], None]) -> None:
        self._below, self._kill_at, self._say = below, kill_at, say
        self.calls = 0
        self.events: list[list[str]] = []
        sys.addaudithook(self._audit)
        for name in ("fsync", "write", "sendfile"):
            setattr(os, name, self._wrapped(getattr(os, name), name))

    def count_requests(self) -> None:
        """Count the requests to an object store as well; S3FileSystem sends each of them with one method."""
        from s3fs import S3FileSystem

        send = S3FileSystem._call_s3

        async def counted(system: Any, method: str, *args: Any, **kwargs: Any) -> Any:
            self._note_call(method, str(kwargs.get("Key", "")))
            return await send(system, method, *args, **kwargs)

        S3FileSystem._call_s3 = counted

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            flags = args[2] or 0
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
                self._count(event, args[0], -1)
        elif event == "fcntl.flock":
            if args[1] != fcntl.LOCK_UN:
                self._count(event, args[0], -1)
        elif event in CHANGING:
            # the last argument of those that take one is the directory that the path is relative to
            self._count(event, args[0], args[-1] if event in ("os.rmdir", "os.remove") else -1)

    def _wrapped(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def counted(descriptor: int, *args: Any, **kwargs: Any) -> Any:
            self._count(f"os.{name}", descriptor, -1)
            return call(descriptor, *args, **kwargs)

        return counted

    def _count(self, event: str, path: Any, directory: int) -> None:
        if isinstance(path, int):
            path = Path(f"/proc/self/fd/{path}").readlink()
        elif directory != -1:
            path = Path(f"/proc/self/fd/{directory}").readlink() / os.fsdecode(path)
        path = Path(os.fsdecode(path))
        if not any(path.is_relative_to(below) for below in self._below):
            return
        self._note_call(event, str(path))

    def _note_call(self, event: str, path: str) -> None:
        self.calls += 1
        self.events.append([event, path])
        if self.calls == self._kill_at:
            self._say({"killed_before": f"{event} {path}", "calls": self.calls})
            os.kill(os.getpid(), signal.SIGKILL)


def run(command: dict[str, Any]) -> dict[str, Any]:
    """Do one command in a child, which may kill itself; return what it said last."""
    if command["store"].get("objects"):
        import s3fs  # noqa: F401  once, and not in each child
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        raw_write = os.write

        def say(answer: dict[str, Any]) -> None:
            raw_write(writing, json.dumps(answer).encode() + b"\n")

        status = 1
        try:
            store = Store.from_json(command["store"])
            work_dir = store.candidates.parents[1]
            below = [store.live.parent, store.candidates, work_dir / RUNS, work_dir / ROWS]
            below += [Path(arg) for arg in command["args"] if str(arg).startswith("/")]
            watch = Watch(below, command["kill_at"], say)
            if store.objects:
                watch.count_requests()
            result = getattr(store, command["operation"])(*command["args"])
            say({"result": result, "calls": watch.calls, "events": watch.events})
            status = 0
        except BaseException as exc:  # noqa: BLE001  whatever it is, the test says so
            say({"error": f"{type(exc).__name__}: {exc}"})
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as stream:
        lines = stream.read().splitlines()
    _, status = os.waitpid(pid, 0)
    answer = dict(json.loads(lines[-1]))
    answer["signal"] = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    return answer


if __name__ == "__main__":
    for line in sys.stdin:
        sys.stdout.write(json.dumps(run(json.loads(line))) + "\n")
        sys.stdout.flush()

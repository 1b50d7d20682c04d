"""What served when, by the history."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flows import history
from tasks.store.history import HISTORY, Entry, append
from tasks.store.timeline import served_at
from tests.store_driver import SIGNER

BEGIN = datetime(2026, 11, 25, tzinfo=UTC)


def line(hour: float, version: int, state: str, reason: str = "", digest: str = "") -> Entry:
    time = (BEGIN + timedelta(hours=hour)).isoformat(timespec="milliseconds")
    return Entry(time, version, state, digest or f"d{version}", "run", "ann", reason)


def at(entries: list[Entry], hour: float) -> dict[str, int]:
    return {one.role: one.entry.version for one in served_at(entries, BEGIN + timedelta(hours=hour))}


LATEST = [
    line(0, 1, "exported"),
    line(0.1, 1, "validated"),
    line(1, 1, "live"),
    line(1.5, 2, "exported"),
    line(2, 2, "live", "approved by ann"),
    line(2, 1, "superseded"),
    line(2.5, 3, "rolled back", "it did not load"),
    line(3, 4, "live", "rollback from version 2 to the bytes of version 1", "d1"),
    line(3, 2, "rolled back"),
    line(3.5, 1, "pruned"),
    line(3.6, 4, "rejected", "of another work_dir"),
    line(3.7, 4, "unchanged", "of another work_dir, with the bytes that are live"),
]


@pytest.mark.parametrize(
    ("hour", "version"),
    [(0.5, None), (0.9999, None), (1, 1), (1.9999, 1), (2, 2), (2.7, 2), (2.9999, 2), (3, 4), (1e4, 4)],
)
def test_the_version_that_served(hour: float, version: int | None) -> None:
    """A change counts from the very time of its line, and nothing served before the first one."""
    assert at(LATEST, hour) == ({} if version is None else {"stable": version})


def test_who_put_it_there_and_until_when() -> None:
    """The line that put a version there has its bytes, who and why; the line that ended it says when and by what."""
    [two] = served_at(LATEST, BEGIN + timedelta(hours=2.7))
    assert (two.entry.digest, two.entry.actor, two.entry.reason) == ("d2", "ann", "approved by ann")
    assert two.ended == LATEST[7]
    [four] = served_at(LATEST, BEGIN + timedelta(hours=9))
    assert four.ended is None
    assert four.entry.digest == "d1"


def test_a_time_with_an_offset_is_the_same_moment() -> None:
    """04:30 at +01:00 is 03:30 UTC."""
    for text in ("2026-11-25T02:30Z", "2026-11-25T03:30+01:00", "2026-11-24T21:30-05:00"):
        assert [one.entry.version for one in served_at(LATEST, datetime.fromisoformat(text))] == [2]


def test_a_clock_that_was_set_back() -> None:
    """A line that is dated before an earlier one counts from the time of that one."""
    entries = [line(5, 1, "live"), line(3, 2, "live"), line(3, 1, "superseded")]
    assert at(entries, 4) == {}
    assert at(entries, 5) == {"stable": 2}


def test_labels_and_an_experiment() -> None:
    """The canary is what served as such beside the stable version, until it becomes stable or is replaced."""
    entries = [
        line(1, 1, "live"),
        line(2, 2, "canary"),
        line(3, 3, "canary"),
        line(4, 1, "in experiment", "experiment e: a: version 1 (50 %)"),
        line(4, 3, "in experiment", "experiment e: b: version 3 (50 %)"),
        line(5, 1, "experiment ended", "experiment e: a: version 1 (50 %); won"),
        line(5, 3, "experiment ended", "experiment e: b: version 3 (50 %); won"),
        line(5, 3, "live"),
        line(5, 1, "superseded"),
        line(6, 1, "live", "rollback"),
        line(6, 3, "rolled back"),
    ]
    assert at(entries, 2) == {"stable": 1, "canary": 2}
    assert at(entries, 3) == {"stable": 1, "canary": 3}
    experiment = {
        "in the experiment e as a: version 1 (50 %)": 1, "in the experiment e as b: version 3 (50 %)": 3,
    }  # fmt: skip
    assert at(entries, 4.5) == {"stable": 1, "canary": 3, **experiment}
    assert at(entries, 5) == {"stable": 3}
    assert at(entries, 6) == {"stable": 1}


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    """Return a directory in which two versions were live."""
    for number in (1, 2):
        append(tmp_path / "m", number, "live", f"{number}" * 64, actor="ann", reason=f"approved by ann, {number}")
    append(tmp_path / "m", 1, "superseded", "1" * 64)
    return tmp_path / "m"


def test_the_table_of_changes(model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each change is a row with who and why, and the digest of the head stands below, to be noted elsewhere."""
    assert history.main(["--dir", str(model_dir)]) == 0
    head, *rows, last = capsys.readouterr().out.splitlines()
    assert head.split() == ["time", "version", "state", "digest", "by", "reason"]
    assert [row.split()[2:6] for row in rows[:2]] == [["1", "live", "1" * 12, "ann"], ["2", "live", "2" * 12, "ann"]]
    assert rows[1].endswith("approved by ann, 2")
    assert last.startswith("head ")
    assert len(last) == 69


def test_a_signature_that_is_not_checked_is_said(model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A directory has no key: where a head is signed, the table says that only the chain was checked."""
    assert history.main(["--dir", str(model_dir)]) == 0
    assert "signature" not in capsys.readouterr().out
    append(model_dir, 2, "superseded", "2" * 64, SIGNER)
    assert history.main(["--dir", str(model_dir)]) == 0
    assert "the signature of the history is not checked, because --dir has no key;" in capsys.readouterr().out


def test_what_served_at_a_time(model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--at` answers with the digest, who and why; before the first line it says that nothing served."""
    now = datetime.now(UTC).isoformat()
    assert history.main(["--dir", str(model_dir), "--at", now]) == 0
    out = capsys.readouterr().out
    assert "version 2 served, stable" in out
    assert "2" * 64 in out
    assert "approved by ann, 2" in out
    assert history.main(["--dir", str(model_dir), "--at", "2020-01-01T00:00Z"]) == 0
    assert "no version of 'm' served; the first one came at" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("time", "said"),
    [
        ("2026-11-25T03:30", "with an offset"),
        ("2026-11-25", "with an offset"),
        ("yesterday", "with an offset"),
        ("9999-12-31T23:59:59-23:59", "with an offset"),
        ("0001-01-01T00:00+14:00", "with an offset"),
        ("", "with an offset"),
    ],
)
def test_a_time_that_is_not_clear(model_dir: Path, capsys: pytest.CaptureFixture[str], time: str, said: str) -> None:
    """A time without an offset means another moment on each machine."""
    with pytest.raises(SystemExit) as ended:
        history.main(["--dir", str(model_dir), "--at", time])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_an_address_without_a_scheme_is_shown_without_its_password(
    model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        history.main(["--dir", str(model_dir), "--served-by", "u:p4ss@h:1"])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and "got '***@h:1'" in said and "p4ss" not in said


def test_a_time_in_the_future(model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing has served in the future, and no log line may be read as if it had."""
    assert history.main(["--dir", str(model_dir), "--at", "2999-01-01T00:00+02:00"]) == 2
    assert "--at must not lie in the future, got 2998-12-31 22:00:00Z" in capsys.readouterr().err


def test_a_directory_without_a_history(model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A version's directory, or another one, is a usage error that names the right one."""
    (model_dir / "2").mkdir()
    assert history.main(["--dir", str(model_dir / "2")]) == 2
    assert f"did you mean '{model_dir}'" in capsys.readouterr().err
    assert history.main(["--dir", str(model_dir.parent)]) == 2


def test_a_history_that_was_edited(model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Who asks what served is told that a line is not as it was written, by the exit code as well."""
    path = model_dir / HISTORY
    path.write_text(path.read_text().replace("approved by ann, 1", "approved by bob, 1"))
    assert history.main(["--dir", str(model_dir), "--at", datetime.now(UTC).isoformat()]) == 1
    assert f"error: '{path}', line 2" in capsys.readouterr().err


def test_no_large_library_is_imported(model_dir: Path) -> None:
    """A pager's question is answered without Prefect, MLflow and TensorFlow."""
    script = (
        "import sys; from flows import history; code = history.main(sys.argv[1:]); "
        "print({'prefect', 'mlflow', 'tensorflow', 'keras'} & {*sys.modules}); sys.exit(code)"
    )
    command = [sys.executable, "-c", script, "--dir", str(model_dir), "--at", "2020-01-01T00:00Z"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "set()"), done.stderr

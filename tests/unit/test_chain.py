"""The history is a chain with a signed head: what was changed is refused, with the name of the file."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from flows import verify
from tasks.errors import StoreError
from tasks.proof import keys
from tasks.proof.chain import HEAD, HISTORY, Signer, chain_problems, last_digest, lines_of, texts_of
from tasks.store import history
from tasks.store.history import append, finish_last_line, head_digest, read, snapshot, take
from tests.store_driver import Store

ROOT = Path(__file__).parents[2]
SIGNER, OTHER = Signer(ec.derive_private_key(1, ec.SECP256R1())), Signer(ec.derive_private_key(2, ec.SECP256R1()))
PUBLICS = SIGNER.publics


@pytest.fixture(autouse=True)
def nothing_is_changing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for no other process, whose line could be on its way."""
    monkeypatch.setattr("tasks.proof.chain.CHANGING_S", 0)


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    """Return the directory of a model with a signed history of six lines."""
    return signed(tmp_path / "m")


def signed(directory: Path, signer: Signer | None = SIGNER) -> Path:
    for number in (1, 2):
        digest = f"{number}" * 64
        append(directory, number, "exported", digest, signer)
        append(directory, number, "validated", digest, signer, run=f"run {number}")
        append(directory, number, "live", digest, signer, actor="ann", reason=f"approved by änn {number}")
    return directory


def old_release(directory: Path, lines: int = 3) -> None:
    """Add lines as earlier releases wrote them."""
    directory.mkdir(exist_ok=True)
    with (directory / HISTORY).open("a") as stream:
        for number in range(1, lines + 1):
            fields = {"time": "2026-01-01T00:00:00.000+00:00", "version": number, "state": "live", "digest": "a" * 64}
            stream.write(json.dumps({**fields, "run": "", "actor": "bob", "reason": ""}) + "\n")


def test_an_untouched_history_has_no_problem(model_dir: Path) -> None:
    """Signed or not, a history as it was written is accepted, and so is each digest that its head ever had."""
    assert chain_problems(model_dir, PUBLICS) == chain_problems(model_dir, ()) == []
    data, _ = snapshot(model_dir)
    for text in texts_of(data):
        assert chain_problems(model_dir, PUBLICS, last_digest(text)) == []
    assert head_digest(model_dir) == last_digest(data)
    assert chain_problems(signed(model_dir.parent / "unsigned", None), ()) == []


def test_every_line_commits_to_what_is_before_it(model_dir: Path) -> None:
    """The first line carries the digest of nothing, which is fixed, and each later one that of the line before."""
    texts = texts_of((model_dir / HISTORY).read_bytes())
    before = [json.loads(text)["before"] for text in texts]
    assert before[0] == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # FIPS 180-4, of ""
    assert before[1:] == [last_digest(text) for text in texts[:-1]]


def test_a_thousand_changed_bytes(model_dir: Path, tmp_path: Path) -> None:
    """Each of 1,000 changes of a single byte of history or head is refused, and the file is named."""
    rng = random.Random(14)
    files = {name: (model_dir / name).read_bytes() for name in (HISTORY, HEAD)}
    for _ in range(1000):
        name = rng.choice((HISTORY, HEAD))
        data = bytearray(files[name])
        place = rng.randrange(len(data))
        data[place] ^= rng.randrange(1, 256)
        (model_dir / name).write_bytes(data)
        problems = chain_problems(model_dir, PUBLICS)
        assert problems, (name, place)
        assert any(str(model_dir / name) in problem for problem in problems), (name, place, problems)
        (model_dir / name).write_bytes(files[name])
    assert chain_problems(model_dir, PUBLICS) == []


def changes(texts: list[bytes]) -> dict[str, list[bytes]]:
    """Return what becomes of some lines if one or two of them are removed, doubled, moved, or replaced by another."""
    found: dict[str, list[bytes]] = {}
    for one in range(len(texts)):
        found[f"without {one}"] = texts[:one] + texts[one + 1 :]
        found[f"from {one + 1}"] = texts[one + 1 :]
        for two in range(len(texts)):
            found[f"{one} again before {two}"] = [*texts[:two], texts[one], *texts[two:]]
            if one != two:
                swapped = list(texts)
                swapped[one], swapped[two] = swapped[two], swapped[one]
                found[f"{one} and {two} swapped"] = swapped
                found[f"{one} in place of {two}"] = [*texts[:two], texts[one], *texts[two + 1 :]]
    return found


def test_removed_moved_and_replaced_lines(model_dir: Path) -> None:
    """Every removal, repetition, exchange and substitution of whole lines is refused, even of the last line."""
    texts = texts_of((model_dir / HISTORY).read_bytes())
    tried = changes(texts)
    assert len(tried) > 100
    for what, lines in tried.items():
        (model_dir / HISTORY).write_bytes(b"".join(lines))
        problems = chain_problems(model_dir, PUBLICS)
        assert problems, what
        assert all(str(model_dir) in problem for problem in problems)


def of_another(model_dir: Path) -> Path:
    return signed(model_dir.parent / "other")


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda d: (d / HEAD).unlink(), HEAD),
        (lambda d: (d / HISTORY).unlink(), HISTORY),
        (lambda d: (d / HEAD).write_bytes(b""), HEAD),
        (lambda d: (d / HISTORY).write_bytes(b""), HISTORY),
        (lambda d: shutil.copy(of_another(d) / HEAD, d), HEAD),
        (lambda d: shutil.copy(of_another(d) / HISTORY, d), HISTORY),
        (lambda d: shutil.copytree(of_another(d), d, dirs_exist_ok=True), HEAD),
        (lambda d: append(d, 3, "live", "3" * 64), HISTORY),
        (old_release, HISTORY),
        (lambda d: (d / HISTORY).write_bytes((d / HISTORY).read_bytes()[:-1]), HISTORY),
        (lambda d: (d / HISTORY).write_bytes((d / HISTORY).read_bytes() + b"\n"), HISTORY),
    ],
)  # fmt: skip
def test_replaced_and_continued_files(model_dir: Path, spoil: Callable[[Path], object], named: str) -> None:
    """A file that is gone, empty, or another model's is refused, and so is a line that was added without the key."""
    spoil(model_dir)
    problems = chain_problems(model_dir, PUBLICS, model="m")
    assert any(str(model_dir / named) in problem for problem in problems), problems


def test_a_cut_end_shows_where_a_digest_was_noted(model_dir: Path) -> None:
    """History and head of an earlier day belong together; only a digest that was noted since then shows the cut."""
    earlier = {name: (model_dir / name).read_bytes() for name in (HISTORY, HEAD)}
    append(model_dir, 3, "live", "3" * 64, SIGNER)
    noted = head_digest(model_dir)
    for name, data in earlier.items():
        (model_dir / name).write_bytes(data)
    assert chain_problems(model_dir, PUBLICS) == []
    [problem] = chain_problems(model_dir, PUBLICS, noted)
    assert str(model_dir / HISTORY) in problem
    assert "cut off" in problem


def test_a_key_that_is_not_trusted(model_dir: Path) -> None:
    """A head that another key signed is refused, and so is a whole history that was written again with it."""
    [problem] = chain_problems(model_dir, OTHER.publics)
    assert str(model_dir / HEAD) in problem
    shutil.rmtree(model_dir)
    signed(model_dir, OTHER)
    assert any(str(model_dir / HEAD) in problem for problem in chain_problems(model_dir, PUBLICS))


def test_an_upgrade_goes_on(tmp_path: Path) -> None:
    """The first line of this release commits to all that an earlier release wrote, which stays readable."""
    model_dir = tmp_path / "m"
    old_release(model_dir)
    before = (model_dir / HISTORY).read_bytes()
    assert "earlier releases" in chain_problems(model_dir, ())[0]
    append(model_dir, 4, "live", "4" * 64, SIGNER)
    append(model_dir, 5, "live", "5" * 64, SIGNER)
    assert [entry.version for entry in read(model_dir)] == [1, 2, 3, 4, 5]
    assert chain_problems(model_dir, PUBLICS) == []
    for place in range(0, len(before), 7):
        changed = bytearray((model_dir / HISTORY).read_bytes())
        changed[place] ^= 1
        (model_dir / HISTORY).write_bytes(changed)
        assert chain_problems(model_dir, ()), place
        changed[place] ^= 1
        (model_dir / HISTORY).write_bytes(changed)
    assert chain_problems(model_dir, PUBLICS, digest="a" * 64) == [
        f"'{model_dir / HISTORY}' does not say with a signature that the bytes {'a' * 12} went live: line 3 was "
        "written without the key"
    ]


def test_lines_without_the_key_stay_unsigned(model_dir: Path) -> None:
    """A line that somebody added is covered by the next head, but is never taken for one of the key's holder."""
    append(model_dir, 9, "live", "9" * 64, actor="mallory")
    append(model_dir, 10, "live", "b" * 64, SIGNER)
    assert chain_problems(model_dir, PUBLICS) == []
    assert chain_problems(model_dir, PUBLICS, digest="b" * 64) == []
    assert chain_problems(model_dir, PUBLICS, digest="2" * 64) == []
    [problem] = chain_problems(model_dir, PUBLICS, digest="9" * 64)
    assert "line 7 was written without the key" in problem
    append(model_dir, 11, "live", "2" * 64)  # a rollback from a machine without the key, to bytes of a signed promotion
    append(model_dir, 10, "rolled back", "b" * 64, SIGNER)
    assert chain_problems(model_dir, PUBLICS, digest="2" * 64) == []


def test_a_removed_head_signs_nothing_afterwards(model_dir: Path) -> None:
    """Who removes the head does not get an invented line signed by the next change."""
    (model_dir / HEAD).unlink()
    append(model_dir, 9, "live", "9" * 64, actor="mallory")
    append(model_dir, 10, "live", "b" * 64, SIGNER)
    assert chain_problems(model_dir, PUBLICS, digest="9" * 64)
    assert chain_problems(model_dir, PUBLICS, digest="b" * 64) == []


def test_two_machines_with_a_key_each(model_dir: Path) -> None:
    """A head of a trusted key is continued; one of an unknown key makes all lines before it unsigned."""
    append(model_dir, 3, "live", "3" * 64, Signer(OTHER.key, PUBLICS))
    append(model_dir, 4, "live", "4" * 64, Signer(SIGNER.key, OTHER.publics))
    assert chain_problems(model_dir, PUBLICS, digest="3" * 64) == []
    append(model_dir, 5, "live", "5" * 64, OTHER)
    assert chain_problems(model_dir, OTHER.publics, digest="5" * 64) == []
    assert chain_problems(model_dir, OTHER.publics, digest="3" * 64) != []


def test_the_line_that_only_the_head_has(model_dir: Path) -> None:
    """After a crash between head and line, the history is refused until the line is added again from the head."""
    whole = (model_dir / HISTORY).read_bytes()
    texts = texts_of(whole)
    for rest in (b"", texts[-1][:40]):
        (model_dir / HISTORY).write_bytes(b"".join(texts[:-1]) + rest)
        assert any("lacks line 6" in problem for problem in chain_problems(model_dir, PUBLICS)) or rest
        assert "only its signed head had" in finish_last_line(model_dir, only_look=True)
        assert (model_dir / HISTORY).read_bytes() != whole
        assert "only its signed head had" in finish_last_line(model_dir)
        assert (model_dir / HISTORY).read_bytes() == whole
        assert finish_last_line(model_dir) == ""
    (model_dir / HISTORY).write_bytes(b"".join(texts[:-1]))
    append(model_dir, 3, "live", "3" * 64)  # by a process without the key
    assert (model_dir / HISTORY).read_bytes().startswith(whole)
    assert [entry.version for entry in read(model_dir)] == [1, 1, 1, 2, 2, 2, 3]


def test_a_part_of_a_line_is_removed(model_dir: Path) -> None:
    """What a crash left of a line is no part of the chain; a line that only lacks its line break gets it."""
    whole = (model_dir / HISTORY).read_bytes()
    (model_dir / HISTORY).write_bytes(whole + b'{"actor":"x')
    assert "cut short" in chain_problems(model_dir, PUBLICS)[0]
    assert "cut short" in finish_last_line(model_dir)
    assert (model_dir / HISTORY).read_bytes() == whole
    (model_dir / HISTORY).write_bytes(whole[:-1])
    finish_last_line(model_dir)
    assert (model_dir / HISTORY).read_bytes() == whole
    assert chain_problems(model_dir, PUBLICS) == []


def test_a_full_disk(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head that cannot be written leaves the history as it was; a line that cannot be written is added later."""
    before = snapshot(model_dir)

    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(history, "_write_head", full)
        with pytest.raises(StoreError, match="No space left"):
            append(model_dir, 3, "live", "3" * 64, SIGNER)
    assert snapshot(model_dir) == before
    with monkeypatch.context() as broken:
        broken.setattr(history, "_add", full)
        with pytest.raises(StoreError, match="No space left"):
            append(model_dir, 3, "live", "3" * 64, SIGNER)
    finish_last_line(model_dir)
    assert [entry.version for entry in read(model_dir)][-1] == 3
    assert chain_problems(model_dir, PUBLICS) == []


def test_lines_of_two_machines_are_joined(model_dir: Path, tmp_path: Path) -> None:
    """A mirror takes the store's history and adds its own lines, signed again only if they were signed."""
    theirs = snapshot(model_dir)
    append(model_dir, 3, "exported", "3" * 64, SIGNER)
    append(model_dir, 4, "exported", "4" * 64)
    append(model_dir, 3, "live", "3" * 64, SIGNER)
    here = snapshot(model_dir)
    elsewhere = signed(tmp_path / "elsewhere" / "m")
    for name, data in zip((HISTORY, HEAD), theirs, strict=True):
        (elsewhere / name).write_bytes(data)
    append(elsewhere, 5, "live", "5" * 64, SIGNER)
    data, head = snapshot(elsewhere)
    take(model_dir, data, head, ("exported",), SIGNER)
    assert [(entry.version, entry.state) for entry in read(model_dir)][6:] == [
        (5, "live"), (3, "exported"), (4, "exported"),
    ]  # fmt: skip
    problems = chain_problems(model_dir, PUBLICS)
    assert [problem for problem in problems if "line 9" in problem and "without the key" in problem] == problems != []
    append(model_dir, 6, "live", "6" * 64, SIGNER)
    assert chain_problems(model_dir, PUBLICS) == []
    once = snapshot(model_dir)
    take(model_dir, *once, ("exported",), SIGNER)
    assert snapshot(model_dir) == once != here


RIVAL = """
import sys
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric import ec
from tasks.proof.chain import Signer
from tasks.store.history import append
signer = Signer(ec.derive_private_key(1, ec.SECP256R1()))
for number in range(30):
    append(Path(sys.argv[1]), number, "exported", "d" * 64, signer, actor=sys.argv[2])
"""


def test_four_processes_with_a_key(tmp_path: Path) -> None:
    """Processes that add signed lines at once make one chain, and the head is that of the last line."""
    commands = [[sys.executable, "-c", RIVAL, str(tmp_path / "m"), f"process {n}"] for n in range(4)]
    for process in [subprocess.Popen(command, cwd=ROOT) for command in commands]:
        assert process.wait(600) == 0
    assert len(read(tmp_path / "m")) == 120
    assert chain_problems(tmp_path / "m", PUBLICS) == []


def test_odd_files_in_their_place(model_dir: Path) -> None:
    """A pipe, a directory or a link in place of a file is refused at once."""
    for name in (HISTORY, HEAD):
        kept = (model_dir / name).read_bytes()
        for make in (os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")):
            (model_dir / name).unlink()
            make(model_dir / name)
            assert any(str(model_dir / name) in problem for problem in chain_problems(model_dir, PUBLICS))
            (model_dir / name).rmdir() if (model_dir / name).is_dir() else (model_dir / name).unlink()
            (model_dir / name).write_bytes(kept)
    assert chain_problems(model_dir, PUBLICS) == []
    assert all(line.fields for line in lines_of((model_dir / HISTORY).read_bytes()))


def test_the_doctor_reports_a_history_that_was_edited(tmp_path: Path) -> None:
    """She names file and line, and changes nothing; a line of a process without the key is no fault."""
    store = Store(tmp_path / "live" / "m", tmp_path / "candidates", tmp_path / "aliases.json")
    store.promote(store.export())
    append(store.live, 7, "exported", "7" * 64)
    assert store.repair() == "[]"
    path = store.live / HISTORY
    edited = path.read_bytes().replace(b'"state":"validated"', b'"state":"rejected"')
    path.write_bytes(edited)
    found = store.repair()
    assert "reported" in found
    assert f"'{path}', line 3" in found
    assert path.read_bytes() == edited


def test_a_noted_digest_is_given_in_full(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first digits of a digest, as a table shows them, are a usage error and no finding."""
    keys.new(tmp_path / "k")
    assert verify.main(["--dir", "m/1", "--key", str(tmp_path / "k.pub"), "--head", "872b24bd818c"]) == 2
    assert "64 hexadecimal digits" in capsys.readouterr().err

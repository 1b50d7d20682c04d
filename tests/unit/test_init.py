"""The files that `init` writes for a table: which columns, under which names, and for what kind of target."""

from __future__ import annotations

import os
import runpy
from pathlib import Path
from typing import Any

import pytest

from configs.loading import load_config
from flows.init import main

TABLE = {
    "order id": [2**24 + 1 + n for n in range(40)],
    "e-mail": [f"{n}@example.org" for n in range(40)],
    "constant": ["x"] * 40,
    "mostly empty": [""] * 30 + ["1"] * 10,
    "Größe (cm)": [n / 7 for n in range(40)],
    "a b": [n % 3 for n in range(40)],
    "a-b": [("yes", "no")[n % 2] for n in range(40)],
    "self": [n % 5 for n in range(40)],
    "2nd": [n % 4 for n in range(40)],
    "price": [n * 1.5 for n in range(40)],
    "class": [("good", "bad", "ugly")[n % 3] for n in range(40)],
}


def written(tmp_path: Path, target: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Write the files for `TABLE` below another directory, and return what the module defines."""
    rows = [",".join(map(str, row)) for row in zip(*TABLE.values(), strict=True)]
    (tmp_path / "rows.csv").write_text("\n".join([",".join(TABLE), *rows]), encoding="utf-8")
    code = main([str(tmp_path / "new"), "--csv", str(tmp_path / "rows.csv"), "--target", target])
    assert code == 0, capsys.readouterr().err
    assert load_config(tmp_path / "new" / "cfg.yaml").name == "rows"
    return runpy.run_path(str(tmp_path / "new" / "my_model.py"))


def test_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names become ones that TensorFlow takes; ids, constants and empty columns are left out and said."""
    made = written(tmp_path, "class", capsys)
    assert made["COLUMNS"] == {
        "Größe (cm)": "Grosse_cm", "a b": "a_b", "a-b": "a_b_2", "self": "input_self", "2nd": "input_2nd",
        "price": "price",
    }  # fmt: skip
    assert made["CLASSES"] == ["bad", "good", "ugly"]
    said = capsys.readouterr().out
    assert all(f"'{name}' is left out" in said for name in ("order id", "e-mail", "constant", "mostly empty"))
    features, target = made["load"]()
    assert {name: len(rows) for name, rows in features.items()} == dict.fromkeys(made["COLUMNS"].values(), 40)
    assert target[:3].tolist() == [1, 0, 2]


def test_a_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A number is predicted in its own unit: the spread and the mean of the target stand in the served graph."""
    made = written(tmp_path, "price", capsys)
    assert "CLASSES" not in made
    features, _target = made["load"]()
    model = made["build"](features)
    assert abs(float(model({name: rows[:1] for name, rows in features.items()}).numpy().item()) - 29.25) < 60


@pytest.mark.parametrize(
    ("content", "target", "words"),
    [
        ("a,b\n1,2\n", "c", "--target must name a column of"),
        ("a,b\n1,2\n2,3\n", None, "--csv needs --target COLUMN"),
        ("a,b\nx,1\nx,2\n", "b", "a column beside 'b' that a model can learn from"),
        ("a,b\n1,x\n2,x\n", "b", "2 to 100 different values or be a number, got 1"),
        ("a,b\n1,\n2,\n", "b", "rows without missing values"),
        ("", "b", "a readable table with a header"),
        ("a,b\n", "b", "must have rows below its header, and it has none"),
        ("a,b\nx,1\nx,2\n", "b", "'a' is left out because it has only one value"),
        ("a,b\n1,3.5\n2,3.5\n", "b", "at least 2 different values, got 3.5 in every row"),
        ("a,b\n1,7\n2,7\n", "b", "at least 2 different values, got 7 in every row"),
    ],
)
def test_tables_that_cannot_be_used(
    tmp_path: Path, content: str, target: str | None, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be used is one line and exit code 2, and nothing is written."""
    (tmp_path / "rows.csv").write_text(content)
    options = ["--target", target] if target else []
    assert main([str(tmp_path / "new"), "--csv", str(tmp_path / "rows.csv"), *options]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_whole_numbers_with_gaps_are_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing cell makes floats of a column, and its whole numbers are classes as before; texts are single lines."""
    rows = [f'{n},"two\nlines {n % 3}",{n % 2 if n % 9 else ""}' for n in range(45)]
    (tmp_path / "rows.csv").write_text("\n".join(["a,note,late", *rows]))
    assert main([str(tmp_path / "new"), "--csv", str(tmp_path / "rows.csv"), "--target", "late"]) == 0
    said = capsys.readouterr().out
    assert "'note' is left out because its texts have line breaks" in said
    assert "5 of 45 rows are left out because a value is missing in them." in said
    made = runpy.run_path(str(tmp_path / "new" / "my_model.py"))
    assert made["CLASSES"] == [0, 1]
    assert made["load"]()[1].tolist() == [n % 2 for n in range(45) if n % 9]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("", ["--target", "b"], "--target names a column of a table, got 'b' without one; add --csv FILE"),
        ("rows.csv.gz", ["--target", "b"], "Not a gzipped file"),
        ("pipe", ["--target", "b"], "--csv must name a file, which every run reads again"),
    ],
)
def test_options_that_cannot_be_used(
    tmp_path: Path, name: str, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A target without a table, a file of another form, and what can be read only once, are refused."""
    (tmp_path / "rows.csv.gz").write_text("a,b\n1,2\n2,3\n")
    os.mkfifo(tmp_path / "pipe")
    table = ["--csv", str(tmp_path / name)] if name else []
    assert main([str(tmp_path / "new"), *table, *options]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_an_error_that_nobody_foresaw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is one line and no traceback."""

    def fails(*_words: object, **_settings: object) -> None:
        raise MemoryError("no\nmore")

    monkeypatch.setattr("pandas.read_csv", fails)
    (tmp_path / "rows.csv").touch()
    assert main([str(tmp_path / "new"), "--csv", str(tmp_path / "rows.csv"), "--target", "b"]) == 1
    assert capsys.readouterr().err == "error: MemoryError: no more\n"


def test_no_file_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where one of the two files is there, neither is written."""
    (tmp_path / "my_model.py").write_text("mine\n")
    assert main([str(tmp_path)]) == 2
    assert "init does not replace files" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["my_model.py"]

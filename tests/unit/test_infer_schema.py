"""What `infer-schema` writes: a configuration that runs as it is, with a comment at every doubt."""

from __future__ import annotations

import datetime as dt
import sys
from pathlib import Path
from types import FrameType

import numpy as np
import pyarrow as pa
import pytest
import yaml
from pyarrow import parquet

from configs.loading import load_config
from flows.infer_schema import main
from tasks.datasets.column_facts import facts_of_files
from tasks.datasets.column_files import BLOCK
from tasks.datasets.declared_rows import read_declared
from tasks.datasets.guess import input_names
from tasks.errors import WrongFile

ROWS = 60
TABLE = {
    "order id": [f"A{n}" for n in range(ROWS)],
    "number_id": list(range(ROWS)),
    "Größe (cm)": [n / 7 for n in range(ROWS)],
    "class": [("good", "bad", "")[n % 3] for n in range(ROWS)],
    "zip": [f"0{n % 9}100" for n in range(ROWS)],
    "stars": [n % 5 for n in range(ROWS)],
    "customer_id": [n % 20 + 1 for n in range(ROWS)],
    "serial": [2**40 + n % 12 for n in range(ROWS)],
    "paid": [n % 2 for n in range(ROWS)],
    "member": [("yes", "no")[n % 2] for n in range(ROWS)],
    "day": [f"2026-01-{n % 28 + 1:02}" for n in range(ROWS)],
    "at": [f"2026-01-{n % 28 + 1:02}T10:00:00" for n in range(ROWS)],
    "note": [f'"call {n} times, then ring"' for n in range(ROWS)],
    "constant": ["x"] * ROWS,
    "mostly empty": [""] * (ROWS - 10) + ["1"] * 10,
    "weight": ["" if n % 10 == 0 else n * 1.5 for n in range(ROWS)],
    "code": [("p", "q", "r")[n % 3] for n in range(ROWS)],
    "noise": [("0.3", "0.30000000000000004")[n % 2] for n in range(ROWS)],
    "network": [2**63 + n % 5 for n in range(ROWS)],
    "grade": [("low", "mid", "top")[n % 3] for n in range(ROWS)],
}
KINDS = {
    "Grosse_cm": "number", "input_class": "category", "zip": "category", "stars": "number", "customer_id": "integer_id",
    "serial": "integer_id", "paid": "boolean", "member": "boolean", "day": "date", "at": "date", "note": "text",
    "weight": "number", "code": "category", "network": "category",
}  # fmt: skip


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Write the table."""
    lines = [",".join(map(str, row)) for row in zip(*TABLE.values(), strict=True)]
    (tmp_path / "rows.csv").write_text("\n".join([",".join(TABLE), *lines]) + "\n", encoding="utf-8")
    return tmp_path / "rows.csv"


def test_the_kinds(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each column has the kind of its values or is left out for a reason, and the file is read as it is declared."""
    out = rows.parent / "sub" / "cfg.yaml"
    out.parent.mkdir()
    assert main([str(rows), "--target", "grade", "--out", str(out)]) == 0, capsys.readouterr().err
    config = load_config(out)
    assert {name: feature.kind for name, feature in config.data.features.items()} == KINDS
    assert config.data.features["at"].unit == "seconds"
    assert set(config.data.ignore) == {"order id", "number_id", "constant", "mostly empty", "noise"}
    assert config.data.target.kind == "category"
    (features, _), classes = read_declared(config.data)
    assert classes == ("low", "mid", "top")
    assert features["zip"][0] == "00100"
    assert features["weight"][:2].tolist() == [-1, 1.5]
    assert "--config" in capsys.readouterr().out


def test_the_doubts(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Stand-ins, codes, ids, columns that give the target away and columns that are left out have a comment."""
    assert main([str(rows), "--target", "grade"]) == 0
    text = capsys.readouterr().out
    comments = {
        line.split(":")[0].strip(" -'"): line.partition(" # ")[2] for line in text.splitlines() if " # " in line
    }
    assert "6 of 60 values are missing; clients send this one in their place" in comments["weight"]
    assert "5 different whole numbers; integer_id if they are codes" in comments["stars"]
    assert "named like an id" in comments["customer_id"]
    assert "number with dtype int64 if they count" in comments["serial"]
    assert "the numbers 0 and 1" in comments["paid"]
    assert "each value goes with one value of grade only" in comments["code"]
    assert "days since 1970-01-01" in comments["day"]
    assert "left out because" in text.partition("ignore:")[2]
    assert "guessed from all of its 60 rows" in text
    assert yaml.safe_load(text)["data"]["target"] == {
        "name": "grade", "kind": "category", "classes": ["low", "mid", "top"],
    }  # fmt: skip


def test_parquet_in_several_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All files of a pattern are looked at, and types of Parquet are taken as they are; nested ones are left out."""
    for part in (0, 1):
        table = pa.table({
            "a": pa.array([part + 0.5, None]), "when": pa.array([dt.datetime(2026, 1, 1, 10)] * 2),
            "city": pa.array(["x", "y"]).dictionary_encode(), "list": [[1], [2]], "flag": [True, False],
            "y": [1.5, 2.5 + part],
        })  # fmt: skip
        parquet.write_table(table, tmp_path / f"part{part}.parquet")
    assert main([str(tmp_path / "part*.parquet"), "--target", "y"]) == 0
    found = yaml.safe_load(capsys.readouterr().out)["data"]
    assert {name: feature["kind"] for name, feature in found["features"].items()} == {
        "a": "number", "city": "category", "flag": "boolean",
    }  # fmt: skip
    assert found["ignore"] == ["when", "list"]
    assert found["features"]["a"]["missing"] == -1
    assert found["target"] == {"name": "y", "kind": "number"}


def test_files_with_other_types(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A column may have types that one kind reads, of float16 too; others leave it out, and the comment says why."""
    first = {"at": [dt.date(2026, 1, 1 + n) for n in range(20)], "odd": [True, False] * 10, "size": [1, 2] * 10}
    other = {"at": [dt.datetime(2026, 2, 1 + n, 8) for n in range(20)], "odd": [1, 2] * 10, "size": ["3", "4"] * 10}
    for name, table in (("1", first), ("2", other)):
        halves = pa.array(np.arange(20, dtype="float16"))
        parquet.write_table(pa.table({**table, "half": halves, "y": [0, 1] * 10}), tmp_path / f"{name}.parquet")
    out = tmp_path / "cfg.yaml"
    assert main([str(tmp_path / "*.parquet"), "--target", "y", "--out", str(out)]) == 0, capsys.readouterr().err
    config = load_config(out)
    assert {name: feature.kind for name, feature in config.data.features.items()} == {
        "at": "date", "size": "number", "half": "number",
    }  # fmt: skip
    (features, _), _ = read_declared(config.data)
    assert features["at"][[0, 20]].tolist() == [1767225600, 1769932800]
    assert features["half"][19] == 19
    assert "values of one type in all files, got boolean and whole" in out.read_text()


def test_every_row_is_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The last row of a file of several blocks decides as well: its word is named in a column of numbers."""
    cells = [f"{n},{'x' * 200},{n % 2}" for n in range(BLOCK // 200 + 1000)]
    (tmp_path / "rows.csv").write_text("\n".join(["a,long,y", *cells, "one,x,0"]))
    assert main([str(tmp_path / "rows.csv"), "--target", "y"]) == 0
    text = capsys.readouterr().out
    assert "most values are numbers, but 'one' is not" in text
    assert f"guessed from all of its {len(cells) + 1:,} rows" in text


def test_texts_among_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A column of numbers with `NA` is declared as numbers with a comment, and a run refuses the text by its row."""
    cells = [
        f"{'NA' if n % 10 == 3 else n * 0.5},{'NA' if n % 10 == 3 else f'0{n}' if n % 3 else n},{n % 2}"
        for n in range(60)
    ]
    (tmp_path / "rows.csv").write_text("\n".join(["a,zip,y", *cells]))
    out = tmp_path / "cfg.yaml"
    assert main([str(tmp_path / "rows.csv"), "--target", "y", "--out", str(out)]) == 0
    assert "most values are numbers, but 'NA' is not, which a run refuses" in out.read_text()
    config = load_config(out)
    assert {name: feature.kind for name, feature in config.data.features.items()} == {"a": "number"}
    with pytest.raises(WrongFile, match="got 'NA' in row 3 and in 5 more rows"):
        read_declared(config.data)


STRANGE = {
    "": range(60),
    "Temp (°C)": ["" if n % 9 == 1 else n - 30 for n in range(60)],
    "height_m": ["" if n % 9 == 1 else f"1200000000.{n}" for n in range(60)],
    "state": [("", "unknown", "on")[n % 3] for n in range(60)],
    "since": ["" if n % 9 == 1 else f"1970-01-{n % 28 + 1:02}" for n in range(60)],
    "open": [("", "true", "false")[n % 3] for n in range(60)],
    "huge": ["" if n % 9 == 1 else f"-{n + 1}e20" for n in range(60)],
    "y": [n * 0.5 for n in range(60)],
}


def test_stand_ins_that_no_row_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A value for missing ones is none that the column has, and the written file is read as it is."""
    lines = [",".join(map(str, row)) for row in zip(*STRANGE.values(), strict=True)]
    (tmp_path / "rows.csv").write_text("\n".join([",".join(STRANGE), *lines]), encoding="utf-8")
    out = tmp_path / "cfg.yaml"
    assert main([str(tmp_path / "rows.csv"), "--target", "y", "--out", str(out)]) == 0, capsys.readouterr().err
    config, text = load_config(out), out.read_text()
    assert {name: feature.missing for name, feature in config.data.features.items()} == {
        "Temp_C": -100, "height_m": -1, "state": "missing", "since": "1900-01-01", "open": False, "huge": None,
    }  # fmt: skip
    assert config.data.features["height_m"].dtype == "float64"
    assert "set missing to a value that the column does not have" in text
    assert "which the model cannot tell from a false" in text
    (tmp_path / "without.yaml").write_text("\n".join(line for line in text.splitlines() if " huge:" not in line))
    (features, _), _ = read_declared(load_config(tmp_path / "without.yaml", ["data.ignore=huge"]).data)
    assert features["Temp_C"][:2].tolist() == [-30, -100]


def test_a_column_keeps_a_valid_name() -> None:
    """No other column takes it, case is kept, and names that differ in case only are told apart for TensorFlow."""
    columns = ["a.b", "a_b", "A_B", "Age", "Größe", "_", "", "None", "x_"]
    assert input_names(columns) == {
        "a.b": "a_b_3", "a_b": "a_b", "A_B": "A_B_2", "Age": "Age", "Größe": "Grosse", "_": "input", "": "input_2",
        "None": "input_None", "x_": "x_",
    }  # fmt: skip
    assert list(input_names(columns)) == columns


@pytest.mark.parametrize(
    ("cells", "kind", "comment"),
    [
        ([f"{n}.5" if n % 9 else "NA" for n in range(60)], "number", "most values are numbers, but 'NA' is not"),
        ([f"{n}.5" if n % 9 else " " for n in range(60)], "number", "numbers, but an empty or blank text is not"),
        (["+1", "2"] * 30, "category, classes: ['+1', '2']", "2 classes; number if it counts"),
        ([f"{n % 3}.0" for n in range(60)], "number", "3 different numbers; category if they are classes"),
        ([f'"{n},50"' for n in range(160)], "category}", "a number must have digits and a decimal point only"),
    ],
)
def test_doubts_about_the_target(
    tmp_path: Path, cells: list[str], kind: str, comment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A text among numbers is no reason for a thousand classes, and few numbers with a point may be classes."""
    (tmp_path / "rows.csv").write_text("\n".join(["a,y", *(f"{n * 0.5},{cell}" for n, cell in enumerate(cells))]))
    assert main([str(tmp_path / "rows.csv"), "--target", "y"]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  target:")]
    assert f"kind: {kind}" in line
    assert comment in line


@pytest.mark.parametrize(
    ("words", "content", "said"),
    [
        (["rows.csv", "--target", "z"], "a,y\n1,2\n", "--target must name a column of"),
        (["rows.csv", "--target", "y"], "a,y\n1,2\n1,3\n", "'a' is left out because it has only one value"),
        (["rows.csv", "--target", "y"], "a,y\n1,2\n3,2\n", "must have at least 2 different values"),
        (["rows.csv", "--target", "y"], "a,y\n", "must have rows"),
        (["rows.csv", "--target", "y"], "a;y\n1;2\n", "got 'y'; its cells must be separated by commas, not ';'"),
        (["rows.csv", "--target", "y"], "", "the columns are none, because the file has no header"),
        (["rows.csv", "--target", "y"], "a,a,y\n1,1,1\n", "has two 'a'"),
        (["none.csv", "--target", "y"], "", "nothing matches"),
        (["rows.json", "--target", "y"], "", "FILE must be .parquet, .csv, .csv.gz"),
        (["rows.csv", "--target", "y", "--out", "rows.csv"], "a,y\n1,2\n", "--out must be a new file"),
        (["rows.csv", "--target", "y", "--out", "no/cfg.yaml"], "a,y\n1,2\n", "--out must be a new file"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_used(
    tmp_path: Path, words: list[str], content: str, said: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Each is one line and exit code 2, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_text(content)
    assert main(words) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


def test_an_interrupt_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C while a large file is read ends the command without a traceback, and nothing is written."""
    (tmp_path / "rows.csv").write_text("a,y\n1,2\n3,4\n")
    out = tmp_path / "cfg.yaml"

    def interrupt(frame: FrameType, _event: str, _arg: object) -> None:
        if frame.f_code is facts_of_files.__code__:
            sys.setprofile(None)
            raise KeyboardInterrupt

    sys.setprofile(interrupt)
    try:
        assert main([str(tmp_path / "rows.csv"), "--target", "y", "--out", str(out)]) == 130
    finally:
        sys.setprofile(None)
    assert capsys.readouterr().err == "interrupted; nothing was written\n"
    assert not out.exists()

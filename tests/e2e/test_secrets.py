"""Secrets are planted in every field that takes one; then everything that the runs left is searched for them."""

from __future__ import annotations

import base64
import html
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml

pytestmark = pytest.mark.timeout(3600)  # a dozen runs, one after the other

OPEN = "this-stands-in-the-open"  # a value that is no secret, to see that the search finds what there is

# where a secret stands: what it is
PLANTED = {
    "data.params by name": "Kv9!planted-by-name&<1>",
    "data.params in a list": "planted in a list's 2",
    "data.params by ${NAME}": "planted-by-environment/3",
    "data.params a number": "480013579",
    "model.params nested": "planted-nested-4",
    "model.params a key of several lines": "-----BEGIN KEY-----\nplanted-in-a-key-of-lines-5\n-----END KEY-----",
    "--set of a param": "planted-by-set-6",
    "tracking.uri password": "planted%2Ftracking-7",
    "tracking.uri by ${NAME}": "planted-tracking-environment-8",
    "promote.live_url password": "planted-live-9",
    "a header of production": "planted-header-14",
    "a database's password": "planted/database#10",
    "a database's setting": "planted-setting-11",
    "a server that does not answer": "planted-nobody-12",
    "a value that is refused": "planted-refused-13",
}

PROJECT = """
import logging
import os

import numpy as np

def load(note, password, nested, heading, pin_token, extra=None):
    logging.getLogger("tasks.mine").warning("loading %s as %s with %s, %r", note, password, nested, heading)
    if os.environ.get("LOADER_FAILS"):
        try:
            raise ConnectionError(f"postgres://ann:{password}@db: {nested}", extra)
        except ConnectionError as exc:
            raise RuntimeError(f"login with {password!r}, {heading}, {pin_token}, {extra} refused") from exc
    return np.arange(400, dtype=np.float32).reshape(200, 2), np.arange(200) % 2

def build(features, deep, private_key, units=4):
    import keras
    if os.environ.get("BUILDER_FAILS"):
        raise ValueError(f"no model with {deep} and {private_key} " + 300 * "x" + str(deep))
    inputs = keras.Input((2,), name="x")
    model = keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(keras.layers.Dense(units)(inputs)))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
"""


def forms(secret: str) -> set[bytes]:
    """Return the byte strings that a secret may have been written as."""
    plain = secret.encode()
    texts = {
        secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], quote(secret), quote(secret, safe=""),
        html.escape(secret), html.escape(secret).replace("&#x27;", "&#39;").replace("&quot;", "&#34;"),
        " ".join(secret.split()),
        *(line for line in secret.splitlines() if "BEGIN" not in line and "END" not in line),
    }  # fmt: skip
    encoded = {base64.b64encode(plain).rstrip(b"="), base64.b64encode(b"ann:" + plain).rstrip(b"=")}
    return {text.encode() for text in texts} | encoded | {plain.hex().encode()}


@pytest.fixture(scope="module")
def production(open_server: Callable[[], Any]) -> Any:
    """Return a production server that is not started yet."""
    return open_server()


@pytest.fixture(scope="module")
def user(user: Any, mlflow_server: str, production: Any) -> Any:
    """Return a workspace whose configuration holds a secret in every field that takes one."""
    uri = mlflow_server.replace("http://", f"http://ann:{PLANTED['tracking.uri password']}@")
    live = production.url.replace("http://", f"http://ann:{PLANTED['promote.live_url password']}@")
    (user.directory / "project.py").write_text(PROJECT)
    whole = {
        "name": "mine",
        "data": {"load": "project:load", "params": {
            "note": OPEN, "password": PLANTED["data.params by name"], "pin_token": int(PLANTED["data.params a number"]),
            "nested": {"all": [{"client_secret": PLANTED["data.params in a list"]}]}, "heading": "Bearer ${MINE}",
        }},
        "model": {"build": "project:build", "params": {
            "deep": {"er": {"api_key": PLANTED["model.params nested"]}},
            "private_key": PLANTED["model.params a key of several lines"],
        }},
        "training": {"epochs": 1},
        "tracking": {"uri": uri},
        "promote": {
            "live_url": live, "live_timeout_s": 120,
            "live_headers": {"X-Api-Key": PLANTED["a header of production"]},
        },
    }  # fmt: skip
    (user.directory / "cfg.yaml").write_text(yaml.safe_dump(whole))
    (user.directory / "tmp").mkdir()
    user.env |= {
        "MINE": PLANTED["data.params by ${NAME}"],
        "THEIRS": PLANTED["tracking.uri by ${NAME}"],
        "TMPDIR": str(user.directory / "tmp"),
    }
    return user


def run(user: Any, *args: str, flow: str = "train_and_serve", **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, and keep what it printed among what is searched."""
    command = [sys.executable, "-m", f"flows.{flow}", "--config", "cfg.yaml", "--set", "serving.backend=embedded"]
    command += [*args, "--set", f"data.params.extra={{password: {PLANTED['--set of a param']}}}"]
    done = subprocess.run(
        command, cwd=user.directory, env=user.env | env, capture_output=True, text=True, timeout=500, check=False
    )  # fmt: skip
    screens = user.directory / "screens"
    screens.mkdir(exist_ok=True)
    (screens / f"{len(list(screens.iterdir()))}.txt").write_text(done.stdout + done.stderr)
    return done


@pytest.fixture(scope="module")
def outcomes(user: Any, production: Any) -> dict[str, subprocess.CompletedProcess[str]]:
    """Do everything that can be done with a configuration, well and badly."""
    database = "postgresql://ann:{}@127.0.0.1:1/db?sslpassword={}".format(
        PLANTED["a database's password"], PLANTED["a database's setting"]
    )
    nobody = f"http://ann:{PLANTED['a server that does not answer']}@127.0.0.1:9"
    refused = f"http://ann:{PLANTED['a value that is refused']}@host:99999"
    (user.models_root / "mine").mkdir(parents=True)
    production.watch(user.models_root / "mine")
    theirs = yaml.safe_load((user.directory / "cfg.yaml").read_text())["tracking"]["uri"]
    by_name = theirs.replace(PLANTED["tracking.uri password"], "${THEIRS}")
    return {
        "promoted": run(user),
        "dry run": run(user, "--dry-run"),
        "loader fails": run(user, "--debug", LOADER_FAILS="1"),
        "builder fails": run(user, "--debug", BUILDER_FAILS="1"),
        "waits": run(
            user, "--set", "promote.mode=review", "--set", "model.params.units=8", "--set", f"tracking.uri={by_name}"
        ),
        "approved": run(user, "--version", "2", "--approve", "--by", "ann", flow="promote"),
        "back": run(user, "--by", "ann", flow="rollback"),
        "not taken": run(user, "--set", "promote.live_url=" + nobody, "--set", "promote.live_timeout_s=1"),
        "doctor": run(user, "--debug", flow="doctor"),
        "database": run(user, "--debug", "--set", f"tracking.uri={database}"),
        "nobody": run(user, "--debug", "--set", f"tracking.uri={nobody}"),
        "refused": run(user, "--debug", "--set", f"tracking.uri={refused}"),
    }


CODES = {
    "promoted": 0, "dry run": 0, "loader fails": 1, "builder fails": 1, "waits": 0, "approved": 0,
    "back": 0, "not taken": 1, "database": 1, "nobody": 1, "refused": 2,
}  # fmt: skip


def test_the_runs_did_what_they_are_here_for(outcomes: dict[str, Any]) -> None:
    """Each secret did its work: production was verified, MLflow was told, and what fails fails for its own reason."""
    assert {name: outcomes[name].returncode for name in CODES} == CODES, "\n".join(
        f"{name}: {done.stdout}{done.stderr}" for name, done in outcomes.items()
    )
    assert "${MINE}" in outcomes["loader fails"].stderr
    assert "Traceback" in outcomes["loader fails"].stderr
    assert "Bearer ${MINE}" in outcomes["dry run"].stdout
    assert "*** is a secret" in " ".join(outcomes["promoted"].stdout.split())


def places(user: Any, basetemp: Path, home: Path) -> Iterator[tuple[str, bytes]]:
    """Give name and bytes of every file that the runs left, and of what lies in archives."""
    roots = [user.directory, home, *basetemp.glob("mlflow*"), *basetemp.glob("server*")]
    for path in sorted({path for root in roots for path in root.rglob("*")}):
        if not path.is_file() or path.name in ("cfg.yaml", "project.py"):
            continue
        content = path.read_bytes()
        yield str(path), content
        if zipfile.is_zipfile(io.BytesIO(content)):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                yield from ((f"{path}:{name}", archive.read(name)) for name in archive.namelist())


def test_nothing_holds_a_secret(
    user: Any, outcomes: dict[str, Any], prefect_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """No file, database, artifact, log or screen holds one, in whatever form; what is no secret is there to be read."""
    sought = {form: where for where, secret in PLANTED.items() for form in forms(secret)}
    home = Path(prefect_env["PREFECT_HOME"])
    found, in_the_open = [], set()
    for name, content in places(user, tmp_path_factory.getbasetemp(), home):
        found += [f"{where} in {name} as {form!r}" for form, where in sought.items() if form in content]
        if OPEN.encode() in content:
            in_the_open.add(Path(name).name)
    assert not found, "\n".join(found)
    assert {"config.json", "report.html", "mlflow.db"} <= in_the_open  # of MLflow: artifacts, database
    assert any(name.startswith("prefect.db") for name in in_the_open)  # the log and parameters of runs
    assert any(name.endswith(".txt") for name in in_the_open)  # the screens

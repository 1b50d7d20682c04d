"""What is a secret, and that no edge shows one."""

from __future__ import annotations

import base64
import io
import json
import logging
import sys
from pathlib import Path
from urllib.parse import quote

import markupsafe
import pytest

from configs.loading import ConfigError, arguments, load_config, shown, without_secrets
from configs.redaction import MASK, clean, clean_record, names_a_secret, redact, redacted, remember
from configs.yaml_text import parse_yaml
from flows.streams import our_streams
from tasks.datasets.user_code import describe

MINIMAL = "name: m\ndata: {load: 'tests.data.any_parameters:load'}\nmodel: {build: 'tests.data.any_parameters:build'}\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a minimal configuration."""
    file = tmp_path / "cfg.yaml"
    file.write_text(MINIMAL)
    return file


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see http://ann:hunter2@host:5000/x", "see http://***@host:5000/x"),
        ("https://a-token@host", "https://***@host"),
        ("postgresql+psycopg2://ann:p/w?#d@db/mlflow", "postgresql+psycopg2://***@db/mlflow"),
        ("mysql://ann:${DB_PW}@db", "mysql://ann:${DB_PW}@db"),
        ("http://host/?token=abc&page=2", "http://host/?token=***&page=2"),
        ("https://host/blob?sv=1&sig=ab%2Fc", "https://host/blob?sv=1&sig=***"),
        ("host=db user=ann password='a b' dbname=x", "host=db user=ann password=*** dbname=x"),
        ("AccountName=a;AccountKey=abc==;X=1", "AccountName=a;AccountKey=***;X=1"),
        ("--set data.params.api_key=k1 --set seed=3", "--set data.params.api_key=*** --set seed=3"),
        ("max_tokens=512 token_ids=ids tokenizer=bert", "max_tokens=512 token_ids=ids tokenizer=bert"),
        ("When using `pad_to_max_tokens=False`, auth=None", "When using `pad_to_max_tokens=False`, auth=None"),
        ('{"password": "a \\" b", "user": "ann"}', '{"password": "***", "user": "ann"}'),
        ("got {'db_password': 'p', 'port': 5}", "got {'db_password': '***', 'port': 5}"),
        ('{"token": "int64", "password": 5}', '{"token": "int64", "password": 5}'),
        ("'password': unknown", "'password': unknown"),
        ("Driver=x;PWD={a;b=c};X=1", "Driver=x;PWD=***;X=1"),
        ("http://host:8501/v1/models/m@x and git@host:x", "http://host:8501/v1/models/m@x and git@host:x"),
        ("registry:5000/image@sha256:abc", "registry:5000/image@sha256:abc"),
    ],
)
def test_what_looks_like_a_secret_in_a_text(text: str, expected: str) -> None:
    """Credentials of addresses and of settings are hidden in any text, once and for all; nothing else is."""
    assert redact(text) == expected
    assert redact(expected) == expected


@pytest.mark.parametrize(
    "name",
    ["password", "dbPassword", "HF_TOKEN", "api-key", "apikey", "clientSecret", "PWD", "auth", "password_1", "db_pw",
     "Ocp-Apim-Subscription-Key", "x-functions-key", "X-Auth-Key"],
)  # fmt: skip
def test_names_of_secrets(name: str) -> None:
    """A secret is known by its name, in any spelling."""
    assert names_a_secret(name, "x")


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_tokens", 512), ("max_tokens", 50_000_000), ("token_dim", 64), ("pad_token", 0), ("tokenizer", "bert"),
     ("key", "id"), ("author", "ann"), ("monkey", "x"), ("keys", "x")],
)  # fmt: skip
def test_names_of_others(name: str, value: object) -> None:
    """A size or a column is no secret."""
    assert not names_a_secret(name, value)


def test_values_below_a_secret_name_are_hidden() -> None:
    """Whatever stands below such a name is hidden, and a number, too; what stands beside it is not."""
    value = {"credentials": {"user": "ann", "ids": [1, None, True]}, "list": [{"token": "abc"}], "rows": 5}
    hidden = {"credentials": {"user": MASK, "ids": [MASK, None, True]}, "list": [{"token": MASK}], "rows": 5}
    assert redacted(value, named=True) == hidden
    assert redacted({"token_ids": "int64"}) == {"token_ids": "int64"}  # the name of an input, outside of params


FORMS = {
    "plain": lambda secret: secret,
    "json": json.dumps,
    "ascii": lambda secret: json.dumps(secret, ensure_ascii=True),
    "python": repr,
    "address": lambda secret: quote(secret, safe=""),
    "base64": lambda secret: base64.b64encode(secret.encode()).decode(),
    "html": lambda secret: str(markupsafe.escape(secret)),
    "one line": lambda secret: " ".join(secret.split()),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("secret", ["plain-secret-1", "sëcret & <2>", 'it\'s "3" sec/ret', "two\nlines of a long key"])
def test_a_known_secret_in_every_form(form: str, secret: str) -> None:
    """A secret is hidden as programs write it: escaped, encoded, in the middle of a word."""
    remember(secret)
    written = FORMS[form](secret)
    assert redact(f"before{written}after".replace(written, f" {written} ")).split() == ["before", MASK, "after"] or (
        secret not in redact(written) and MASK in redact(written)
    )


def test_long_and_binary_secrets(path: Path) -> None:
    """A token of some thousand characters in an address is hidden, and one that YAML writes as bytes."""
    token = "t0ken." * 500
    config = load_config(path, [f"tracking.uri=https://ann:{token}@host", "data.params.password=!!binary aW4tYnl0ZXM="])
    assert token not in redact(f"no answer from {config.tracking.uri}")
    assert redact("the password is in-bytes") == f"the password is {MASK}"
    assert config.data.params["password"] == b"in-bytes"
    assert shown(config)["data"]["params"] == {"password": MASK}


def test_digits_are_no_secret_within_a_number() -> None:
    """A secret of digits alone does not cut other numbers."""
    remember("48151623")
    assert redact("48151623 and 1481516230") == f"{MASK} and 1481516230"


def test_short_secret_is_hidden_where_it_stands(path: Path) -> None:
    """A secret of a few letters is hidden in its place, and the rest of the text is left alone."""
    config = load_config(path, ["data.params={password: data}", "tracking.uri=http://a:b@host"])
    assert shown(config)["data"]["params"] == {"password": MASK}
    assert shown(config)["tracking"]["uri"] == "http://***@host"
    assert redact("data.load") == "data.load"


@pytest.mark.parametrize(
    ("override", "secret"),
    [
        ("data.params.headers={Authorization: Bearer t0ken-of-a-header}", "t0ken-of-a-header"),
        ("data.params.auth='basic YW5uOnBhc3N3b3JkLW9mLWFubg=='", "password-of-ann"),
        ('data.params.options=\'{"password": "within-json-text"}\'', "within-json-text"),
        ("data.params.dsn='PWD={within;braces}'", "within;braces"),
    ],
)
def test_secrets_within_a_value(path: Path, override: str, secret: str) -> None:
    """A header's token, its decoded password and a password within a text are secrets by themselves."""
    assert secret not in json.dumps(shown(load_config(path, [override])))
    assert secret not in redact(f"login with {secret} failed")


@pytest.mark.parametrize("field", ["training.epochs", "promote.mode", "gates.allow_breaking", "data.test_fraction"])
def test_a_variable_that_its_field_does_not_take(path: Path, monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    """A wrong variable may hold a secret: the refusal shows its name; what the field takes is shown as it is."""
    monkeypatch.setenv("REHEARSAL_WRONG", "a-password-by-mistake")
    with pytest.raises(ConfigError, match=rf"'{field}'.*got '\$\{{REHEARSAL_WRONG\}}'"):
        load_config(path, [f"{field}=${{REHEARSAL_WRONG}}"])
    monkeypatch.setenv("REHEARSAL_MODE", "review")
    assert shown(load_config(path, ["promote.mode=${REHEARSAL_MODE}"]))["promote"]["mode"] == "review"
    assert redact("review") == "review"


def test_values_of_the_environment(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`${NAME}` in any text value is the variable's value; it is shown as it was written."""
    monkeypatch.setenv("REHEARSAL_DB_PW", "from-the-env-1")
    monkeypatch.setenv("REHEARSAL_EPOCHS", "7")
    monkeypatch.setenv("REHEARSAL_NAME", "environed")
    overrides = [
        "tracking.uri=postgresql://ann:${REHEARSAL_DB_PW}@db/x", "training.epochs=${REHEARSAL_EPOCHS}",
        "data.params={a: [{b: 'x ${REHEARSAL_DB_PW} y'}], c: '$${REHEARSAL_DB_PW}', d: $$5}", "name=${REHEARSAL_NAME}",
    ]  # fmt: skip
    config = load_config(path, overrides)
    assert config.tracking.uri == "postgresql://ann:from-the-env-1@db/x"
    assert config.training.epochs == 7
    assert config.data.params == {"a": [{"b": "x from-the-env-1 y"}], "c": "${REHEARSAL_DB_PW}", "d": "$$5"}
    assert shown(config)["tracking"]["uri"] == "postgresql://ann:${REHEARSAL_DB_PW}@db/x"
    assert shown(config)["data"]["params"]["a"] == [{"b": "x ${REHEARSAL_DB_PW} y"}]
    assert shown(config)["name"] == "environed"
    assert without_secrets(overrides) == overrides
    monkeypatch.delenv("REHEARSAL_DB_PW")
    with pytest.raises(ConfigError, match=r"'tracking.uri' uses the environment variable REHEARSAL_DB_PW, which"):
        load_config(path, overrides[:1])


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("data.params.password=in-an-override", "data.params.password=***"),
        ('data.params={password: "in-an\\u002doverride", rows: 5}', 'data.params={"password": "***", "rows": 5}'),
        ("data.params.deep.token.x=in-an-override", "data.params.deep.token.x=***"),
        ("data={params: {password: pw}, load: 'tests.data.any_parameters:load'}",
         'data={"params": {"password": "***"}, "load": "tests.data.any_parameters:load"}'),
        ("tracking.uri=http://ann:in-an-override@h", "tracking.uri=http://***@h"),
        ("model.params.units=[1, 2]", "model.params.units=[1, 2]"),
        ("export.inputs={token_ids: tokens}", "export.inputs={token_ids: tokens}"),
        ("training.epochs=3", "training.epochs=3"),
    ],
)  # fmt: skip
def test_overrides_that_others_may_see(path: Path, item: str, expected: str) -> None:
    """Prefect and the printed commands get overrides without secrets; this process reads the real values from them."""
    config = load_config(path, [item])
    hidden = without_secrets([item])
    assert hidden == [expected]
    assert load_config(path, hidden) == config
    assert without_secrets(hidden) == hidden
    assert "in-an-override" not in arguments("cfg.yaml", [item])


@pytest.mark.parametrize(
    "text", ["a: {}", "{} #x", "[{}", "- {}", 'it\'s {} "x"', "{}", "{}\n{}", " {} ", "&a {}", "{}: "]
)
def test_what_stands_beside_a_hidden_secret(path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """An override whose secret became its variable again is read as the same text, whatever YAML stands beside it."""
    monkeypatch.setenv("REHEARSAL_PART", "part-of-a-text-1")
    load_config(path, ["data.params.note='${REHEARSAL_PART}'"])
    (hidden,) = without_secrets([f"data.params.note={json.dumps(text.replace('{}', 'part-of-a-text-1'))}"])
    assert "part-of-a-text-1" not in hidden
    value = parse_yaml(hidden.partition("=")[2])
    assert value == text.replace("{}", "${REHEARSAL_PART}")


@pytest.mark.parametrize(
    "item", ["data.params.secret=***", 'data.params.secret="***"', "tracking.uri=http://***@another"]
)
def test_a_hidden_secret_is_no_secret(path: Path, item: str) -> None:
    """What was copied from a screen is refused with what to do, and never used as the password."""
    with pytest.raises(ConfigError, match=r"\*\*\* stands for a hidden secret; replace it by the secret, or by \$"):
        load_config(path, [item])


@pytest.mark.parametrize(
    "item", ["tracking.uri=http://ann:a-refused-one@h:99999", "model.params=[{password: a-refused-one}]",
             "promote.live_url=http://ann:a-refused-one@h h", "data.params.password=[a-refused-one",
             "promote.live_url=ann:a-refused-one@h:1", "tracking.uri=ann:a-refused-one@h:1",
             "tracking.browser_url=ann:a-refused-one@h", "promote.live_urls=['ann:a-refused-one@h:1']"],
)  # fmt: skip
def test_an_error_of_the_configuration_shows_none(path: Path, item: str) -> None:
    """A refused value is shown without its secret, in the message and in what it came from."""
    with pytest.raises(ConfigError) as caught:
        load_config(path, [item])
    assert "a-refused-one" not in f"{caught.value} {caught.value.__cause__}"


def test_errors_and_log_records() -> None:
    """Errors that libraries raise, their causes and notes, and log records with tracebacks lose their secrets."""
    remember("raised-secret-1")
    try:
        try:
            raise OSError(2, "no raised-secret-1", "/raised-secret-1")
        except OSError as cause:
            cause.add_note("raised-secret-1")
            raise ValueError("connect to raised-secret-1", 5) from cause
    except ValueError as exc:
        assert describe(exc).startswith("ValueError: ('connect to ***', 5)")
        record = logging.makeLogRecord({"msg": "%s %d", "args": ("raised-secret-1", 5), "exc_info": sys.exc_info()})
        assert "raised-secret-1" not in logging.Formatter().format(clean_record(record))
        clean(exc)
        assert exc.args == ("connect to ***", 5)
        assert "raised-secret-1" not in f"{exc.__cause__} {getattr(exc.__cause__, '__notes__', '')}"


def test_every_logger_of_the_process(caplog: pytest.LogCaptureFixture) -> None:
    """Once a secret is known, no logger of any library passes it on."""
    remember("logged-secret-1")
    logging.getLogger("sqlalchemy.engine").warning("connecting with %s", {"password": "logged-secret-1"})
    assert caplog.messages == ["connecting with {'password': '***'}"]


def test_everything_on_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever writes to standard output or error, it is written without secrets; the stream is as before then."""
    remember("printed-secret-1")
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    with our_streams():
        print("out printed-secret-1", flush=True)  # noqa: T201
        print("err printed-secret-1", file=sys.stderr)  # noqa: T201
        sys.stdout.writelines(["printed-secret-1"])
        assert not sys.stdout.isatty()
    assert screen.getvalue() == "out ***\nerr ***\n***"
    assert sys.stdout is screen

"""Secrets: decides which values of a configuration are secret, and hides them in everything that is written.

    load_config ── remember(value) ──> the secrets known here
    screen, log record, error of a stage, MLflow, Prefect, report, history ── redact(text) ──> text without secrets

A configuration keeps its real values, because MLflow and the user's functions need them. Everything that people can
read is written through `redact` (text) or `redacted` (nested values).
"""

from __future__ import annotations

import base64
import contextlib
import html
import json
import logging
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus, unquote

MASK = "***"
HOW_TO_FILL_IN = "replace it by the secret, or by ${NAME}, which is read from the environment"
SHORTEST = 6  # characters; a shorter secret is hidden in its own field only, not in other texts
LONG_LINE = 16  # characters; each longer line of a multi-line key is a secret of its own

SCHEME = r"(?<![\w+.-])[A-Za-z][\w+.-]{0,40}://"
URL = re.compile(  # the second form is a password with a slash; digits would be a port. Bounds keep the search linear.
    rf"(?P<scheme>{SCHEME})(?P<user>[^\s/?#'\"<>]{{0,999}}|[^\s/?#:@'\"<>]{{0,99}}:(?!\d+[/?#\s])[^\s@'\"<>]{{0,999}})@"
)
LOOSE_URL = re.compile(rf"{SCHEME}[^:/@\s]{{0,99}}:(?P<password>[^@]{{1,999}})@")  # SQLAlchemy allows a slash in it
PAIR = re.compile(
    r"(?P<before>[?&]?)(?<![\w-])(?P<key>[A-Za-z_][\w-]*)=(?P<value>'[^']*'|\"[^\"]*\"|\{[^}]*\}|[^\s;&,'\"<>)\]]+)"
)
QUOTED = re.compile(  # in JSON, or in the repr of a dict
    r"(?P<key>(?P<mark>['\"])[\w.-]{1,99}(?P=mark)\s{0,9}:\s{0,9})"
    r"(?P<quote>['\"])(?P<value>(?:(?!(?P=quote))[^\\]|\\.){1,9999})(?P=quote)"
)
HEADER = re.compile(r"(?:Basic|Bearer|Token|ApiKey|Negotiate) +(\S+)", re.IGNORECASE)  # of Authorization
PRIVATE_KEY = re.compile(  # in PEM, which may have been cut
    r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)", re.DOTALL
)
REFERENCES = re.compile(r"(\$\{\w+\}|\*\*\*|:)+")
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
KEYS = (
    "api", "private", "access", "account", "shared", "signing", "encryption", "ssh", "master", "subscription",
    "functions", "auth",
)  # fmt: skip
WITHIN = ("password", "passwd", "passphrase", "secret", "credential", *(f"{kind}key" for kind in KEYS))
ENDINGS = ("token", "pwd")
WORDS = ("token", "tokens", "pwd", "auth", "authorization", "bearer", "cookie", "jwt", "passcode", "pw", "pass")
NO_SECRETS = ("True", "False", "true", "false", "None", "null")  # as in `pad_to_max_tokens=False`
IN_A_QUERY = ("key", "sig", "signature", "code")

_known: dict[str, str] = {}  # maps a secret to the text that replaces it
_pattern: re.Pattern[str] | None = None
_stands_for: dict[str, str] = {}
_make_record: Callable[..., logging.LogRecord] = logging.LogRecord


def redact(text: str) -> str:
    """Return a text without known secrets, private keys, credentials in addresses, and `password=...`."""
    if "PRIVATE KEY-----" in text:
        text = PRIVATE_KEY.sub(MASK, text)
    if _pattern is not None:
        text = _pattern.sub(lambda found: _known[found.group()], text)
    if "://" in text:
        text = URL.sub(_without_user, text)
    if ":" in text:
        text = QUOTED.sub(_without_quoted, text)
    return PAIR.sub(_without_value, text) if "=" in text else text


def redacted(value: Any, *, named: bool = False, inside: bool = False) -> Any:
    """Return nested values without secrets.

    Args:
        named: also hide values whose name is that of a secret; for `params`, whose names are the user's.
        inside: hide every value.
    """
    if isinstance(value, Mapping):
        return {
            redact(str(name)): redacted(item, named=named, inside=inside or (named and names_a_secret(str(name), item)))
            for name, item in value.items()
        }
    if isinstance(value, list | tuple | set):
        return [redacted(item, named=named, inside=inside) for item in value]
    if value is None or isinstance(value, bool) or value == "":
        return value
    if inside:
        return _known.get(str(value), MASK)
    return redact(value) if isinstance(value, str) else _known.get(str(value), value)


def secrets_in(value: Any, *, named: bool = False, inside: bool = False) -> Iterator[str]:
    """Yield every secret in nested values; the arguments are those of `redacted`."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from secrets_in(item, named=named, inside=inside or (named and names_a_secret(str(name), item)))
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from secrets_in(item, named=named, inside=inside)
    elif inside and value is not None and not isinstance(value, bool):
        secret = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
        yield secret
        yield from _of_header(secret)
    if isinstance(value, str):
        yield from _credentials(value)


def names_a_secret(name: str, value: object = "") -> bool:
    """Return whether a value with this name is regarded as a secret: `password`, `api_key`, `dbPassword`, `HF_TOKEN`.

    A number is a secret only if the name ends in such a word, and a short number only if the name has no other
    meaning: `max_tokens`, `token_dim` and `pad_token: 0` are not secrets.
    """
    words = [word.lower() for word in WORD.findall(name)]
    if any(part in "".join(words) for part in WITHIN):
        return True
    if isinstance(value, int | float):
        words = words[-1:] if len(str(value)) >= SHORTEST and words[-1:] != ["tokens"] else []
    return any(word in WORDS or word.endswith(ENDINGS) for word in words)


def remember(secret: str, shown: str = MASK) -> None:
    """Hide a text from now on, in all forms that programs write it in, and in every log record of this process."""
    if not REFERENCES.fullmatch(secret):
        _watch_log()  # a short secret is hidden only in addresses
        hide({form: shown for form in _forms(secret) if len(form) >= SHORTEST})


def hide(texts: Mapping[str, str]) -> None:
    """Replace texts from now on by what they are mapped to; texts that are already hidden stay hidden."""
    global _pattern  # noqa: PLW0603  secrets belong to the process, like its log
    if not texts.keys() - _known.keys():
        return
    for text, shown in texts.items():
        _known.setdefault(text, shown)
    longest_first = sorted(_known, key=len, reverse=True)
    _pattern = re.compile("|".join(map(_as_pattern, longest_first)))
    _watch_log()


def _watch_log() -> None:
    global _make_record  # noqa: PLW0603
    if logging.getLogRecordFactory() is not _record:
        _make_record = logging.getLogRecordFactory()
        logging.setLogRecordFactory(_record)


def hidden_as(text: str, shown: str) -> str:
    """Return the replacement of a text with secrets; in this process, `known_as` returns the text again."""
    if shown != text:
        _stands_for[shown] = text
    return shown


def known_as(shown: str) -> str:
    """Return the text that `hidden_as` was given, or the same text."""
    return _stands_for.get(shown, shown)


def known() -> dict[str, str]:
    """Return the known secrets and their replacements, for another process of the same run."""
    return dict(_known)


def clean(error: BaseException) -> None:
    """Remove secrets from an error and from its causes."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        one = pending.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        for name in ("args", "detail", "strerror", "filename", "filename2", "users_traceback", "__notes__"):
            value = getattr(one, name, None)
            with contextlib.suppress(AttributeError, TypeError):  # the class allows them to be set only once
                if isinstance(value, str):
                    setattr(one, name, redact(value))
                elif isinstance(value, tuple | list):
                    parts = [redact(part) if isinstance(part, str) else part for part in value]
                    setattr(one, name, type(value)(parts))
        pending += [one.__cause__, one.__context__]


def clean_record(record: logging.LogRecord) -> logging.LogRecord:
    """Remove secrets from a log record and its traceback; a record without secrets is unchanged."""
    try:
        text = record.getMessage()
    except Exception:  # noqa: BLE001  logging reports a record that cannot be formatted
        return record
    if redact(text) != text:
        record.msg, record.args = redact(text), None
    if isinstance(record.exc_info, tuple) and record.exc_info[0]:
        trace = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
        if redact(trace) != trace:
            record.exc_text, record.exc_info = redact(trace), None
    return record


def _record(*args: Any, **kwargs: Any) -> logging.LogRecord:
    return clean_record(_make_record(*args, **kwargs))


def _without_user(found: re.Match[str]) -> str:
    user = found["user"]
    password = user.partition(":")[2] or user
    shown = user if MASK not in user and REFERENCES.fullmatch(password) else MASK
    return f"{found['scheme']}{shown}@"


def _without_value(found: re.Match[str]) -> str:
    value, name = found["value"].strip("'\""), found["key"]
    words = WORD.findall(name)
    last = "_".join(words[-2:] if words and words[-1].lower() == "key" else words[-1:])  # not `token_ids`
    secret = names_a_secret(last, value) or (found["before"] and name.lower() in IN_A_QUERY)
    if not secret or REFERENCES.fullmatch(value) or _is_small_number(value) or value.rstrip("`.") in NO_SECRETS:
        return found.group()
    return f"{found['before']}{name}={MASK}"


def _without_quoted(found: re.Match[str]) -> str:
    """Hide a value whose name can only be that of a secret; `token` may be the name of an input."""
    words = "".join(WORD.findall(found["key"])).lower()
    if not any(part in words for part in WITHIN) or REFERENCES.fullmatch(found["value"]):
        return found.group()
    return f"{found['key']}{found['quote']}{MASK}{found['quote']}"


def _of_header(text: str) -> Iterator[str]:
    """Yield the secrets in the value of a header: a token, or the password of `Basic`."""
    header = HEADER.fullmatch(text.strip())
    if header:
        yield header[1]
        with contextlib.suppress(ValueError):
            yield base64.b64decode(header[1], validate=True).decode().partition(":")[2]


def _is_small_number(text: str) -> bool:
    return text.isdecimal() and len(text) < SHORTEST


def _credentials(text: str) -> Iterator[str]:
    """Yield the secrets in addresses and in `key=value` settings."""
    users = [found["user"] for found in URL.finditer(text)]
    place = re.split(r"[/?#]", text.partition("://")[2], maxsplit=1)[0]
    users += [place.rpartition("@")[0]] if "@" in place else []  # of any length
    passwords = [found["password"] for found in LOOSE_URL.finditer(text)]
    for user in users:
        name, colon, password = user.partition(":")
        passwords.append(password if colon else name)
        if colon:
            pair = f"{unquote(name)}:{unquote(password)}"
            yield base64.b64encode(pair.encode("utf-8", "replace")).decode().rstrip("=")  # the form that HTTP sends
    pairs = [found for found in PAIR.finditer(unquote(text)) if _without_value(found) != found.group()]
    for found in pairs:
        value = found["value"].strip("'\"")
        passwords += [value, value[1:-1]] if value.startswith("{") else [value]  # ODBC's braces
    passwords += [found["value"] for found in QUOTED.finditer(text) if _without_quoted(found) != found.group()]
    for password in passwords:
        yield password
        yield unquote(password)


def _forms(secret: str) -> set[str]:
    """Return the forms of a secret in JSON, HTML, addresses, Python, HTTP and one-line messages."""
    if len(secret) < SHORTEST:
        return set()
    encoded = secret.encode("utf-8", "replace")
    return {
        secret,
        secret.strip(),
        " ".join(secret.split()),
        *(line for line in secret.splitlines() if len(line) >= LONG_LINE),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        repr(secret)[1:-1],
        html.escape(secret),
        html.escape(secret).replace("&#x27;", "&#39;").replace("&quot;", "&#34;"),  # Jinja's form
        quote(secret),
        quote(secret, safe=""),
        quote_plus(secret),
        base64.b64encode(encoded).decode().rstrip("="),
        base64.urlsafe_b64encode(encoded).decode().rstrip("="),
    }


def _as_pattern(form: str) -> str:
    """Return a pattern; a secret of digits is not found within a longer number."""
    return rf"(?<!\d){form}(?!\d)" if form.isdecimal() else re.escape(form)

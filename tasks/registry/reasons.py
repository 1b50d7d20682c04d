"""Explain why a server gave no answer and what to do about MLflow's, from the errors of the libraries below it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tasks.words import one_line

SERVER = "start it (mlflow server), read its log, or set tracking.uri"


def reason(error: BaseException) -> tuple[str, str]:
    """Return what was received instead of an answer, and what to do.

    MLflow packs an error of its transport in up to four others; only the innermost says what happened.
    """
    import requests.exceptions as outer
    import urllib3.exceptions as inner
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import DBAPIError, OperationalError

    links = list(_links(error))

    def first(*kinds: type[BaseException]) -> BaseException | None:
        return next((link for link in links if isinstance(link, kinds)), None)

    if first(inner.NameResolutionError):
        return "a host name that does not resolve", "correct tracking.uri"
    if first(inner.ProxyError, outer.ProxyError):
        return "no connection through the proxy (HTTP_PROXY, HTTPS_PROXY)", "add the host to NO_PROXY or start it"
    if found := first(inner.SSLError, outer.SSLError):
        return f"no secure connection ({_core(links, found)})", "check https in tracking.uri and the certificate"
    if found := first(inner.ResponseError):
        return str(found), SERVER
    if found := first(inner.NewConnectionError):
        return f"no connection ({_core(links, found)})", SERVER
    if found := first(inner.ProtocolError):
        return f"a broken connection ({_core(links, found)})", SERVER
    if first(inner.TimeoutError, outer.Timeout):
        return "no answer in time", f"{SERVER}, or raise MLFLOW_HTTP_REQUEST_TIMEOUT (seconds)"
    if clashed(error):
        return f"a clash with another run's write ({_core(links, error)})", "run the same command again"
    if found := first(DBAPIError):
        held = isinstance(found, OperationalError) and "locked" in str(found)
        words = one_line(str(getattr(found, "orig", None) or found))
        return words, "wait for the process that holds it" if held else "restore the database, or set tracking.uri"
    if isinstance(error, ImportError):
        return f"no driver of the database ({error})", "install it, or name another one in tracking.uri"
    refused = getattr(getattr(error, "response", None), "status_code", 0) in (401, 403)  # an artifact
    if refused or (isinstance(error, MlflowException) and error.error_code in ("UNAUTHENTICATED", "PERMISSION_DENIED")):
        return _named(error), "check the user and password in tracking.uri or MLFLOW_TRACKING_USERNAME, ..._PASSWORD"
    if isinstance(error, OSError) and error.strerror:
        return _named(error), "free or open what it names, or set tracking.uri"
    return _named(error), SERVER


def clashed(error: BaseException) -> bool:
    """Return whether another process wrote the same row at the same time, so that the same call will succeed now.

    MLflow looks a row up and then inserts it (a dataset, an alias, a tag), without a lock. Its server passes on the
    words of the database's driver only: psycopg's class of this error is `UniqueViolation`, all others' is
    `IntegrityError`.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import IntegrityError

    if any(isinstance(link, IntegrityError) for link in _links(error)):
        return True
    return (
        isinstance(error, MlflowException)
        and re.search(r"\b(IntegrityError|UniqueViolation)\b", str(error)) is not None
    )


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {one_line(str(error))}"


def _core(links: list[BaseException], found: BaseException) -> str:
    """Return the operating system's words where there are any, else an error's own."""
    known = [link.strerror for link in links if isinstance(link, OSError) and link.strerror]
    return one_line(known[-1] if known else str(found))


def _links(error: BaseException | None, depth: int = 0) -> Iterator[BaseException]:
    """Return an error with everything that it holds or came from."""
    if error is None or depth > 8:
        return
    yield error
    below = [error.__cause__, error.__context__, getattr(error, "reason", None), *error.args]
    for link in below:
        if isinstance(link, BaseException):
            yield from _links(link, depth + 1)

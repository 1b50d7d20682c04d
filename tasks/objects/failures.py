"""What s3fs, botocore and aiohttp raise, which share no class, as errors of ours."""

from __future__ import annotations

from typing import Any

from configs.errors import ConfigError
from configs.redaction import redact
from tasks.errors import PipelineError, StoreConflict, StoreRefused, StoreUnreachable
from tasks.words import one_line

NOT_FOUND, FAILED, NOT_IMPLEMENTED = 404, (409, 412), 501
AGAIN = (408, 425, 429)  # errors of a client, as HTTP has it, that a later try may not get
OVERTAKEN = "was changed by another process at the same time; run it again, and it begins with what is live now"
REFUSED = {
    "NoSuchBucket": "the bucket does not exist; create it, or correct the address",
    "AccessDenied": "the credentials do not permit it; they need to get, put, list and delete objects below it",
    "InvalidAccessKeyId": "the access key is unknown; correct AWS_ACCESS_KEY_ID or the profile",
    "SignatureDoesNotMatch": "the secret key is wrong; correct AWS_SECRET_ACCESS_KEY or the profile",
    "PermanentRedirect": "the bucket is in another region; set AWS_DEFAULT_REGION to it",
    "ExpiredToken": "the session token has expired; get a new one",
    "RequestTimeTooSkewed": "the clock of this machine is wrong; set it to the time of the store",
}
NO_STORE = "what answers is not an object store; correct AWS_ENDPOINT_URL, which may be the address of another service"


def ours(exc: BaseException, what: str) -> BaseException:
    """Return our error for one of theirs about `what`, an address or a key."""
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    if isinstance(exc, PipelineError | ConfigError):
        return exc
    status, code = status_of(exc), code_of(exc)
    said = _response_of(exc).get("Error", {}).get("Message") or ""
    words = one_line(redact(f"{code}: {said or f'status {status}'}" if code else f"{type(exc).__name__}: {exc}"), 300)
    if status in FAILED:
        return StoreConflict(f"{what} {OVERTAKEN}")
    kinds = {kind.__name__ for kind in type(exc).__mro__}
    refused = REFUSED.get(code, "")
    if not refused and ((status == NOT_FOUND and code in ("", "404")) or "ResponseParserError" in kinds):
        refused = NO_STORE
    if not refused and (status == NOT_IMPLEMENTED or (400 <= status < 500 and status not in AGAIN)):
        refused = f"it got {words}"
    if kinds & {"NoCredentialsError", "PartialCredentialsError"}:
        refused = (
            "there are no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the "
            "machine a role"
        )
    if kinds & {"ProfileNotFound", "ConfigParseError", "ValueError"}:  # the latter is of an address or a region
        refused = f"the settings of AWS are wrong, such as AWS_ENDPOINT_URL or AWS_PROFILE: {words}"
    if refused:
        return StoreRefused(f"{what} cannot be used: {refused}")
    return StoreUnreachable(
        f"the object store must answer about {what}, got {words}; check AWS_ENDPOINT_URL and the connection"
    )


def _response_of(exc: BaseException) -> dict[str, Any]:
    for error in (exc, exc.__cause__):
        found = getattr(error, "response", None)
        if isinstance(found, dict):
            return found
    return {}


def status_of(exc: BaseException) -> int:
    """Return the HTTP status of an error, or 0."""
    return int(_response_of(exc).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def code_of(exc: BaseException) -> str:
    """Return the code that S3 gives an error, such as `NoSuchKey`, or an empty string."""
    return str(_response_of(exc).get("Error", {}).get("Code", ""))

"""Writes the client of an experiment: a Python file that routes by a key, and says its rule for other languages."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit, urlunsplit

from tasks.experiment.routing import BUCKETS, arm_of, bucket, ends
from tasks.records import Arm

EXAMPLES = ("user-1", "user-2", "42", "Zoë", "")  # numbers are their decimal digits; any text is a key

FIRST_WORDS = '"""Routes requests to the versions of the experiment'
NO_ADDRESS = "  # put the address of the REST interface before it: promote.live_urls has none"
TEMPLATE = '''"""Routes requests to the versions of the experiment {name} by a hash of a key, such as a user id.

The rule, for a client in any language:

1. Join the name of the experiment, a slash and the key, and encode the text as UTF-8: {name}/user-1
2. Compute the SHA-256 of these bytes. Read its first 8 bytes as one big-endian integer without a sign.
3. The remainder of this integer modulo 10,000 is the bucket of the key.
4. The bucket decides the label: {rule}.
5. Post to MODEL_URL/labels/LABEL:predict. If the server answers 404, or 400 with the words "version label", the
   experiment has ended: post to MODEL_URL/labels/stable:predict.

Use as the key what stays the same for a user, as text without spaces around it; the report leaves out empty keys. Log
the key and the version for each request, and later the outcome: one line `key,version,outcome` in a CSV file with this
heading.
"""

import hashlib
import sys

import requests

EXPERIMENT = {experiment!r}
MODEL_URL = {url!r}{unknown}
VERSIONS = {versions!r}
ENDS = {ends!r}  # for each label, the first bucket after its own
EXAMPLES = {{  # key: (bucket, label)
{examples}
}}
HEADERS = {{}}  # what production requires of its clients, such as Authorization
TIMEOUT_S = 10


def bucket(key):
    """Return the bucket of a key, in 0 to 9,999."""
    if not isinstance(key, str):  # 42, 42.0 and "42" would be three users
        raise TypeError("a key must be text, as in the log of outcomes, such as str(user_id), got " + repr(key))
    digest = hashlib.sha256((EXPERIMENT + "/" + key).encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "big") % {buckets}


def label(key):
    """Return the label of the version that a key gets, always the same one."""
    return next(name for name, end in ENDS.items() if bucket(key) < end)


def url(key):
    """Return the address at which a key's requests are answered."""
    return MODEL_URL + "/labels/" + label(key) + ":predict"


def predict(key, instances, post=requests.post):
    """Return the predictions and the version for the log, which is `stable` after the experiment has ended."""
    version = str(VERSIONS[label(key)])
    answer = post(url(key), json={{"instances": instances}}, headers=HEADERS, timeout=TIMEOUT_S)
    if answer.status_code == 404 or (answer.status_code == 400 and "version label" in answer.text):
        version, stable = "stable", MODEL_URL + "/labels/stable:predict"
        answer = post(stable, json={{"instances": instances}}, headers=HEADERS, timeout=TIMEOUT_S)
    answer.raise_for_status()
    return answer.json()["predictions"], version


if __name__ == "__main__":  # python FILE KEY ... shows where each key goes
    assert all((bucket(key), label(key)) == expected for key, expected in EXAMPLES.items())
    for key in sys.argv[1:]:
        print(key, bucket(key), label(key), url(key))
'''


def client_code(experiment: str, arms: Sequence[Arm], model: str, addresses: Sequence[str]) -> str:
    """Return the Python file of an experiment's client; it needs only the standard library and requests.

    Args:
        model: its name. addresses: of production; the first REST address is used, without a user and a password.
    """
    last = ends([arm.share for arm in arms])
    found = zip([0, *last], last, arms, strict=False)
    rule = ", ".join(f"{first:,} to {end - 1:,} is {arm.label} (version {arm.version})" for first, end, arm in found)
    return TEMPLATE.format(
        name=experiment,
        rule=rule,
        experiment=experiment,
        url=f"{_rest_address(addresses)}/v1/models/{model}",
        unknown="" if _rest_address(addresses) else NO_ADDRESS,
        versions={arm.label: arm.version for arm in arms},
        ends={arm.label: end for arm, end in zip(arms, last, strict=True)},
        examples="\n".join(
            f"    {key!r}: ({bucket(experiment, key)}, {arm_of(experiment, arms, key).label!r})," for key in EXAMPLES
        ),
        buckets=BUCKETS,
    )


def _rest_address(addresses: Sequence[str]) -> str:
    """Return the first REST address without a user and a password, or an empty text if all are for gRPC."""
    found = next((address for address in addresses if address.startswith("http")), "")
    parts = urlsplit(found)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))

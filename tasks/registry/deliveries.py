"""Reads what an MLflow webhook delivers: who sent it, how old it is, and whether it is a reviewer's decision.

Source: mlflow/webhooks/delivery.py and constants.py (3.17.2).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tasks.report.standing import APPROVED, REJECTED, REVIEW

ID, TIMESTAMP, SIGNATURE = "x-mlflow-delivery-id", "x-mlflow-timestamp", "x-mlflow-signature"
VERSION = "v1"
OLDEST_S = 300  # an older delivery, or one from the future, may have been recorded and sent again
SHORTEST_SECRET = 16  # characters


@dataclass(frozen=True)
class Decision:
    """A reviewer's decision: the tag `review` of a model version was set.

    Attributes:
        model: name of the registered model. registry_version: MLflow's number. review: `approved` or `rejected`.
        delivery: the id of the delivery, which is the same when it is repeated.
    """

    model: str
    registry_version: str
    review: str
    delivery: str


class Refused(Exception):
    """A delivery that must not have an effect; `status` is the HTTP status of the answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Deliveries:
    """Reads deliveries of one webhook, each of them once."""

    def __init__(self, secret: str, clock: Callable[[], float] = time.time) -> None:
        self._secret = secret.encode()
        self._clock = clock
        self._done: dict[str, float] = {}  # maps the id of a delivery that had its effect to its time

    def read(self, headers: Mapping[str, str], body: bytes) -> Decision | None:
        """Return the decision that a delivery tells of, or None if it tells of something else.

        Args:
            headers: by names in lower case.

        Raises:
            Refused: the signature is missing or wrong, the delivery is too old or was carried out before, or its body
                is not what MLflow sends.
        """
        delivery, timestamp = headers.get(ID, ""), headers.get(TIMESTAMP, "")
        signed = b".".join((delivery.encode(), timestamp.encode(), body))
        wanted = base64.b64encode(hmac.new(self._secret, signed, hashlib.sha256).digest())
        if not hmac.compare_digest(f"{VERSION},".encode() + wanted, headers.get(SIGNATURE, "").encode()):
            raise Refused(401, "the signature is missing, or was made with another secret")
        now = self._clock()
        if not re.fullmatch(r"[0-9]{1,12}", timestamp) or abs(now - int(timestamp)) > OLDEST_S:
            raise Refused(401, f"a delivery must not be older than {OLDEST_S} s; compare the clocks of both machines")
        if delivery in self._done:
            raise Refused(409, "this delivery was carried out before")
        return _decision(body, delivery)

    def done(self, decision: Decision) -> None:
        """Remember a delivery that had its effect, until its signature is too old."""
        now = self._clock()
        self._done = {known: at for known, at in self._done.items() if now - at <= 2 * OLDEST_S}
        self._done[decision.delivery] = now


def _decision(body: bytes, delivery: str) -> Decision | None:
    try:
        sent = json.loads(body)
        entity, action, data = sent["entity"], sent["action"], sent["data"]
        if (entity, action) != ("model_version_tag", "set") or data["key"] != REVIEW:
            return None
        review = str(data["value"]).strip().lower()
        found = Decision(str(data["name"]), str(data["version"]), review, delivery)
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise Refused(400, "the body is not an event of MLflow's model registry") from exc
    return found if review in (APPROVED, REJECTED) else None

"""The receiver of MLflow's webhooks: what it takes for a decision, what it refuses, and what it starts."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from typing import Any

import pytest

from flows.webhook import LARGEST_BODY, _beside, answer, build_parser, deployment, main
from tasks.registry.deliveries import OLDEST_S, Decision, Deliveries, Refused

SECRET, NOW = "a secret of the webhook", 1_800_000_000
APPROVED = {"name": "digits", "version": "3", "key": "review", "value": "approved"}


def body_of(data: Any, entity: str = "model_version_tag", action: str = "set") -> bytes:
    """Return a body as MLflow sends it."""
    sent = {"entity": entity, "action": action, "timestamp": "2027-01-15T08:00:00+00:00", "data": data}
    return json.dumps(sent).encode()


def headers_of(body: bytes, secret: str = SECRET, at: int | str = NOW, delivery: str = "d-1") -> dict[str, str]:
    """Return the headers that MLflow sends with a body."""
    signed = f"{delivery}.{at}.".encode() + body
    signature = base64.b64encode(hmac.new(secret.encode(), signed, hashlib.sha256).digest()).decode()
    return {"x-mlflow-delivery-id": delivery, "x-mlflow-timestamp": str(at), "x-mlflow-signature": f"v1,{signature}"}


@pytest.fixture
def deliveries() -> Deliveries:
    """Return a reader whose clock stands still."""
    return Deliveries(SECRET, lambda: NOW)


def test_a_decision(deliveries: Deliveries) -> None:
    """The tag `review`, set to a decision, is read with its model, version and delivery."""
    body = body_of({**APPROVED, "value": " Approved "})
    assert deliveries.read(headers_of(body), body) == Decision("digits", "3", "approved", "d-1")


@pytest.mark.parametrize(
    "body",
    [
        body_of({**APPROVED, "value": "pending"}),
        body_of({**APPROVED, "key": "promotion"}),
        body_of(APPROVED, action="deleted"),
        body_of({"name": "digits", "version": "3", "alias": "champion"}, "model_version_alias", "created"),
    ],
)
def test_what_is_no_decision(deliveries: Deliveries, body: bytes) -> None:
    """Other events are accepted and have no effect; our own tags and aliases are among them."""
    assert deliveries.read(headers_of(body), body) is None
    assert answer(deliveries, lambda _: pytest.fail("started"), headers_of(body), body)[0] == 200


GOOD = body_of(APPROVED)
HEADERS = headers_of(GOOD)
REFUSED: dict[str, tuple[dict[str, str], bytes, int]] = {
    "another secret": (headers_of(GOOD, "another secret, long enough"), GOOD, 401),
    "no signature": ({**HEADERS, "x-mlflow-signature": ""}, GOOD, 401),
    "no headers": ({}, GOOD, 401),
    "another version": ({**HEADERS, "x-mlflow-signature": HEADERS["x-mlflow-signature"][1:]}, GOOD, 401),
    "not ASCII": ({**HEADERS, "x-mlflow-signature": "v1,ä"}, GOOD, 401),
    "another body": (HEADERS, GOOD.replace(b"approved", b"rejected"), 401),
    "another id": ({**HEADERS, "x-mlflow-delivery-id": "d-2"}, GOOD, 401),
    "another time": ({**HEADERS, "x-mlflow-timestamp": str(NOW + 1)}, GOOD, 401),
    "too old": (headers_of(GOOD, at=NOW - OLDEST_S - 1), GOOD, 401),
    "a time of many digits": (headers_of(GOOD, at="9" * 5000), GOOD, 401),
    "a time with a fraction": (headers_of(GOOD, at=f"{NOW}.0"), GOOD, 401),
    "a negative time": (headers_of(GOOD, at=-NOW), GOOD, 401),
    "from the future": (headers_of(GOOD, at=NOW + OLDEST_S + 1), GOOD, 401),
    "no JSON": (headers_of(b"{"), b"{", 400),
    "no event": (headers_of(b"[1]"), b"[1]", 400),
    "no data": (headers_of(body_of(None)), body_of(None), 400),
    "deep": (headers_of(b"[" * 50_000), b"[" * 50_000, 400),
    "large": (headers_of(b" " * (LARGEST_BODY + 1)), b" " * (LARGEST_BODY + 1), 413),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(deliveries: Deliveries, case: str) -> None:
    """What is not signed, signed for something else, old, or not an event, starts nothing."""
    headers, body, status = REFUSED[case]
    assert answer(deliveries, lambda _: pytest.fail("started"), headers, body)[0] == status


def test_a_timestamp_of_other_digits(deliveries: Deliveries) -> None:
    """Digits of another script are not a time, even where they are signed."""
    delivery, at = "d-1", "１８０００００００0"
    signed = f"{delivery}.{at}.".encode() + GOOD
    signature = base64.b64encode(hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()).decode()
    headers = {"x-mlflow-delivery-id": delivery, "x-mlflow-timestamp": at, "x-mlflow-signature": f"v1,{signature}"}
    with pytest.raises(Refused, match="older"):
        deliveries.read(headers, GOOD)


def test_a_delivery_has_its_effect_once(deliveries: Deliveries, capsys: pytest.CaptureFixture[str]) -> None:
    """A delivery that failed may come again, as MLflow sends it; one that had its effect is refused."""
    tried: list[Decision] = []

    def start(decision: Decision) -> str:
        tried.append(decision)
        if len(tried) == 1:
            raise ConnectionError("no Prefect")
        return "promote/approvals"

    assert [answer(deliveries, start, HEADERS, GOOD)[0] for _ in range(3)] == [503, 202, 409]
    assert len(tried) == 2
    out, err = capsys.readouterr()
    assert "Prefect could not start the deployment: ConnectionError: no Prefect" in err
    assert "'digits' registry version 3 was approved: started promote/approvals" in out


def test_a_name_of_any_characters(deliveries: Deliveries, capsys: pytest.CaptureFixture[str]) -> None:
    """The name of a model, which MLflow lets everybody choose, is one line that every stream can write."""
    body = body_of({**APPROVED, "name": "\ud800x\nerror: \x1b[31m" + "y" * 5000})
    assert answer(deliveries, lambda _: "promote/approvals", headers_of(body), body)[0] == 202
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert out[:-1].isprintable()
    assert len(out) < 1000


def test_ids_are_forgotten_with_their_signatures() -> None:
    """What is remembered does not grow for ever: an id is kept until no signature with it can be valid."""
    clock = [float(NOW)]
    deliveries = Deliveries(SECRET, lambda: clock[0])
    for number in range(50):
        deliveries.done(Decision("m", "1", "approved", str(number)))
    clock[0] += 2 * OLDEST_S + 1
    deliveries.done(Decision("m", "1", "approved", "new"))
    assert list(deliveries._done) == ["new"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("promote/approvals", ("", "promote/approvals")),
        ("digits=promote/digits approvals", ("digits", "promote/digits approvals")),
        ("approvals", None), ("promote/", None), ("/approvals", None), ("=promote/a", None), ("a/b/c", None),
        ("", None), ("digits =promote/a", None), ("promote/a\n", None), ("promote/ a", None),
    ],
)  # fmt: skip
def test_deployments(text: str, found: tuple[str, str] | None, capsys: pytest.CaptureFixture[str]) -> None:
    """A deployment is FLOW/NAME, for all models or for one."""
    if found:
        assert deployment(text) == found
        return
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args(["--deployment", text])
    assert ended.value.code == 2
    assert "must be FLOW/NAME" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REHEARSAL_WEBHOOK_SECRET", ""),
        ("REHEARSAL_WEBHOOK_SECRET", "short"),
        ("REHEARSAL_WEBHOOK_SECRET", f"{SECRET}\n"),  # as `echo` writes it into a Kubernetes secret
        ("REHEARSAL_WEBHOOK_SECRET", " " * 20),
        ("REHEARSAL_WEBHOOK_SECRET", f"{SECRET}\udcff"),
        ("PREFECT_API_URL", ""),
        ("PREFECT_API_URL", "prefect:4200/api"),
    ],
)
def test_what_must_be_set(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a secret or a Prefect server that can be used, nothing is received: exit 2, one line."""
    monkeypatch.setenv("REHEARSAL_WEBHOOK_SECRET", SECRET)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    monkeypatch.setenv(name, value)
    assert main(["--deployment", "promote/approvals"]) == 2
    err = capsys.readouterr().err
    assert f"error: {name} must be set" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("model", ["", "digits="])
def test_one_deployment_for_a_model(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of two deployments for one model, none would silently win."""
    monkeypatch.setenv("REHEARSAL_WEBHOOK_SECRET", SECRET)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    assert main(["--deployment", f"{model}promote/a", "--deployment", f"{model}promote/b"]) == 2
    assert "must be given once for each model" in capsys.readouterr().err


def test_a_thread_hands_on_what_it_raises() -> None:
    """A delivery is answered in a thread of its own, whose error is that of the request."""

    async def both() -> None:
        assert await _beside(lambda: (200, "x")) == (200, "x")
        with pytest.raises(ZeroDivisionError):
            await _beside(lambda: (1 // 0, ""))

    asyncio.run(both())

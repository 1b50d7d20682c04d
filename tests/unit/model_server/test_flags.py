"""The command line of the embedded server."""

import pytest

from tasks.model_server.flags import Flags, UnknownFlag, parse_flags
from tasks.model_server.integers import int64


@pytest.mark.parametrize(
    ("text", "value"),
    [("0" * 5000 + "7", 7), ("-" + "0" * 5000, 0), ("+9223372036854775807", 2**63 - 1),
     ("-9223372036854775808", -(2**63)), ("9223372036854775808", None), ("9" * 5000, None), ("", None), ("+", None),
     ("1_0", None), (" 1", None), ("1\n", None), ("\u0663", None), ("0x5", None)],
)  # fmt: skip
def test_integers(text: str, value: int | None) -> None:
    """An integer of 64 bits is the whole of its text, however many digits that has."""
    assert int64(text) == value


def test_values() -> None:
    """A value follows its flag after an equals sign."""
    flags = parse_flags(["--port=1", "--rest_api_port=2", "--model_base_path=/a=b"])
    assert flags == Flags(port=1, rest_api_port=2, model_base_path="/a=b")


@pytest.mark.parametrize(
    ("argument", "value"), [("", True), ("=true", True), ("=1", True), ("=false", False), ("=0", False)]
)
def test_booleans(argument: str, value: bool) -> None:
    """A bare boolean flag is true; with a value it is what the value says."""
    name = "allow_version_labels_for_unavailable_models"
    assert parse_flags([f"--{name}{argument}", "--port=7"]) == Flags(
        port=7, allow_version_labels_for_unavailable_models=value
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nope"], "unknown argument: --nope"),
        (["--enable_batching=true"], "unknown argument: --enable_batching=true"),
        (["model"], "unknown argument: model"),
        (["--port"], "No value for --port"),
        (["--port", "1"], "No value for --port"),
        (["--port=1_0"], "Couldn't interpret value 1_0 for flag --port"),
        (["--port=65536"], "Couldn't interpret value 65536 for flag --port"),
        (["--rest_api_port=-1"], "Couldn't interpret value -1 for flag --rest_api_port"),
        (["--max_num_load_retries=" + "9" * 5000], "Couldn't interpret value 9999"),
        (["--port=x"], "Couldn't interpret value x for flag --port"),
        (["--allow_version_labels_for_unavailable_models=maybe"], "Couldn't interpret value maybe"),
    ],
)
def test_wrong_flags_are_named(arguments: list[str], message: str) -> None:
    """A flag that is not known, or a value that does not fit, is refused by name."""
    with pytest.raises(UnknownFlag, match=message):
        parse_flags(arguments)

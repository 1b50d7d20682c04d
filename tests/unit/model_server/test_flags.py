"""The command line of the embedded server."""

import pytest

from tasks.model_server.flags import Flags, UnknownFlag, parse_flags


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
        (["--port=x"], "Couldn't interpret value x for flag --port"),
        (["--allow_version_labels_for_unavailable_models=maybe"], "Couldn't interpret value maybe"),
    ],
)
def test_wrong_flags_are_named(arguments: list[str], message: str) -> None:
    """A flag that is not known, or a value that does not fit, is refused by name."""
    with pytest.raises(UnknownFlag, match=message):
        parse_flags(arguments)

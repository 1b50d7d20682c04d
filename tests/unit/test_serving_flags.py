"""Flags and files of production for the throwaway server, and the size of its batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from configs.errors import ConfigError
from configs.loading import load_config
from configs.sections.serving import Serving
from configs.serving_flags import DEFAULT_BATCH, batches, flag_value, most_rows
from tasks.errors import ServingError
from tasks.gates.batching import judge_batching
from tasks.gates.parity import Tolerance
from tasks.records import ServedBatches, TensorSpec
from tasks.serving.container import hardening
from tasks.serving.flags import check_flags, flags_in

BAD = {
    "no flag": ("args: [enable_batching]", "each as --name or --name=value"),
    "a number": ("args: [3]", "serving.args[0]"),
    "two words": ("args: ['--a b']", "each as --name or --name=value"),
    "a port": ("args: [--port=1]", "the engine chooses the ports"),
    "a model": ("args: [--model_config_file=/x]", "the only models"),
    "tls": ("args: [--ssl_config_file=/x]", "asked without TLS"),
    "help": ("args: [--help]", "print its flags and end"),
    "no file": ("args: [--enable_batching, --batching_parameters_file=/b]", "files must map '/b'"),
    "a relative place": ("files: {b: batching.txt}", "absolute paths"),
    "the root": ("files: {/b: batching.txt}", "no file can be put into /"),
    "below tmp": ("files: {/tmp/x/b: batching.txt}", "no file can be put into /tmp/x"),
    "two slashes": ("files: {//tmp/b: batching.txt}", "absolute paths"),
    "a slash at the end": ("files: {/etc/b/: batching.txt}", "absolute paths"),
    "a line break": ('files: {"/etc/b\\n": batching.txt}', "absolute paths"),
    "a line break in a flag": ('args: ["--platform_config_file=/x\\n"]', "printable characters"),
    "below a file": ("files: {/etc/b: batching.txt, /etc/b/x/c: batching.txt}", "a file has no files below it"),
    "the model's directory": ("files: {/models/m: batching.txt}", "where the candidate is"),
    "nested braces": (
        "args: [--enable_batching, --batching_parameters_file=/etc/b], files: {/etc/b: nested.txt}",
        "must hold BatchingParameters as text",
    ),
    "a large file": (
        "args: [--enable_batching, --batching_parameters_file=/etc/b], files: {/etc/b: large.txt}",
        "must not be larger than 64 KB",
    ),
    "a way up": ("files: {/etc/../b: batching.txt}", "absolute paths"),
    "our own list": ("files: {/models/models.config: batching.txt}", "the rehearsal's own"),
    "a model's directory": ("files: {/models/m/b: batching.txt}", "the rehearsal's own"),
    "an absent file": ("files: {/etc/b: absent.txt}", "must name an existing file"),
    "embedded": ("backend: embedded, args: [--enable_batching]", "embedded server takes none"),
    "gpus": ("gpus: some", "all"),
    "no gpus": ("gpus: -1", "at least 0"),
    "garbage": (
        "args: [--enable_batching, --batching_parameters_file=/etc/b], files: {/etc/b: cfg.yaml}",
        "must hold BatchingParameters as text",
    ),
}


@pytest.mark.parametrize("size", ["{ value: 0 }", "{ value: -8 }", "{}"])
def test_a_batch_without_rows(size: str, tmp_path: Path) -> None:
    """A batch of no rows is refused, because 0 means elsewhere that there is no limit, and the real server crashes."""
    (tmp_path / "batching.txt").write_text(f"max_batch_size {size}")
    flags = "args: [--enable_batching, --batching_parameters_file=/models/b], files: {/models/b: batching.txt}"
    (tmp_path / "cfg.yaml").write_text(f"name: m\nserving: {{{flags}}}\n")
    with pytest.raises(ConfigError, match="max_batch_size of at least 1, got"):
        load_config(tmp_path / "cfg.yaml")


@pytest.mark.parametrize("case", BAD)
def test_bad_values(case: str, tmp_path: Path) -> None:
    """What cannot be used is one line, when the file is read."""
    text, words = BAD[case]
    (tmp_path / "batching.txt").write_text("max_batch_size { value: 8 }")
    (tmp_path / "nested.txt").write_text("x {" * 10_000)
    (tmp_path / "large.txt").write_text("# " + "x" * 2**17)
    (tmp_path / "cfg.yaml").write_text(f"name: m\nserving: {{{text}}}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "cfg.yaml")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "text", "expected"),
    [
        ((), None, 0),
        (("--enable_batching=false",), None, 0),
        (("--enable_batching",), None, DEFAULT_BATCH),
        (("--enable_batching=true",), "", DEFAULT_BATCH),
        (("--enable_batching",), "max_batch_size { value: 32 } allowed_batch_sizes: 8 allowed_batch_sizes: 32", 32),
        (("--enable_batching",), "# a comment\nmax_batch_size: { value: 32 }\nthread_pool_name { value: 'a' }", 32),
        (("--enable_batching",), "max_batch_size { value: 32 } enable_large_batch_splitting { value: true }", 32),
        (("--enable_batching",), "enable_large_batch_splitting { value: false }", DEFAULT_BATCH),
    ],
)
def test_how_many_rows_a_request_may_have(
    arguments: tuple[str, ...], text: str | None, expected: int, tmp_path: Path
) -> None:
    """The limit follows from the flags and from the file of parameters."""
    file = tmp_path / "batching.txt"
    file.write_text(text or "")
    assert most_rows(arguments, None if text is None else file) == expected


def test_the_last_flag_counts() -> None:
    """A flag that is repeated has its last value, as in the server."""
    arguments = ("--enable_batching", "--enable_batching=false")
    assert flag_value(arguments, "enable_batching") == "false"
    assert flag_value(arguments, "port") is None
    assert not batches(arguments)


def test_which_flags_there_are() -> None:
    """Flags are read from TensorFlow's list and from argparse's; without any, nothing is refused."""
    usage = "usage: x\nFlags:\n\t--port=8500    \tint32\tTCP --no\n\t--enable_batching=false\tbool\tenable\n"
    usage += '\t--saved_model_tags="serve"    \tstring\tComma-separated\n'
    assert flags_in(usage) == {"port": "int32", "enable_batching": "bool", "saved_model_tags": "string"}
    assert flags_in("usage: a [-h]\n\noptions:\n  -h, --help\n  --port PORT  a port\n") == {"port": ""}
    check_flags(("--anything",), "image", {})
    check_flags(("--enable_batching", "--port=1", "--saved_model_tags="), "image", flags_in(usage))
    check_flags(("--port",), "image", {"port": ""})
    with pytest.raises(ServingError, match="no flag --anything; docker run --rm image --help lists its flags"):
        check_flags(("--anything",), "image", {"port": ""})


def test_a_flag_without_its_value() -> None:
    """TensorFlow Serving says `unknown argument` of it and serves without it, which would be judged instead."""
    with pytest.raises(ServingError, match=r"--saved_model_tags must have a value \(string\)"):
        check_flags(("--saved_model_tags",), "image", {"saved_model_tags": "string"})


def test_gpus_are_requested_from_the_engine() -> None:
    """The engine gets a request for devices, and none by default."""
    assert hardening(Serving())["device_requests"] == []
    [one] = hardening(Serving(gpus=2))["device_requests"]
    assert (one["Count"], one["Capabilities"]) == (2, [["gpu"]])
    assert hardening(Serving(gpus="all"))["device_requests"][0]["Count"] == -1


Y = TensorSpec("y", "float32", (None,))


def test_a_refused_request() -> None:
    """A server that accepts rows alone and refuses them together is a verdict in its own words."""
    refused = ServedBatches(16, 64, None, refusal="got 400: padding is turned off")
    found = judge_batching(refused, {}, {"y": np.zeros(3)}, {"y": Tolerance(0, 0)}, (Y,))
    assert not found.passed
    assert "64 one-row requests from 16 concurrent clients must be answered" in found.summary
    assert "padding is turned off" in found.summary


@pytest.mark.parametrize("wrong", [0.0, 0.5, np.nan])
def test_each_answer_is_compared_with_its_row(wrong: float) -> None:
    """Answers come in the order of the requests, which is not that of the rows."""
    rows = (2, 0, 1, 1, 2, 0)
    own = np.array([1, 2, 3], np.float32)
    answers = own[list(rows)]
    answers[3] += np.float32(wrong)
    batches = ServedBatches(16, 6, Path("x"), rows)
    found = judge_batching(batches, {"y": answers}, {"y": own}, {"y": Tolerance(1e-6, 0)}, (Y,))
    assert found.passed == (wrong == 0)
    assert found.figures["rows_differing"] == (wrong != 0)

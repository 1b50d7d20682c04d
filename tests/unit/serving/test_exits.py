"""Why a server ended."""

import pytest

from tasks.errors import MemoryExceeded, ModelLoadError, PredictionError, ServerCrashed, ServingError
from tasks.serving.exits import LOG_TAIL_LINES, MAX_WORDS, ended_by_requests, explain_exit, remedy, server_words

REFUSED = (
    "2026-11-22 11:23:45.678901: I tensorflow_serving/model_servers/server.cc:77] Building single model\n"
    "2026-11-22 11:23:45.700000: E tensorflow_serving/model_servers/server.cc:378] Failed to start server. "
    "Error: Unknown: 1 servable(s) did not become available: {{Name: half Version: 1} due to error: "
    "DATA_LOSS: file is too short to be an sstable}\n"
)


@pytest.mark.parametrize("code", [255, 1])
def test_a_refused_model_is_a_load_error_in_the_servers_own_words(code: int) -> None:
    """The refusal that the server printed is the message, whatever its status, and its log the detail."""
    error = explain_exit(code, REFUSED, "half")
    assert type(error) is ModelLoadError
    assert "DATA_LOSS: file is too short to be an sstable" in str(error)
    assert "server.cc" not in str(error)
    assert error.detail == REFUSED.rstrip("\n")


def test_status_255_alone_is_a_load_error() -> None:
    """TensorFlow Serving's status for `no version became available` suffices without its line."""
    assert type(explain_exit(255, "", "half")) is ModelLoadError
    assert "it printed nothing" in str(explain_exit(255, "", "half"))


def test_the_memory_limit_is_named_with_its_remedy() -> None:
    """A server that the kernel killed at its limit points to the field to raise, and is not tried again."""
    error = explain_exit(137, "some log", "half", oom_limit_mb=64)
    assert type(error) is MemoryExceeded
    assert "64 MiB. Raise serving.memory_mb." in str(error)


def test_a_server_that_was_killed_is_not_blamed_on_its_last_line() -> None:
    """Where the engine does not say who sent SIGKILL, the message names both that do, and no line of the log."""
    error = explain_exit(137, "Could not find cuda drivers on your machine", "half")
    assert type(error) is ServingError
    assert "SIGKILL" in str(error) and "serving.memory_mb" in str(error) and "who stopped the server" in str(error)
    assert "cuda" not in str(error) and "cuda" in error.detail


@pytest.mark.parametrize(("code", "log"), [(132, ""), (1, "exec /usr/bin/serve: Exec format error")])
def test_an_image_of_another_processor_is_told_apart_from_a_bad_model(code: int, log: str) -> None:
    """An illegal instruction or a foreign executable blames the image, not the model."""
    error = explain_exit(code, log, "half")
    assert type(error) is ServingError
    assert "does not run on this processor" in str(error)


def test_any_other_end_gives_status_and_last_line() -> None:
    """An unforeseen end is an error with the status and the last thing that the server said."""
    error = explain_exit(3, "first\nW0000 00:00:1795346657.986475       1 port.cc:153] last\n\n", "half")
    assert type(error) is ServingError
    assert "ended with exit status 3" in str(error)
    assert ": last." in str(error)


def test_the_message_stays_one_short_line_and_the_log_a_tail() -> None:
    """However much a server printed, the message is one bounded line and the detail a bounded tail."""
    log = "".join(f"line {n}\n" for n in range(1000)) + "Failed to start server. Error: " + "x" * 5000
    error = explain_exit(255, log, "half")
    assert "\n" not in str(error)
    assert len(server_words(log)) == MAX_WORDS
    assert len(error.detail.splitlines()) == LOG_TAIL_LINES


PREFIX = "2026-11-25 10:00:00.000001: "
THREADS = (
    f"{PREFIX}I tensorflow_serving/model_servers/server_core.cc:474] Adding/updating models.\n"
    f"{PREFIX}F external/org_tensorflow/tensorflow/tsl/platform/default/env.cc:74] Check failed: ret == 0 (11 vs. 0) "
    "Thread tf_ModelDiskSizePool creation via pthread_create() failed.\n"
)
SHELL = "/usr/bin/tf_serving_entrypoint.sh: line 3:     8 Aborted                 tensorflow_model_server\n"


@pytest.mark.parametrize(
    "log",
    [
        THREADS + SHELL,
        THREADS + f"{PREFIX}I tensorflow_serving/core/loader.cc:1] another thread goes on\n" + SHELL,
        "terminate called after throwing an instance of 'std::system_error'\n"
        "  what():  Resource temporarily unavailable\n" + SHELL,
        "F0000 00:00:1795346657.986475       1 env.cc:74] Check failed: ret == 0 (11 vs. 0) Thread x creation via "
        "pthread_create() failed.\n*** Check failure stack trace: ***\n    @     0x55d  main\n" + SHELL,
    ],
)
@pytest.mark.parametrize("code", [134, 139])
def test_a_server_without_further_threads_names_the_setting(code: int, log: str) -> None:
    """A thread that could not be started is one of our limits: an error that names it, whatever stands behind it."""
    error = explain_exit(code, log, "half")
    assert type(error) is ServingError
    assert "Raise serving.pids_limit." in str(error)
    assert "Aborted" not in str(error)


@pytest.mark.parametrize("code", [134, 139])
@pytest.mark.parametrize(
    ("log", "words"),
    [
        (f"{PREFIX}F tensorflow/core/a.cc:9] Check failed: dims == 2 (3 vs. 2) \n{SHELL}", "dims == 2 (3 vs. 2)"),
        (f"{PREFIX}F tensorflow/core/a.cc:9] Non-OK-status: it broke\nmore\n{SHELL}", "Non-OK-status: it broke"),
        (f"{PREFIX}I tensorflow/core/a.cc:9] loading half\n{SHELL}", "loading half"),
        ("serve.sh: line 1:    12 Segmentation fault      tensorflow_model_server\n", "Segmentation fault"),
    ],
)
def test_the_last_fatal_line_is_the_reason(code: int, log: str, words: str) -> None:
    """Of a server that ended itself the fatal line is the reason; a shell's word only where there is no other."""
    error = explain_exit(code, log, "half")
    assert type(error) is ServerCrashed
    assert words in str(error)
    assert f"exit status {code}" in str(error)
    assert "pids_limit" not in str(error)


CRASH = f"{PREFIX}F tensorflow/core/a.cc:9] Check failed: dims == 2 (3 vs. 2) \n"


@pytest.mark.parametrize(
    ("code", "log", "refusal"),
    [
        (134, CRASH, True),
        (136, CRASH, True),
        (139, "", True),
        (134, THREADS, False),
        (134, "terminate called\n  what():  std::bad_alloc\n", False),
        (134, f"{PREFIX}F a.cc:9] Check failed: No space left on device\n", False),
        (137, CRASH, False),
        (3, CRASH, False),
    ],
)
def test_a_server_that_ends_itself_over_a_request_has_refused_it(code: int, log: str, refusal: bool) -> None:
    """A loaded server's own crash is a refusal that says what to do; its limits and other hands are none."""
    error = ended_by_requests(explain_exit(code, log, "half"))
    assert type(error) is (PredictionError if refusal else ServingError)
    assert ("tf.ensure_shape" in str(error)) is refusal


def test_advice_fits_the_cause() -> None:
    """A graph for XLA is told to leave jit_compile; any other refusal to be exported again."""
    xla = REFUSED.replace("DATA_LOSS: file is too short to be an sstable", "UNIMPLEMENTED: XLA compilation disabled")
    assert "build the model with jit_compile=False" in str(explain_exit(255, xla, "half"))
    assert "Export it again" not in str(explain_exit(255, xla, "half"))
    assert "Export it again" in str(explain_exit(255, REFUSED, "half"))
    assert remedy("DATA_LOSS") == ""

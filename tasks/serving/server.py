"""The embedded model server: TensorFlow Serving's contract without TensorFlow Serving's binary.

    python -m tasks.serving.server --port=8500 --rest_api_port=8501 --model_name=digits \\
        --model_base_path=/models/digits

It exits with 0 after SIGTERM or SIGINT, with 1 for a wrong flag, and with 255 where its models do not
load, as `tensorflow_model_server` does; the last line on stderr then says why.

Environment:
    REHEARSAL_REST_HOST: address to listen on, default 0.0.0.0 (TensorFlow Serving has no flag for it).
    REHEARSAL_LIFELINE_FD: number of an inherited pipe; the process ends at once when its other end closes,
        so it never outlives the parent, not even one that was killed.
"""

import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from tasks.serving.flags import Flags, UnknownFlag, parse_flags
from tasks.serving.log import log
from tasks.serving.model_config import ModelConfig, latest, read_config_file
from tasks.serving.status import StatusError, invalid_argument


def main(arguments: Sequence[str]) -> int:
    """Run the server until it is told to stop; return its exit code."""
    _watch_lifeline()
    try:
        flags = parse_flags(arguments)
    except UnknownFlag as error:
        print(error, file=sys.stderr)
        return 1
    try:
        _serve(flags)
    except StatusError as error:
        print(f"Failed to start server. Error: {error}", file=sys.stderr, flush=True)
        return 255
    return 0


def _watch_lifeline() -> None:
    """End this process as soon as the pipe of REHEARSAL_LIFELINE_FD is closed at its other end."""
    number = os.environ.get("REHEARSAL_LIFELINE_FD")
    if number is None:
        return

    def wait_for_end() -> None:
        while os.read(int(number), 4096):
            pass
        os._exit(1)  # whoever asked for this server is gone: nobody is left to be tidy for

    threading.Thread(target=wait_for_end, name="lifeline", daemon=True).start()


def _serve(flags: Flags) -> None:
    """Load the models, then open the ports, then serve.

    Raises:
        StatusError: the models cannot be loaded or a port cannot be opened.
    """
    configs = _model_configs(flags)
    failures: list[BaseException] = []
    ready = threading.Event()
    from tasks.serving.servables import LoadRetries, Servables, check_initial_loads, manage
    from tasks.serving.tf_runtime import SavedModel

    servables = Servables(
        load=SavedModel,
        retries=LoadRetries(flags.max_num_load_retries, flags.load_retry_interval_micros / 1e6),
        allow_unavailable_labels=flags.allow_version_labels_for_unavailable_models,
    )
    servables.configure(configs)

    def run_manager() -> None:
        try:
            manage(
                servables, flags.file_system_poll_wait_seconds, _reloader(flags, servables.configure), ready
            )
        except BaseException as error:
            failures.append(error)
            raise
        finally:
            ready.set()

    threading.Thread(target=run_manager, name="servables", daemon=True).start()
    from tasks.serving.http_server import serve  # imported while the other thread loads the models

    ready.wait()
    check_initial_loads(servables.settled() or [])
    host = os.environ.get("REHEARSAL_REST_HOST", "0.0.0.0")  # noqa: S104 (inside a container it must)
    serve(servables, host, flags)


def _model_configs(flags: Flags) -> list[ModelConfig]:
    if flags.model_config_file:
        return read_config_file(Path(flags.model_config_file))
    if not flags.model_base_path:
        raise invalid_argument(
            "Both server_options.model_base_path and server_options.model_config_file are empty!"
        )
    return [ModelConfig(flags.model_name, Path(flags.model_base_path), latest(1))]


def _reloader(flags: Flags, configure: Callable[[list[ModelConfig]], None]) -> Callable[[], None]:
    return lambda: None


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)  # TensorFlow's threads are not waited for

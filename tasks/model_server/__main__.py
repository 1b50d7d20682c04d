r"""The embedded model server: TensorFlow Serving's interface without TensorFlow Serving's binary.

    python -m tasks.model_server --port=8500 --rest_api_port=8501 --model_name=digits \
        --model_base_path=/models/digits

It exits with 0 after SIGTERM or SIGINT, and with 255 if a flag is wrong or its models do not load, like
`tensorflow_model_server`; the last lines on stderr then say why.

Environment:
    REHEARSAL_REST_HOST: address to listen on, default 0.0.0.0 (TensorFlow Serving has no flag for it).
    REHEARSAL_LIFELINE_FD: number of an inherited pipe; the process ends at once when its other end closes,
        so it never outlives the parent, not even one that was killed.
"""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from tasks.model_server.flags import Flags, UnknownFlag, parse_flags
from tasks.model_server.status import StatusError

if TYPE_CHECKING:
    from tasks.model_server.manager import Start
    from tasks.model_server.model_config import ModelConfig
    from tasks.model_server.servables import Servables

_FAILED: Final = 255


def main(arguments: Sequence[str]) -> int:
    """Run the server until a signal stops it, and return its exit code."""
    _watch_lifeline()
    # No request is running before the ports are open. Without a handler, the first process of a container would
    # ignore the signal.
    signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(0))
    try:
        _serve(parse_flags(arguments))
    except UnknownFlag as error:
        sys.stderr.write(f"{error}\n")
        return _FAILED
    except StatusError as error:
        sys.stderr.write(f"Failed to start server. Error: {error}\n")
        return _FAILED
    return 0


def _watch_lifeline() -> None:
    """End this process as soon as the other end of the pipe REHEARSAL_LIFELINE_FD is closed."""
    number = os.environ.get("REHEARSAL_LIFELINE_FD")
    if number is None:
        return

    def wait_for_end() -> None:
        while os.read(int(number), 4096):
            pass
        os._exit(1)  # the process that started this server has ended, so there is nothing to clean up for

    threading.Thread(target=wait_for_end, name="lifeline", daemon=True).start()


def _serve(flags: Flags) -> None:
    """Load the models, then open the ports, then serve.

    Raises:
        StatusError: the models cannot be loaded or a port cannot be opened.
    """
    from tasks.model_server.manager import Start, check_initial_loads, model_configs
    from tasks.model_server.servables import LoadRetries, Servables
    from tasks.model_server.warmup import load_warm

    servables = Servables(
        load=load_warm,
        retries=LoadRetries(flags.max_num_load_retries, flags.load_retry_interval_micros / 1e6),
        allow_unavailable_labels=flags.allow_version_labels_for_unavailable_models,
    )
    configs = model_configs(flags)
    servables.configure(configs)
    start = Start()
    threading.Thread(target=_manage, args=(servables, configs, flags, start), daemon=True).start()
    from tasks.model_server.ports import serve  # imported while the other thread loads the models

    check_initial_loads(start.wait())
    host = os.environ.get("REHEARSAL_REST_HOST", "0.0.0.0")  # noqa: S104 (required in a container)
    serve(servables, host, flags)


def _manage(servables: "Servables", configs: "list[ModelConfig]", flags: Flags, start: "Start") -> None:
    """Run the managing thread, and end the process if that thread fails."""
    from tasks.model_server.manager import manage

    try:
        manage(servables, configs, flags, start)
    finally:  # only an error in this program leads here
        traceback.print_exc()
        os._exit(_FAILED)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)  # does not wait for TensorFlow's threads

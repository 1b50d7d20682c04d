"""A model server that batches: the embedded server behind a proxy that joins requests that wait at the same time.

It stands in for TensorFlow Serving's `--enable_batching`, which the embedded server does not have: it reads
max_batch_size from the file of `--batching_parameters_file`, and refuses larger requests in TensorFlow Serving's words.
"""

import http.client
import json
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BEHIND, WAIT_S = 8502, 0.05
USAGE = """usage: tensorflow_model_server
Flags:
\t--port=8500                      \tint32\tTCP port to listen on for gRPC/HTTP API.
\t--enable_batching=false          \tbool\tenable batching
\t--batching_parameters_file=""    \tstring\tIf non-empty, read an ascii BatchingParameters protobuf.
\t--max_num_load_retries=5         \tint32\tmaximum number of times it retries loading a model.
"""


def say(text: str) -> None:
    """Write to the log at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def behind(method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """Ask the embedded server."""
    connection = http.client.HTTPConnection("127.0.0.1", BEHIND)
    connection.request(method, path, body)
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


class Batches:
    """Collects requests of one path, and answers them by one request."""

    def __init__(self, most: int) -> None:
        self.most, self.waiting, self.lock = most, {}, threading.Lock()

    def answer(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Answer a request as a part of a batch."""
        try:
            asked = json.loads(body)
            [rows] = {len(values) for values in asked["inputs"].values() if isinstance(values, list)}
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
            return behind("POST", path, body)  # what it is, the server itself says
        if rows > self.most:
            words = f"Task size {rows} is larger than maximum input batch size {self.most}"
            return 400, json.dumps({"error": words}).encode()
        if not rows:
            threading.Event().wait()  # as TensorFlow Serving does
        mine = {"asked": asked, "rows": rows, "done": threading.Event(), "found": None}
        with self.lock:
            key = (path, json.dumps({name: value for name, value in asked.items() if name != "inputs"}))
            first = key not in self.waiting
            self.waiting.setdefault(key, []).append(mine)
        if first:
            time.sleep(WAIT_S)
            with self.lock:
                taken = self.waiting.pop(key)
            self.send(path, taken)
        mine["done"].wait()
        return mine["found"]

    def send(self, path: str, taken: list[dict]) -> None:
        """Answer the requests that were waiting, at most `most` rows at a time."""
        while taken:
            batch, size = [], 0
            while taken and size + taken[0]["rows"] <= self.most:
                size += taken[0]["rows"]
                batch.append(taken.pop(0))
            say(f"a batch of {size} rows from {len(batch)} requests\n")
            names = batch[0]["asked"]["inputs"]
            joined = {name: [row for one in batch for row in one["asked"]["inputs"][name]] for name in names}
            status, content = behind("POST", path, json.dumps({**batch[0]["asked"], "inputs": joined}).encode())
            start = 0
            for one in batch:
                part = content
                if status == 200:
                    part = json.dumps({"outputs": json.loads(content)["outputs"][start : start + one["rows"]]}).encode()
                start += one["rows"]
                one["found"] = (status, part)
                one["done"].set()


def serve(batches: Batches) -> None:
    """Serve on the port of TensorFlow Serving's REST interface."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _reply(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            self._reply(*behind("GET", self.path))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            self._reply(*batches.answer(self.path, body))

        def log_message(self, *_: object) -> None:
            pass

    ThreadingHTTPServer(("0.0.0.0", 8501), Handler).serve_forever()


def main(arguments: list[str]) -> None:
    """Start both servers; this process ends with the embedded one."""
    if "--help" in arguments:
        say(USAGE)
        sys.exit(255)
    file = next((argument.partition("=")[2] for argument in arguments if "batching_parameters_file" in argument), "")
    found = re.search(r"max_batch_size\s*\{\s*value:\s*(\d+)", Path(file).read_text()) if file else None
    batches = Batches(int(found[1]) if found else 1000)
    if "--enable_batching" in arguments:
        say("batching is enabled\n")
    threading.Thread(target=serve, args=(batches,), daemon=True).start()
    import runpy

    kept = [argument for argument in arguments if "batching" not in argument and "rest_api_port" not in argument]
    sys.argv = ["tasks.model_server", *kept, f"--rest_api_port={BEHIND}"]
    runpy.run_module("tasks.model_server", run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])

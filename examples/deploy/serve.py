"""Serve a model that was compiled elsewhere. Needs the file, loopnest, NumPy and llvmlite, and nothing else.

    python serve.py model.lnest [--port 8000] [--threads 4]
    curl --data-binary @x.npy http://localhost:8000/ --output y.npy

A request is the input in NumPy's format (several inputs: an ``.npz`` by name), the reply the output (several: an ``.npz``).
"""

import argparse
import io
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from zipfile import BadZipFile

import numpy as np

import loopnest

MAX_BYTES = 1 << 28


class Handler(BaseHTTPRequestHandler):
    """Each request is a thread; a compiled model may be called from all of them at once."""

    model: loopnest.CompiledModel

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        if not 0 < length <= MAX_BYTES:
            return self.reply(413, f"a request has at most {MAX_BYTES} bytes\n".encode())
        try:
            outputs = self.compute(self.rfile.read(length))
        except (ValueError, EOFError, MemoryError, BadZipFile, loopnest.KernelError) as error:  # an InputError is a ValueError
            return self.reply(400, f"{error}\n".encode())
        return self.reply(200, outputs)

    def compute(self, body: bytes) -> bytes:
        given = np.load(io.BytesIO(body), allow_pickle=False)  # a request is data, never code
        results = self.model(given) if isinstance(given, np.ndarray) else self.model(**given)
        reply = io.BytesIO()
        if isinstance(results, tuple):
            np.savez(reply, **{spec.name: y for spec, y in zip(self.model.outputs, results, strict=True)})
        else:
            np.save(reply, results)
        return reply.getvalue()

    def reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--threads", type=int, help="default: the CPUs that this process may use")
    arguments = parser.parse_args()

    start = time.perf_counter()
    Handler.model = loopnest.load(arguments.model, threads=arguments.threads)
    print(f"loaded in {time.perf_counter() - start:.3f} s: {', '.join(map(str, Handler.model.inputs))}", flush=True)
    with ThreadingHTTPServer((arguments.host, arguments.port), Handler) as server:
        print(f"http://{arguments.host}:{server.server_port}/", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()

"""A real gRPC server, in a process of its own since grpcio's threads and gevent's patches do not mix.

`python grpc_echo_server.py [PORT [KEY CERTIFICATE]]` prints its port. `/test/Echo` answers what it got,
`/test/Size` as many bytes as the message says, `/test/Fail` the status whose number the message holds.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

_CODES = {code.value[0]: code for code in grpc.StatusCode}


def echo(request: bytes, context: grpc.ServicerContext) -> bytes:
    return request


def size(request: bytes, context: grpc.ServicerContext) -> bytes:
    return b"y" * int(request)


def fail(request: bytes, context: grpc.ServicerContext) -> bytes:
    context.abort(_CODES[int(request)], "so: ä 100%\n")


class Handler(grpc.GenericRpcHandler):
    def service(self, details: Any) -> Any:
        behaviour = {"/test/Echo": echo, "/test/Size": size, "/test/Fail": fail}.get(details.method)
        return behaviour and grpc.unary_unary_rpc_method_handler(behaviour)


def main() -> None:
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((Handler(),))
    if len(sys.argv) > 2:
        key, certificate = (Path(name).read_bytes() for name in sys.argv[2:])
        port = server.add_secure_port(f"127.0.0.1:{port}", grpc.ssl_server_credentials([(key, certificate)]))
    else:
        port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()

"""Our gRPC user beside the grpcio user of Locust's documentation: calls per second, and punctuality.

    python -m scripts.bench.grpc [--runs 3] [--seconds 6]

nginx answers a 12 KB unary call from one core (HTTP/2 in clear, a fixed message, grpc-status in the
trailers), and the generator has another: a server in Python would be the slower of the two.
"""

from __future__ import annotations

import contextlib
import re
import statistics
import sys
import tempfile
from pathlib import Path

from scripts.bench.generators import (
    ANSWER,
    BODY_BYTES,
    CONNECTIONS,
    Bench,
    Result,
    compare,
    make_payload,
    nginx,
    program,
)
from scripts.cores import split_cores, usable_cores

LAG_RATES = (500, 2_000)
NGINX = """
worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 16384; }}
http {{
  access_log off; keepalive_requests 1000000000; client_body_buffer_size 64k; open_file_cache max=10;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} http2 backlog=4096;
    root {folder}/answers; default_type application/grpc;
    # A file is not for POST: the refusal is turned into the file.
    location / {{ add_trailer grpc-status 0; error_page 405 =200 $uri; }}
  }}
}}
"""
OURS = """
import json
from locustfiles.engine import GrpcProtocol, ModelUser

class EchoUser(GrpcProtocol, ModelUser):
    path = "/test/Echo"

    @classmethod
    def facts(cls):
        return {{"port": 1, "predict_path": "/"}}

    @classmethod
    def encode(cls, image):
        return b"x" * {bytes}

    @classmethod
    def decode(cls, body):
        return [(p["class_id"], p["confidence"]) for p in json.loads(body)["predictions"]]
"""
# As in Locust's documentation, "Testing other systems": an interceptor that fires the request event.
GRPCIO = """
import time

import grpc
import grpc.experimental.gevent
from locust import User, task
{imports}

grpc.experimental.gevent.init_gevent()
BODY = b"x" * {bytes}

class Interceptor(grpc.UnaryUnaryClientInterceptor):
    def __init__(self, environment):
        self.environment = environment

    def intercept_unary_unary(self, continuation, details, request):
        exception, length, start = None, 0, time.perf_counter()
        try:
            response = continuation(details, request)
            length = len(response.result())
        except grpc.RpcError as error:
            exception = error
        self.environment.events.request.fire(
            request_type="grpc", name=details.method, response_length=length, response=None, context=None,
            response_time=(time.perf_counter() - start) * 1000, exception=exception,
        )
        if exception:
            raise exception
        return response

class GrpcUser({base}User):
    def __init__(self, environment):
        super().__init__(environment)
        channel = grpc.insecure_channel(self.host.removeprefix("grpc://"))
        self.echo = grpc.intercept_channel(channel, Interceptor(environment)).unary_unary("/test/Echo")

    @task
    def call(self):
        self.echo(BODY)
"""
PACED = {"imports": "from locustfiles.engine import ArrivalUser", "base": "ArrivalUser, "}
PLAIN = {"imports": "", "base": ""}


def our_user(bench: Bench) -> Result:
    """Our gRPC user, closed loop, with full recording."""
    summary, rss = bench.ours(
        "--shape", "closed", "--users", str(CONNECTIONS), user=OURS.format(bytes=BODY_BYTES)
    )
    if summary["failures"]:
        raise RuntimeError(f"our gRPC user failed: {summary['failures']}")
    return Result(summary["rate"]["achieved"], rss)


def grpcio_user(bench: Bench) -> Result:
    """The documented user, as many of them."""
    output, rss = bench.locust(
        GRPCIO.format(bytes=BODY_BYTES, **PLAIN),
        *("--users", str(CONNECTIONS), "--spawn-rate", str(CONNECTIONS), "--run-time", f"{bench.seconds}s"),
    )
    total = re.findall(r"Aggregated\s+(\d+)\s+(\d+)\(", output)
    if not total or int(total[0][1]):
        raise RuntimeError(f"the grpcio user failed:\n{output[-2000:]}")
    return Result(float(total[0][0]) / bench.seconds, rss)


def punctuality(bench: Bench, runs: int) -> list[str]:
    """Rows of the open-loop table: both paced by our engine, so that only the client differs."""
    rows = [
        "| gRPC generator | arrivals/s | completed | lag p50 | lag p99 | CPU of a core | verdict |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    users = {
        "modelswarm": OURS.format(bytes=BODY_BYTES),
        "grpcio in our engine": GRPCIO.format(bytes=BODY_BYTES, **PACED),
    }
    for rate in LAG_RATES:
        for name, user in users.items():
            found = []
            for run in range(runs):
                print(f"  run {run + 1} of {runs}: {name} at {rate}/s", file=sys.stderr)
                found.append(bench.ours("--shape", "constant", "--rate", str(rate), user=user)[0])
            middle = statistics.median
            completed = middle(s["counts"]["completed"] / s["counts"]["planned"] for s in found)
            lag = [f"{middle(s['lag_ms'][key] or 0.0 for s in found):.2f} ms" for key in ("p50", "p99")]
            cpu = middle(s["generator"]["cpu_cores_mean"] for s in found)
            verdict = statistics.mode(s["verdict"] for s in found)
            rows.append(
                f"| {name} | {rate:,} | {completed:.2%} | {' | '.join(lag)} | {cpu:.0%} | {verdict} |"
            )
    return rows


def run(runs: int, seconds: int) -> None:
    """Run the comparison and print it."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o755)  # nginx's worker is another user
        cores = split_cores(usable_cores(), 1)
        (folder / "answers" / "test").mkdir(parents=True)
        message = ANSWER.encode()
        (folder / "answers" / "test" / "Echo").write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
        url, _ = stack.enter_context(nginx(folder, cores.server, NGINX))
        make_payload(folder)
        bench = Bench(folder, url.replace("http://", "grpc://"), cores.generator[:1], seconds)
        print(f"12 KB unary gRPC call to nginx, {CONNECTIONS} users, generator and nginx on a core each,")
        print(f"median of {runs} runs of {seconds} s in rotation:\n")
        users = {"modelswarm": our_user, "Locust with grpcio": grpcio_user}
        print("\n".join(compare(bench, runs, users, "gRPC generator | calls/s")))
        print("\nOpen loop, everything recorded:\n")
        print("\n".join(punctuality(bench, runs)))


def main() -> None:
    """Run it as a program."""
    program("gRPC generators", __doc__, run)


if __name__ == "__main__":
    main()

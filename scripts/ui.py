"""Locust's web UI for one backend, for looking at a server by hand."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import uuid

from rich.console import Console

from scripts.cores import pinned, split_cores, usable_cores
from scripts.errors import CannotRun
from scripts.family import Family
from scripts.guard import guarded, scratch_folder
from scripts.project import Project, Service
from scripts.ready import unwell
from scripts.server import HOST, LocalServer, ServerSettings, child_environment, free_port, refuse_busy_ports
from scripts.stop import Interrupted, Stop


def serve_ui(project: Project, service: Service, port: int, workers: int, console: Console) -> None:
    """Start the server and Locust, say where the web UI is, and end both on Ctrl-C.

    Raises:
        CannotRun: a port is taken, or one of the two ended by itself.

    """
    refuse_busy_ports({port: "Locust's web UI"}, f"name another: --port {free_port()}")
    refuse_busy_ports(
        dict.fromkeys(service.facts.local.ports, service.name), "choose another backend with --backend"
    )
    cores = split_cores(usable_cores(), 1)
    scratch, mark, stop = scratch_folder(), uuid.uuid4().hex, Stop()
    settings = ServerSettings(project, 1, cores.server)
    server = LocalServer(service, settings, scratch / "server", scratch / "server.log", f"{mark}:server")
    with guarded(mark, scratch), pinned(cores.generator), stop.on_signals():
        try:
            console.print(f"Starting {service.title} …")
            server.start()
            _await_ready(server, stop)
            locust = _start_locust(project, server, port, workers, f"{mark}:load")
            while unwell(f"http://{HOST}:{port}/"):
                _watch(server, locust, stop)
            console.print(f"{service.title} listens on {server.host}; http://localhost:{port} is the web UI.")
            console.print("Ctrl-C ends both.")
            while True:
                _watch(server, locust, stop)
        except Interrupted:
            console.print("Stopping …")
        finally:
            Family(f"{mark}:load").kill()
            server.stop()
            shutil.rmtree(scratch, ignore_errors=True)


def _await_ready(server: LocalServer, stop: Stop) -> None:
    """Return once the server answers that it is ready.

    Raises:
        CannotRun: it ended, or took longer than its service.toml allows.

    """
    within_s = server.service.facts.local.ready_timeout_s
    deadline = time.monotonic() + within_s
    while reason := unwell(server.ready_url):
        _watch(server, None, stop)
        if time.monotonic() > deadline:
            raise CannotRun(
                f"{server.service.name} is not ready after {within_s:g} s: {reason}; {server.last_words()}"
            )


def _watch(server: LocalServer, locust: subprocess.Popen[bytes] | None, stop: Stop) -> None:
    """Let a moment pass.

    Raises:
        CannotRun: one of the two ended by itself.
        Interrupted: the user asked to stop.

    """
    if ended := server.ended():
        raise CannotRun(f"{server.service.name} {ended}; {server.last_words()}")
    if locust is not None and locust.poll() is not None:
        raise CannotRun(f"Locust ended with status {locust.returncode}")
    stop.sleep(0.2)


def _start_locust(
    project: Project, server: LocalServer, port: int, workers: int, mark: str
) -> subprocess.Popen[bytes]:
    service = server.service
    changes = {"PYTHONPATH": str(project.root), "MODELSWARM_MODEL_DIR": str(project.model_dir)}
    changes |= server.caller_variables
    command = [sys.executable, "-m", "locust", "-f", str(service.user_file), "--host", server.host]
    command += ["--protocol", service.user_protocol] if service.user_protocol else []
    command += ["--processes", str(workers), "--web-host", HOST, "--web-port", str(port)]
    bus = str(free_port())  # Locust's default port would meet the workers of any other Locust here
    command += ["--master-bind-host", HOST, "--master-bind-port", bus, "--master-port", bus]
    return subprocess.Popen(
        command,
        cwd=project.root,
        env=child_environment(mark, changes, os.environ),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )

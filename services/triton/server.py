"""Triton as one server: the real tritonserver, out of the nvidia-pytriton package, on our model repository.

PyTriton starts the same program on a repository that it generates. Ours is written down, so that NVIDIA's
image takes it unchanged.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

from services.model.contract import Settings

REPOSITORY = Path(__file__).parent / "repository"
STOP_S = 7.0
BATCHING = "dynamic_batching {\n  max_queue_delay_microseconds: 1000\n}\n"


def main() -> int:
    """Lay out repository and backends in the current folder, and run tritonserver on them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--grpc-port", type=int, default=8001)
    parser.add_argument("--metrics-port", type=int, default=8002)
    options = parser.parse_args()
    settings = Settings.from_env()
    place = Path.cwd()
    lay_out_repository(
        place / "repository", settings.workers, os.environ.get("MODELSWARM_BATCHING") == "true"
    )
    packages = Path(sysconfig.get_path("purelib"))
    program = lay_out_backends(place / "backends", packages / "pytriton" / "tritonserver")
    shared_memory = f"modelswarm-{os.getpid()}-"
    command = [
        *(str(program), f"--model-repository={place / 'repository'}"),
        f"--backend-directory={place / 'backends'}",
        *(f"--http-address={options.host}", f"--http-port={options.port}"),
        *(f"--grpc-address={options.host}", f"--grpc-port={options.grpc_port}"),
        *(f"--metrics-address={options.host}", f"--metrics-port={options.metrics_port}"),
        *("--exit-timeout-secs=3", "--log-info=false", "--allow-gpu-metrics=false"),
        f"--backend-config=python,shm-region-prefix-name={shared_memory}",
    ]
    changes = {
        "LD_LIBRARY_PATH": str(packages / "nvidia_pytriton.libs"),
        # The backend takes the packages of the first Python on PATH.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "ORT_DISABLE_TELEMETRY": "1",  # it keeps a database in the home folder
    }
    return supervise(command, os.environ | changes, shared_memory)


def supervise(command: list[str], environment: dict[str, str], shared_memory: str) -> int:
    """Run tritonserver until it ends or a signal comes; nothing of it is left, however we end.

    A signal for our process group must not reach the backend's processes, which tritonserver ends itself.
    It waits for callers to hang up, in vain where they keep connections, and then leaves those behind.
    """
    server = subprocess.Popen(command, env=environment, start_new_session=True)
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True
        server.terminate()
        signal.setitimer(signal.ITIMER_REAL, STOP_S)

    signal.signal(signal.SIGALRM, lambda *_: server.kill())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    after_us = clean_up_after_us(server.pid, shared_memory)
    status = server.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    for file in Path("/dev/shm").glob(f"{shared_memory}*"):
        file.unlink(missing_ok=True)
    os.close(after_us)
    return 0 if stopped else status


def lay_out_repository(target: Path, workers: int, batching: bool) -> None:
    """Copy the model repository with `workers` instances, and dynamic batching where it is asked for."""
    shutil.copytree(REPOSITORY, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    config = target / "mobilenet" / "config.pbtxt"
    text = config.read_text(encoding="utf-8").replace("count: 1", f"count: {workers}")
    config.write_text(text + BATCHING if batching else text, encoding="utf-8")


def lay_out_backends(target: Path, tritonserver: Path) -> Path:
    """Link the Python backend, with the stub of this Python's version next to it; return the server program.

    The stub is a copy: the backend sets its permissions, which only the owner of a file may.
    """
    folder = target / "python"
    shutil.rmtree(folder, ignore_errors=True)  # of a server that ran here before
    folder.mkdir(parents=True)
    stub = (
        tritonserver
        / "python_backend_stubs"
        / "{}.{}".format(*sys.version_info)
        / "triton_python_backend_stub"
    )
    for file in (tritonserver / "backends" / "python").iterdir():
        (folder / file.name).symlink_to(file)
    shutil.copy(stub, folder)
    return tritonserver / "bin" / "tritonserver"


def clean_up_after_us(server: int, shared_memory: str) -> int:
    """Have a process kill the server and remove its shared memory when we are gone, also by SIGKILL.

    It is nobody's child and of its own session, so that what kills us does not kill it. Returns the end of
    the pipe that it waits for.
    """
    reading, writing = os.pipe()
    script = 'exec 3<&0; { cat <&3; kill -9 -"$0"; rm -f /dev/shm/"$1"*; } &'
    subprocess.run(
        ["/bin/sh", "-c", script, str(server), shared_memory],
        stdin=reading,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"PATH": os.defpath},
        start_new_session=True,
        check=True,
    )
    os.close(reading)
    return writing


if __name__ == "__main__":
    sys.exit(main())

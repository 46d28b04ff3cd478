"""Triton as one server: the real tritonserver, out of the nvidia-pytriton package, on our model repository.

PyTriton starts the same program on a repository that it generates. Ours is written down, so that NVIDIA's
image takes it unchanged. This script lays out what the program expects and becomes it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from services.model.contract import Settings

REPOSITORY = Path(__file__).parent / "repository"
BATCHING = "dynamic_batching {\n  max_queue_delay_microseconds: 1000\n}\n"


def main() -> None:
    """Lay out repository and backends in the current folder, then be tritonserver."""
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
    clean_up_after_us(shared_memory)
    command = [
        *(
            str(program),
            f"--model-repository={place / 'repository'}",
            f"--backend-directory={place / 'backends'}",
        ),
        *(f"--http-address={options.host}", f"--http-port={options.port}"),
        *(f"--grpc-address={options.host}", f"--grpc-port={options.grpc_port}"),
        *(f"--metrics-address={options.host}", f"--metrics-port={options.metrics_port}"),
        *("--exit-timeout-secs=5", "--log-info=false", "--allow-gpu-metrics=false"),
        f"--backend-config=python,shm-region-prefix-name={shared_memory}",
    ]
    changes = {
        "LD_LIBRARY_PATH": str(packages / "nvidia_pytriton.libs"),
        # The backend takes the packages of the first Python on PATH.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
    }
    os.execve(command[0], command, os.environ | changes)


def lay_out_repository(target: Path, workers: int, batching: bool) -> None:
    """Copy the model repository with `workers` instances, and dynamic batching where it is asked for."""
    shutil.copytree(REPOSITORY, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    config = target / "mobilenet" / "config.pbtxt"
    text = config.read_text(encoding="utf-8").replace("count: 1", f"count: {workers}")
    config.write_text(text + BATCHING if batching else text, encoding="utf-8")


def lay_out_backends(target: Path, tritonserver: Path) -> Path:
    """Link the Python backend and the stub of this Python's version next to it; return the server program."""
    folder = target / "python"
    folder.mkdir(parents=True, exist_ok=True)
    stub = (
        tritonserver
        / "python_backend_stubs"
        / "{}.{}".format(*sys.version_info)
        / "triton_python_backend_stub"
    )
    for file in (*(tritonserver / "backends" / "python").iterdir(), stub):
        (folder / file.name).symlink_to(file)
    return tritonserver / "bin" / "tritonserver"


def clean_up_after_us(prefix: str) -> None:
    """Have a process wait until the server and all its children are gone, and remove their shared memory.

    They remove it themselves unless they are killed. Each of them inherits the writing end of the pipe.
    """
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    subprocess.Popen(
        ["/bin/sh", "-c", 'cat; rm -f /dev/shm/"$0"*', prefix],
        stdin=reading,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"PATH": os.defpath},
        start_new_session=True,
        close_fds=True,
    )
    os.close(reading)


if __name__ == "__main__":
    main()

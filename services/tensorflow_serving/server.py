"""Lays out what TensorFlow Serving expects, then is tensorflow_model_server or its stand-in."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from services.model.contract import Settings

CONFIG = Path(__file__).parent / "config"
VERSIONS = ("1", "2")


def main() -> None:
    """Lay out models and configuration in the current folder, then become the server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--host", default="127.0.0.1", help="the real server listens everywhere whatever this says"
    )
    parser.add_argument("--rest-port", type=int, default=8501)
    parser.add_argument("--grpc-port", type=int, default=8500)
    options = parser.parse_args()
    settings = Settings.from_env()
    batching = os.environ.get("MODELSWARM_BATCHING") == "true"
    models = lay_out(Path.cwd(), settings.model_dir)
    shared = [
        *(
            f"--port={options.grpc_port}",
            f"--rest_api_port={options.rest_port}",
            f"--model_config_file={models}",
        ),
        f"--monitoring_config_file={CONFIG / 'monitoring.config'}",
    ]
    real = shutil.which("tensorflow_model_server")
    if real:
        os.execv(real, [real, *shared, *_flags(settings, batching)])
    if batching:
        raise SystemExit(
            "tensorflow_model_server is not on PATH, and its stand-in has no batching: leave it off"
        )
    stand_in = ["-m", "services.tensorflow_serving.stand_in", *shared, f"--host={options.host}"]
    os.execv(sys.executable, [sys.executable, *stand_in])


def _flags(settings: Settings, batching: bool) -> list[str]:
    flags = [
        "--allow_version_labels_for_unavailable_models=true",
        f"--tensorflow_intra_op_parallelism={settings.threads}",
        f"--tensorflow_inter_op_parallelism={settings.workers}",
    ]
    if batching:
        flags += ["--enable_batching=true", f"--batching_parameters_file={CONFIG / 'batching.config'}"]
    return flags


def lay_out(place: Path, model_dir: Path) -> Path:
    """Give every version a folder under `place`, and return a models.config that points there."""
    models = place / "models" / "mobilenet"
    models.mkdir(parents=True, exist_ok=True)
    for version in VERSIONS:
        shutil.copytree(model_dir / "saved_model", models / version, dirs_exist_ok=True)
    target = place / "models.config"
    text = (CONFIG / "models.config").read_text(encoding="utf-8")
    target.write_text(text.replace("/models/mobilenet", str(models)), encoding="utf-8")
    return target


if __name__ == "__main__":
    main()

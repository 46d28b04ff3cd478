"""Make the shared export: `python -m services.model.export --out artifacts/model`.

Nothing is done when nothing changed, and nothing is replaced before everything was checked. ML libraries are
imported only once there is work for them.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SCHEMA = 1
NEEDED_BYTES = 300_000_000
PACKAGES = ("keras", "numpy", "onnx", "onnxruntime", "pillow", "tensorflow", "torch")

Say = Callable[[str], None]


class CannotExport(RuntimeError):
    """Why there is no new export, as a sentence; `status` is the command's exit status."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status: 0 done, 1 failed, 2 bad usage or input."""
    parser = argparse.ArgumentParser(
        prog="python -m services.model.export",
        description="Make the shared export: one MobileNetV2 in every format, checked against itself.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("artifacts/model"), help="target folder")
    parser.add_argument("--weights", choices=("auto", "imagenet", "synthetic"), default="auto")
    parser.add_argument("--images", type=Path, metavar="DIR", help="your own test images")
    parser.add_argument("--force", action="store_true", help="export even if nothing changed")
    options = parser.parse_args(argv)
    started = time.monotonic()

    def say(message: str) -> None:
        print(f"[{time.monotonic() - started:5.1f} s] {message}", flush=True)

    try:
        export(options.out, options.weights, options.images, options.force, say)
    except CannotExport as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print("interrupted; nothing was replaced", file=sys.stderr)
        return 130
    return 0


def export(out: Path, weights: str, images: Path | None, force: bool, say: Say) -> None:
    """Bring the export in `out` up to date; CannotExport says why it could not be."""
    _check_target(out)
    inputs = digest_of_inputs(weights, images)
    with _locked(out, say):
        if not force and is_current(out, inputs):
            say(f"{out} is up to date")
            return
        if shutil.disk_usage(out.parent).free < NEEDED_BYTES:
            raise CannotExport(
                f"{out.parent} has less than {NEEDED_BYTES // 10**6} MB free; make room and try again"
            )
        with _replacing(out) as building:
            manifest = _build(building, weights, images, inputs, say)
        say(f"{out} is ready: {manifest['weights']['description']} {manifest['digest'][:19]}")


def digest_of_inputs(weights: str, images: Path | None) -> str:
    """Digest all that the export depends on: this code, its pinned requirements, the options, the images."""
    digest = hashlib.sha256(f"{SCHEMA} {weights} {platform.python_version()}".encode())
    files = [*sorted(HERE.glob("*.py")), HERE / "requirements.txt"]
    if images is not None and images.is_dir():
        files += sorted(path for path in images.iterdir() if path.is_file())
    for path in files:
        digest.update(f"{path.name} {_sha256(path)}".encode())
    return f"sha256:{digest.hexdigest()}"


def is_current(out: Path, inputs: str) -> bool:
    """Whether `out` holds an unharmed export of these inputs."""
    try:
        manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
        return bool(manifest["inputs"] == inputs and manifest["files"] == _files(out))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _check_target(out: Path) -> None:
    empty = not out.exists() or (out.is_dir() and not any(out.iterdir()))
    if not empty and not (out / "manifest.json").exists():
        raise CannotExport(f"{out} exists and is not an export of ours; choose another --out", status=2)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotExport(
            f"cannot make {out.parent}: {error.strerror}; choose another --out", status=2
        ) from error


@contextmanager
def _locked(out: Path, say: Say) -> Iterator[None]:
    """Keep a second export of the same folder waiting until the first has ended."""
    with (out.parent / f".{out.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another export is running; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """Yield a folder beside `out` that takes its place if all goes well, and vanishes if not."""
    building, old = (out.parent / f".{out.name}.{suffix}" for suffix in ("building", "old"))
    if old.exists() and not out.exists():
        old.rename(out)  # an earlier export was killed between the two renames below
    for left_over in (building, old):
        shutil.rmtree(left_over, ignore_errors=True)
    building.mkdir()
    try:
        yield building
        if out.exists():
            out.rename(old)
        building.rename(out)
    except OSError as error:
        raise CannotExport(f"cannot write {out}: {error.strerror or error}") from error
    except Exception as error:  # TensorFlow and torch have their own words for a full disk
        if shutil.disk_usage(out.parent).free < NEEDED_BYTES // 100:
            raise CannotExport(f"the disk under {out.parent} is full; make room and try again") from error
        raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _build(folder: Path, choice: str, images: Path | None, inputs: str, say: Say) -> dict[str, Any]:
    """Fill the folder, check it, and write the manifest last."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")  # the checks are for the CPU
    say("loading TensorFlow and torch")
    from services.model import agreement, formats
    from services.model.images import BadImages
    from services.model.weights import NoDownload, load

    try:
        pictures = formats.pictures(images)
        sourced = load(choice, say)
        formats.write(folder, sourced.arrays, say)
        formats.write_images(folder, pictures, say)
        say("checking that all exports agree")
        difference = agreement.check(folder)
    except BadImages as error:
        raise CannotExport(str(error), status=2) from error
    except (NoDownload, agreement.Disagreement) as error:
        raise CannotExport(str(error)) from error
    files = _files(folder)
    manifest = {
        "schema": SCHEMA,
        "architecture": "MobileNetV2",
        "input": [224, 224, 3],
        "classes": 1000,
        "weights": {"source": sourced.source, "description": sourced.description},
        "digest": f"sha256:{hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()}",
        "inputs": inputs,
        "files": files,
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "agreement": {"max_abs_difference": difference},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return manifest


def _files(folder: Path) -> dict[str, dict[str, Any]]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / "manifest.json")
    return {
        path.relative_to(folder).as_posix(): {"sha256": _sha256(path), "bytes": path.stat().st_size}
        for path in paths
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    sys.exit(main())

"""A project with a small fast server of its own, to be run in kind by the command."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts import kind

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
COMMAND = Path(sys.executable).with_name("modelswarm")
NAMESPACE = "modelswarm-echo"
COPIED = ("k8s", "scripts", "locustfiles", "kind-config.yaml", "requirements.txt")


@dataclass
class EchoInKind:
    """The project's folder, and what tests ask of the command and the cluster."""

    root: Path

    def add(self, name: str, image: str = "", memory: str = "128Mi", fault: str = "") -> None:
        """Add a framework that is a copy of the echo server, perhaps with a fault."""
        folder = self.root / "services" / name
        shutil.copytree(HERE / "echo", folder)
        for file in folder.iterdir():
            text = file.read_text().replace("echo", name)
            text = text.replace("MEMORY", memory).replace("FAULT_VALUE", f'"{fault}"')
            file.write_text(text.replace("IMAGE", image or f"modelswarm/{name}:0.1.0"))
        user = f"{name.title()}User"
        (self.root / "locustfiles" / f"{name}_user.py").write_text(
            "from locustfiles.engine import PredictUser\n\n\n"
            f"class {user}(PredictUser):\n    service = {name!r}\n"
        )

    def plan(self, text: str) -> str:
        path = self.root / "plan.toml"
        path.write_text(text)
        return str(path)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        environ = {k: v for k, v in os.environ.items() if not k.startswith("MODELSWARM")}
        return subprocess.Popen(
            [str(COMMAND), "--root", str(self.root), *arguments],
            cwd=self.root,
            env=environ,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, *arguments: str) -> subprocess.Popen[str]:
        return self.start("run", *arguments, "--target", "kind", "--namespace", NAMESPACE, "--yes")

    def run_folder(self) -> Path:
        return max((self.root / "results").iterdir())

    def run_json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.run_folder() / "run.json").read_text())
        return found

    def summary(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.run_folder() / path / "summary.json").read_text())
        return found

    def kubectl(self, *words: str) -> str:
        command = ["kubectl", "--context", kind.CONTEXT, "--namespace", NAMESPACE, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr}"
        return done.stdout


def make_project(folder: Path) -> EchoInKind:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*_user.py"))
        else:
            shutil.copy(source, folder / name)
    (folder / "services").mkdir()
    write_export(folder / "artifacts" / "model")
    return EchoInKind(folder)


def write_export(folder: Path) -> None:
    """An export that holds no model: images of a few bytes and their made-up answers."""
    (folder / "images").mkdir(parents=True)
    (folder / "labels.txt").write_text("none\n")
    images = []
    for number, payload in enumerate(["small", "medium", "large"]):
        data = bytes([number]) * 1000 * (number + 1)
        (folder / "images" / f"{payload}.jpg").write_bytes(data)
        top5 = [
            {"class_id": 10 * number + k, "class_name": f"class {k}", "confidence": round(0.5 - k / 10, 3)}
            for k in range(5)
        ]
        images.append(
            {
                "file": f"images/{payload}.jpg",
                "payload": payload,
                "bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
                "top5": top5,
            }
        )
    (folder / "images.json").write_text(json.dumps(images))
    files = {
        str(path.relative_to(folder)): {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    manifest = {
        "schema": 1,
        "architecture": "none",
        "digest": f"sha256:{digest}",
        "files": files,
        "weights": {"source": "synthetic", "description": "There is no model: answers are looked up."},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))

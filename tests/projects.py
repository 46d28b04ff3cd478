"""Projects in temporary folders, on which tests run the command as a person does."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

ROOT = Path(__file__).resolve().parent.parent
COMMAND = Path(sys.executable).with_name("modelswarm")


@dataclass
class TemporaryProject:
    """The folder of a project, and the command on it."""

    root: Path
    processes: list[subprocess.Popen[str]] = field(default_factory=list)
    patience_s: float = 240
    """How long `call` waits."""
    stderr: ClassVar[int] = subprocess.PIPE
    """Where the command's errors go: apart, or among its output."""

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Start the command on this project."""
        environ = {k: v for k, v in os.environ.items() if not k.startswith("MODELSWARM")} | variables
        process = subprocess.Popen(
            [str(COMMAND), "--root", str(self.root), *arguments],
            cwd=self.root,
            env=environ,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def call(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the command to its end."""
        process = self.start(*arguments, **variables)
        output, errors = process.communicate(timeout=self.patience_s)
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def plan(self, text: str) -> str:
        """Write a plan and return its path."""
        path = self.root / "plan.toml"
        path.write_text(text)
        return str(path)

    def run_folder(self) -> Path:
        """Return the newest run."""
        return max((self.root / "results").iterdir())

    def run_json(self) -> dict[str, Any]:
        """Return what the newest run tells of itself."""
        found: dict[str, Any] = json.loads((self.run_folder() / "run.json").read_text())
        return found

    def end(self) -> None:
        """End what a failed test left running; the guard of each command ends the rest."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()


def write_export(folder: Path) -> None:
    """Write an export that holds no model: images of a few bytes and their made-up answers."""
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

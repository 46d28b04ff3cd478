"""A project with a small fast server of its own, to be run in kind by the command."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from scripts.cluster import kind
from tests.projects import ROOT, TemporaryProject, write_export

HERE = Path(__file__).parent
NAMESPACE = "modelswarm-echo"
COPIED = ("k8s", "scripts", "locustfiles", "kind-config.yaml", "requirements.txt")


class EchoInKind(TemporaryProject):
    """The project's folder, and what tests ask of the command and the cluster."""

    stderr = subprocess.STDOUT

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

    def run(self, *arguments: str) -> subprocess.Popen[str]:
        return self.start("run", *arguments, "--target", "kind", "--namespace", NAMESPACE, "--yes")

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

"""A machine without Docker: a program of that name on PATH that writes down what it is asked and answers."""

from __future__ import annotations

import json
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from scripts.cluster import images
from scripts.project import Project

HEAD = "# about {name}\nFROM python:3.11-slim\n# own\n"
FACTS = """
title = "X"
version = "1"
protocol = "predict"
port = 8000
predict_path = "/predict"
ready_path = "/health"
[local]
command = ["x"]
[image]
name = "team/{name}"
"""
# A daemon whose state is a folder: an image is a file whose content is its id.
DOCKER = f"""#!{sys.executable}
import json, os, sys, time
from pathlib import Path
state = Path(os.environ["FAKE_DOCKER"])
words = sys.argv[1:]
with (state / "calls").open("a") as log:
    log.write(json.dumps(words) + "\\n")
fault = state / "fault"
if words[0] == "version":
    if (state / "down").exists():
        print("Cannot connect to the daemon", file=sys.stderr)
        sys.exit(1)
    print("99")
elif words[0] == "build":
    if fault.exists():
        print("Step 3/4 : RUN pip install x\\nERROR: No matching distribution found for x==9")
        sys.exit(1)
    name = words[words.index("-t") + 1].replace("/", "_")
    time.sleep(0.3)  # work, in which another build would begin if it were let
    with (state / "calls").open("a") as log:
        log.write(json.dumps(["built", name]) + "\\n")
    (state / name).write_text("id of " + Path(words[words.index("-f") + 1]).read_text())
elif words[:2] == ["image", "inspect"]:
    digest = json.loads(Path(os.environ["FAKE_MODEL"]).read_text())["digest"]
    found = [each for each in words[2:] if (state / each.replace("/", "_")).exists()]
    told = {{each: (state / each.replace("/", "_")).read_text() for each in found}}
    labels = {{
        each: {{"modelswarm.model.digest": digest}}
        | ({{"modelswarm.stand_in": text.split("stand_in=")[1].split()[0]}} if "stand_in=" in text else {{}})
        for each, text in told.items()
    }}
    short = {{each: each.removeprefix("docker.io/") for each in found}}
    rows = [
        {{"Id": (state / each.replace("/", "_")).read_text(), "Size": 5e6, "RepoTags": [short[each]],
          "RepoDigests": ["elsewhere/x@sha256:0", short[each].rpartition(":")[0] + "@sha256:abc"],
          "Config": {{"Labels": labels[each]}}}}
        for each in found
    ]
    print(json.dumps(rows))
    sys.exit(len(found) != len(words[2:]))
elif words[0] == "tag":
    (state / words[2].replace("/", "_")).write_text((state / words[1].replace("/", "_")).read_text())
elif words[0] == "push" and fault.exists():
    print("denied: requested access to the resource is denied")
    sys.exit(1)
elif words[:2] == ["system", "df"]:
    cache = state / "build cache"
    print("Images=5GB\\nBuild Cache=" + (cache.read_text() if cache.exists() else "0B"))
elif words[0] == "exec":  # crictl on a node
    image = state / "nodes" / words[1] / words[4].removeprefix("docker.io/").replace("/", "_")
    if not image.exists():
        sys.exit(1)
    print(json.dumps({{"status": {{"id": image.read_text()}}}}))
"""


class Machine:
    """A project with two backends, and the docker above on PATH."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.project = Project(folder / "project")
        self.state = folder / "state"
        self.state.mkdir(parents=True)
        for name in ("a", "b"):
            place = self.project.root / "services" / name
            place.mkdir(parents=True)
            (place / "service.toml").write_text(FACTS.format(name=name))
            (place / "Dockerfile").write_text(HEAD.format(name=name) + f"CMD {name}\n")
        load_side = self.project.root / "k8s" / "locust"
        load_side.mkdir(parents=True)
        (load_side / "Dockerfile").write_text("FROM python:3.11-slim\nCMD locust\n")
        self.project.model_dir.mkdir(parents=True)
        manifest = self.project.model_dir / "manifest.json"
        manifest.write_text(json.dumps({"digest": "sha256:123"}))
        self.programs = folder / "bin"
        self.programs.mkdir()
        self.add("docker", DOCKER)
        monkeypatch.setenv("PATH", f"{self.programs}:/usr/bin:/bin")
        monkeypatch.setenv("FAKE_DOCKER", str(self.state))
        monkeypatch.setenv("FAKE_MODEL", str(manifest))
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://mirror.example/simple /srv/wheels file:///srv")
        monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
        monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
        self.output = StringIO()
        self.console = Console(file=self.output, width=200)

    def add(self, name: str, text: str) -> None:
        """Put a program on PATH."""
        (self.programs / name).write_text(text)
        (self.programs / name).chmod(0o755)

    def calls(self, word: str) -> list[list[str]]:
        lines = (self.state / "calls").read_text().splitlines()
        return [call for call in map(json.loads, lines) if call[0] == word]

    def built(self) -> list[str]:
        return [call[call.index("-t") + 1].partition(":")[0] for call in self.calls("build")]

    def build(self, *names: str, **arguments: str) -> dict[str, images.Built]:
        chosen = images.find_images(self.project, names)
        return images.build(self.project, chosen, self.console, arguments)

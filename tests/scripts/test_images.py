"""Images without Docker: a program of that name on PATH that writes down what it is asked and answers."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from scripts import images
from scripts.errors import CannotRun, UserError
from scripts.project import Project
from tests.projects import ROOT

VERIFY = ROOT / "k8s" / "verify_model.py"
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
    labels = {{"modelswarm.model.digest": digest}}
    rows = [
        {{"Id": (state / each.replace("/", "_")).read_text(), "Size": 5e6, "RepoTags": [each],
          "RepoDigests": [each.rpartition(":")[0] + "@sha256:abc"], "Config": {{"Labels": labels}}}}
        for each in found
    ]
    print(json.dumps(rows))
    sys.exit(len(found) != len(words[2:]))
elif words[0] == "tag":
    (state / words[2].replace("/", "_")).write_text((state / words[1].replace("/", "_")).read_text())
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
        program = folder / "bin" / "docker"
        program.parent.mkdir()
        program.write_text(DOCKER)
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
        monkeypatch.setenv("FAKE_DOCKER", str(self.state))
        monkeypatch.setenv("FAKE_MODEL", str(manifest))
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://mirror.example/simple /srv/wheels file:///srv")
        monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
        monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
        self.output = StringIO()
        self.console = Console(file=self.output, width=200)

    def calls(self, word: str) -> list[list[str]]:
        lines = (self.state / "calls").read_text().splitlines()
        return [call for call in map(json.loads, lines) if call[0] == word]

    def built(self) -> list[str]:
        return [call[call.index("-t") + 1].partition(":")[0] for call in self.calls("build")]

    def build(self, *names: str, **arguments: str) -> dict[str, images.Built]:
        chosen = images.find_images(self.project, names)
        return images.build(self.project, chosen, self.console, arguments)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


class TestBuilding:
    def test_builds_every_backends_image_and_the_load_sides(self, machine: Machine) -> None:
        assert set(machine.build()) == {"locust", "a", "b"}
        assert sorted(machine.built()) == ["modelswarm/locust", "team/a", "team/b"]

    def test_builds_of_a_choice_only_these_and_the_load_side(self, machine: Machine) -> None:
        assert set(machine.build("b")) == {"locust", "b"}

    def test_lets_one_of_those_that_begin_alike_go_ahead(self, machine: Machine) -> None:
        images.build(machine.project, images.find_images(machine.project), machine.console, jobs=3)
        events = [json.loads(line) for line in (machine.state / "calls").read_text().splitlines()]
        words = [" ".join(each) for each in events]
        ended = next(at for at, line in enumerate(words) if line.startswith("built team_a"))
        began = next(at for at, line in enumerate(words) if line.startswith("build ") and "team/b" in line)
        assert ended < began

    def test_puts_in_the_digest_of_the_export(self, machine: Machine) -> None:
        built = machine.build("a")
        assert "MODEL_DIGEST=sha256:123" in machine.calls("build")[0]
        assert built["a"].model_digest == "sha256:123"

    def test_hands_on_those_of_pips_sources_that_a_build_can_reach(self, machine: Machine) -> None:
        machine.build("a")
        given = [word for word in machine.calls("build")[0] if "=" in word]
        assert "PIP_EXTRA_INDEX_URL=https://mirror.example/simple" in given
        assert "HTTPS_PROXY=http://proxy.example:3128" in given
        assert not any("/srv" in word for word in given)

    def test_lets_the_caller_have_the_last_word(self, machine: Machine) -> None:
        machine.build("a", TORCH="torch==2.13.0")
        assert "TORCH=torch==2.13.0" in machine.calls("build")[0]

    def test_says_what_was_built_and_what_was_up_to_date(self, machine: Machine) -> None:
        machine.build()
        (machine.project.root / "services" / "a" / "Dockerfile").write_text(
            "FROM python:3.11-slim\nCMD new\n"
        )
        machine.output.truncate(0)
        machine.build()
        said = machine.output.getvalue()
        assert "a: built, 5 MB" in said
        assert "b: up to date, 5 MB" in said


class TestWhatCannotBeBuilt:
    def test_a_backend_that_is_not_there_is_named_with_the_nearest(self, machine: Machine) -> None:
        with pytest.raises(UserError, match="There is no image 'locus'; did you mean 'locust'"):
            images.find_images(machine.project, ["locus"])

    def test_without_an_export_says_what_makes_one(self, machine: Machine) -> None:
        (machine.project.model_dir / "manifest.json").unlink()
        with pytest.raises(CannotRun, match="no export to put into images: run `modelswarm setup`"):
            machine.build()

    def test_a_failed_build_shows_its_last_lines(self, machine: Machine) -> None:
        (machine.state / "fault").touch()
        with pytest.raises(CannotRun, match="No matching distribution found for x==9") as failure:
            machine.build("a")
        assert "`docker build -f …` ended with 1" in str(failure.value)

    def test_without_docker_says_so(self, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "/nowhere")
        with pytest.raises(CannotRun, match="Docker is not installed"):
            machine.build("a")

    def test_with_its_daemon_down_gives_its_reason(self, machine: Machine) -> None:
        (machine.state / "down").touch()
        with pytest.raises(CannotRun, match="does not answer \\(Cannot connect to the daemon\\)"):
            machine.build("a")


class TestPushing:
    def test_gives_the_reference_by_digest(self, machine: Machine) -> None:
        machine.build("a")
        chosen = images.find_images(machine.project, ["a"])
        references = images.push(chosen, "registry.example/lab/", machine.console)
        assert references["a"] == "registry.example/lab/team/a@sha256:abc"

    def test_of_what_is_not_built_says_what_builds_it(self, machine: Machine) -> None:
        chosen = images.find_images(machine.project, ["a"])
        with pytest.raises(CannotRun, match="is not built: run `modelswarm images build` first"):
            images.push(chosen, "registry.example", machine.console)


class TestTheModelInside:
    @pytest.mark.parametrize(
        ("label", "same", "words"),
        [
            ("sha256:123", True, "sha256:123…"),
            ("sha256:456", False, "sha256:456…, not the export"),
            ("", False, "unknown: not built by `modelswarm images build`"),
        ],
    )
    def test_is_compared_with_the_export(self, label: str, same: bool, words: str) -> None:
        assert images.agreement(images.Built("id", 1, label, ()), "sha256:123") == (same, words)


def write_export(folder: Path) -> str:
    """Write a small export with a true manifest; return its digest."""
    (folder / "images").mkdir(parents=True)
    files = {}
    for name in ("labels.txt", "images/x.jpg"):
        (folder / name).write_bytes(name.encode())
        files[name] = {"sha256": hashlib.sha256(name.encode()).hexdigest(), "bytes": len(name)}
    files["model.onnx"] = {"sha256": "0", "bytes": 1}  # of the export, but not in this image
    digest = f"sha256:{hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()}"
    (folder / "manifest.json").write_text(json.dumps({"digest": digest, "files": files}))
    return digest


class TestVerifyingAnImagesModel:
    def verify(self, *words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(VERIFY), *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def test_passes_a_part_of_the_export_that_the_label_names(self, tmp_path: Path) -> None:
        digest = write_export(tmp_path / "model")
        assert self.verify(tmp_path / "model", digest).returncode == 0

    def test_passes_without_a_label_as_in_a_build_by_hand(self, tmp_path: Path) -> None:
        write_export(tmp_path / "model")
        assert self.verify(tmp_path / "model", "").returncode == 0

    @pytest.mark.parametrize(
        ("spoil", "words"),
        [
            (lambda folder: (folder / "labels.txt").write_text("other"), "labels.txt is not the file"),
            (lambda folder: (folder / "more.bin").write_text("x"), "more.bin is not part of the export"),
            (lambda folder: (folder / "manifest.json").unlink(), "manifest.json cannot be read"),
            (lambda folder: _forge(folder / "manifest.json"), "digest is not that of its files"),
            (lambda folder: _empty(folder), "holds nothing but its manifest"),
        ],
    )
    def test_fails_what_is_not_the_export(
        self, spoil: Callable[[Path], None], words: str, tmp_path: Path
    ) -> None:
        digest = write_export(tmp_path / "model")
        spoil(tmp_path / "model")
        done = self.verify(tmp_path / "model", digest)
        assert done.returncode == 1
        assert words in done.stdout

    def test_fails_another_export_than_the_label_names(self, tmp_path: Path) -> None:
        write_export(tmp_path / "model")
        done = self.verify(tmp_path / "model", "sha256:other")
        assert done.returncode == 1
        assert "the build was told sha256:other" in done.stdout


def _forge(manifest: Path) -> None:
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(content | {"digest": "sha256:forged"}))


def _empty(folder: Path) -> None:
    (folder / "labels.txt").unlink()
    (folder / "images" / "x.jpg").unlink()


class TestTheNodesThatRunPods:
    @staticmethod
    def node(name: str, role: str | None = None, *taints: str) -> dict[str, Any]:
        labels = {} if role is None else {images.ROLE_LABEL: role}
        given = [{"key": key, "effect": "NoSchedule"} for key in taints]
        return {"metadata": {"name": name, "labels": labels}, "spec": {"taints": given}}

    def test_are_all_but_the_control_plane_with_their_roles(self) -> None:
        nodes = [self.node("plane", None, "node-role.kubernetes.io/control-plane"), self.node("a", "server")]
        assert images.pod_nodes(nodes) == {"a": "server"}

    def test_are_known_before_they_are_ready(self) -> None:
        # Otherwise the images of a cluster made a moment ago would go to its every node.
        assert images.pod_nodes([self.node("new", "server", "node.kubernetes.io/not-ready")]) == {
            "new": "server"
        }

"""Images without Docker."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.cluster import images
from scripts.errors import CannotRun, UserError
from tests.projects import ROOT
from tests.scripts.docker_machine import Machine

VERIFY = ROOT / "k8s" / "verify_model.py"


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


class TestAFrameworkThatHasAStandIn:
    @pytest.fixture
    def twofold(self, machine: Machine) -> Machine:
        """Backend `a` as a stand-in, and as the framework itself."""
        folder = machine.project.root / "services" / "a"
        (folder / "Dockerfile").write_text("FROM x\nLABEL stand_in=true\n")
        (folder / images.OFFICIAL).write_text("FROM y\nLABEL stand_in=false\n")
        return machine

    def build(self, machine: Machine, official: bool | None) -> bool | None:
        chosen = images.find_images(machine.project, ["a"])
        return images.build(machine.project, chosen, machine.console, official=official)["a"].stand_in

    def test_is_built_as_that_unless_the_framework_is_asked_for(self, twofold: Machine) -> None:
        assert self.build(twofold, None) is True
        assert self.build(twofold, True) is False

    def test_stays_what_it_is_until_the_other_is_asked_for(self, twofold: Machine) -> None:
        self.build(twofold, True)
        assert self.build(twofold, None) is False
        assert self.build(twofold, False) is True


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
        assert images.agreement(images.Built("id", 1, label), "sha256:123") == (same, words)


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

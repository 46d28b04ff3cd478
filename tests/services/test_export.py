"""The export's book-keeping, which needs no ML library: nothing twice, nothing by halves."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.model import export
from services.model.export import CannotExport, digest_of_inputs, is_current, main


def silent(_: str) -> None: ...


def make_export(folder: Path, inputs: str = "sha256:1", content: str = "weights") -> Path:
    folder.mkdir(parents=True)
    (folder / "weights.npz").write_text(content)
    manifest = {"inputs": inputs, "files": export._files(folder)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def break_off(out: Path, error: BaseException) -> None:
    """Fail in the middle of an export."""
    with export._replacing(out) as building:
        assert not list(building.iterdir())
        (building / "half.txt").write_text("half")
        raise error


class TestIsCurrent:
    def test_an_unharmed_export_of_the_same_inputs_is(self, tmp_path: Path) -> None:
        assert is_current(make_export(tmp_path / "model"), "sha256:1")

    def test_one_of_other_inputs_is_not(self, tmp_path: Path) -> None:
        assert not is_current(make_export(tmp_path / "model"), "sha256:2")

    def test_a_changed_a_missing_and_an_extra_file_each_make_it_stale(self, tmp_path: Path) -> None:
        (make_export(tmp_path / "changed") / "weights.npz").write_text("WEIGHTS")
        (make_export(tmp_path / "missing") / "weights.npz").unlink()
        (make_export(tmp_path / "extra") / "more.txt").write_text("more")
        for name in ("changed", "missing", "extra"):
            assert not is_current(tmp_path / name, "sha256:1"), name

    @pytest.mark.parametrize("manifest", ["", "null", "[]", "{}", '{"inputs": "sha256:1"}'])
    def test_a_damaged_manifest_makes_it_stale(self, tmp_path: Path, manifest: str) -> None:
        (make_export(tmp_path / "model") / "manifest.json").write_text(manifest)
        assert not is_current(tmp_path / "model", "sha256:1")

    def test_no_export_is_not_one(self, tmp_path: Path) -> None:
        assert not is_current(tmp_path / "model", "sha256:1")


class TestDigestOfInputs:
    def test_is_the_same_twice_and_other_for_other_options(self, tmp_path: Path) -> None:
        (tmp_path / "cat.jpg").write_bytes(b"cat")
        digests = [digest_of_inputs("auto", None), digest_of_inputs("imagenet", None)]
        digests.append(digest_of_inputs("auto", tmp_path))
        (tmp_path / "cat.jpg").write_bytes(b"dog")
        digests.append(digest_of_inputs("auto", tmp_path))
        (tmp_path / "cat.jpg").rename(tmp_path / "dog.jpg")
        digests.append(digest_of_inputs("auto", tmp_path))
        assert len(set(digests)) == len(digests)
        assert digest_of_inputs("auto", None) == digests[0]

    def test_covers_the_code_and_the_pinned_requirements(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(export, "HERE", tmp_path)
        (tmp_path / "requirements.txt").write_text("torch==2.13.0\n")
        digests = [digest_of_inputs("auto", None)]
        (tmp_path / "requirements.txt").write_text("torch==2.14.0\n")
        digests.append(digest_of_inputs("auto", None))
        (tmp_path / "images.py").write_text("pass\n")
        digests.append(digest_of_inputs("auto", None))
        assert len(set(digests)) == 3


class TestReplacing:
    def test_success_puts_the_new_one_in_place_and_leaves_nothing_else(self, tmp_path: Path) -> None:
        out = make_export(tmp_path / "model")
        with export._replacing(out) as building:
            (building / "new.txt").write_text("new")
        assert [path.name for path in out.iterdir()] == ["new.txt"]
        assert [path.name for path in tmp_path.iterdir()] == ["model"]

    @pytest.mark.parametrize("error", [RuntimeError("crash"), KeyboardInterrupt()])
    def test_a_crash_leaves_the_old_one_and_nothing_else(self, tmp_path: Path, error: BaseException) -> None:
        out = make_export(tmp_path / "model")
        with pytest.raises(type(error)):
            break_off(out, error)
        assert is_current(out, "sha256:1")
        assert [path.name for path in tmp_path.iterdir()] == ["model"]

    def test_an_export_that_was_killed_between_its_two_renames_is_put_back(self, tmp_path: Path) -> None:
        make_export(tmp_path / ".model.old")
        (tmp_path / ".model.building").mkdir()
        (tmp_path / ".model.building" / "left-over.txt").write_text("half")
        with pytest.raises(RuntimeError):
            break_off(tmp_path / "model", RuntimeError("crash"))
        assert is_current(tmp_path / "model", "sha256:1")

    def test_a_full_disk_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(CannotExport, match="No space left"), export._replacing(tmp_path / "model"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def test_a_full_disk_is_named_when_a_library_has_its_own_words(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(export, "NEEDED_BYTES", 10**18)
        with pytest.raises(CannotExport, match="full"), export._replacing(tmp_path / "model"):
            raise RuntimeError("PytorchStreamWriter failed writing file data/17")


class TestCommand:
    def test_refuses_a_folder_that_is_not_an_export(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "thesis.txt").write_text("years of work")
        assert main(["--out", str(tmp_path)]) == 2
        assert "choose another --out" in capsys.readouterr().err
        assert (tmp_path / "thesis.txt").exists()

    def test_refuses_a_file_as_target_and_a_folder_that_cannot_be_made(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "file").write_text("")
        assert main(["--out", str(tmp_path / "file")]) == 2
        assert main(["--out", str(tmp_path / "file" / "model")]) == 2
        assert capsys.readouterr().err.count("choose another --out") == 2

    def test_too_little_room_is_named_before_anything_is_built(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(export, "NEEDED_BYTES", 10**18)
        assert main(["--out", str(tmp_path / "model")]) == 1
        assert "MB free" in capsys.readouterr().err

    def test_a_second_export_waits_for_the_first_and_says_so(self, tmp_path: Path, root: Path) -> None:
        code = "import sys; from pathlib import Path; from services.model.export import _locked\n"
        code += "with _locked(Path(sys.argv[1]), lambda message: print(message, flush=True)): print('in')"
        with export._locked(tmp_path / "model", silent):
            second = subprocess.Popen(
                [sys.executable, "-c", code, tmp_path / "model"], cwd=root, stdout=subprocess.PIPE, text=True
            )
            assert second.stdout is not None
            assert "waiting" in second.stdout.readline()
            assert second.poll() is None
        assert second.communicate(timeout=30)[0] == "in\n"

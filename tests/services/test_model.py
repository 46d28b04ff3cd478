"""What the export makes, checked in its own environment: agreement, sameness, images."""

from __future__ import annotations

import io
import json
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from services.model.contract import MAX_IMAGE_BYTES
from tests.projects import ROOT
from tests.services.environments import MODEL, run_in

pytestmark = pytest.mark.server


def output_of(code: str, *arguments: object) -> Any:
    """Run code in the model's environment and parse the JSON that it prints last."""
    done = run_in("model", code, *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def copy(model_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_dir, tmp_path / "model"))


class TestAgreement:
    def test_holds_and_a_tampered_export_or_top_5_is_named(self, model_dir: Path, tmp_path: Path) -> None:
        """One test, because loading TensorFlow takes longer than everything else."""
        onnx, top5 = (shutil.copytree(model_dir, tmp_path / name) for name in ("onnx", "top5"))
        images = json.loads((top5 / "images.json").read_text())
        images[3]["top5"][0], images[3]["top5"][1] = images[3]["top5"][1], images[3]["top5"][0]
        (top5 / "images.json").write_text(json.dumps(images))
        code = """if True:
            import json, sys, numpy, onnx
            from pathlib import Path
            from services.model.agreement import Disagreement, check

            def outcome(folder):
                try:
                    return check(folder)
                except Disagreement as error:
                    return str(error)

            untouched, tampered, swapped = map(Path, sys.argv[1:])
            model = onnx.load(tampered / "model.onnx")
            bias = next(t for t in model.graph.initializer if t.name.endswith("predictions.bias"))
            values = onnx.numpy_helper.to_array(bias) + numpy.linspace(0, 0.01, 1000, dtype="float32")
            bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
            onnx.save(model, tampered / "model.onnx")
            print(json.dumps([outcome(folder) for folder in (untouched, tampered, swapped)]))
        """
        largest, tampered, swapped = output_of(code, model_dir, onnx, top5)
        assert 0 < largest < 1e-4
        assert tampered.startswith("ONNX ")
        assert f"answers {images[3]['file']} with top 5" in swapped


class TestExport:
    def test_a_second_one_takes_under_2_s_and_imports_no_ml_library(self, copy: Path) -> None:
        code = """if True:
            import json, sys
            from services.model.export import main
            status = main(["--out", sys.argv[1]])
            heavy = {"torch", "tensorflow", "keras", "numpy", "PIL"} & set(sys.modules)
            print(json.dumps([status, sorted(heavy)]))
        """
        output_of(code, copy)  # brings a stale one up to date
        before = time.monotonic()
        assert output_of(code, copy) == [0, []]
        assert time.monotonic() - before < 2

    def test_bad_images_are_all_named_and_nothing_is_made(self, tmp_path: Path) -> None:
        own, out = tmp_path / "own", tmp_path / "model"
        own.mkdir()
        (own / "notes.txt").write_text("hello")
        (own / "cut.jpg").write_bytes((ROOT / "artifacts/model/images/china.jpg").read_bytes()[:9000])
        Image.new("RGB", (64, 64), "teal").save(own / "fine.png")
        code = "import sys; from services.model.export import main; sys.exit(main(sys.argv[1:]))"
        done = run_in("model", code, "--out", out, "--images", own)
        assert done.returncode == 2
        assert "notes.txt: " in done.stderr
        assert "cut.jpg: " in done.stderr
        assert "fine.png" not in done.stderr
        assert not out.exists()
        done = run_in("model", code, "--out", out, "--images", tmp_path / "nowhere")
        assert done.returncode == 2
        assert "nowhere is not a folder" in done.stderr


class TestManifest:
    def test_names_what_the_design_asks_for(self, model_dir: Path) -> None:
        manifest = json.loads((model_dir / "manifest.json").read_text())
        assert manifest["architecture"] == "MobileNetV2"
        assert manifest["weights"]["source"] in ("imagenet", "synthetic")
        if manifest["weights"]["source"] == "synthetic":
            assert "Synthetic" in manifest["weights"]["description"]
        assert {"weights.npz", "model.torchscript.pt", "model.onnx", "labels.txt"} <= set(manifest["files"])
        assert {"keras", "tensorflow", "torch", "onnx"} <= set(manifest["versions"])
        assert manifest["digest"].startswith("sha256:")

    def test_there_are_1000_labels_with_imagenets_names(self, model_dir: Path) -> None:
        labels = (model_dir / "labels.txt").read_text().splitlines()
        assert len(labels) == 1000
        assert (labels[0], labels[281], labels[999]) == ("tench", "tabby", "toilet tissue")


class TestWeights:
    def test_synthetic_ones_are_the_same_bit_for_bit_whatever_the_cores(self) -> None:
        code = """if True:
            import hashlib, json, torch
            from services.model import weights

            weights.SIDE = 64  # the same work on smaller pictures
            digests = []
            for threads in (1, 4):
                torch.set_num_threads(threads)
                arrays = weights.synthetic(lambda message: None).arrays
                parts = [path.encode() + arrays[path].tobytes() for path in sorted(arrays)]
                digests.append(hashlib.sha256(b"".join(parts)).hexdigest())
            print(json.dumps(digests))
        """
        assert len(set(output_of(code))) == 1

    def test_imagenet_ones_that_cannot_be_downloaded_end_in_a_sentence_or_in_synthetic_ones(self) -> None:
        code = """if True:
            import json, sys, types
            from services.model import weights

            def offline(**_):
                raise Exception("URL fetch failure on X: None -- [Errno -2] Name not known")

            applications = types.SimpleNamespace(MobileNetV2=offline)
            sys.modules["keras"] = types.SimpleNamespace(applications=applications)
            weights.synthetic = lambda say: weights.Sourced("synthetic", "", {})
            said = []
            source = weights.load("auto", said.append).source
            try:
                weights.load("imagenet", said.append)
            except weights.NoDownload as error:
                print(json.dumps([source, said, str(error)]))
        """
        source, said, error = output_of(code)
        assert source == "synthetic"
        assert said[1] == f"{error}; making synthetic weights instead"
        assert error == "ImageNet weights cannot be downloaded ([Errno -2] Name not known)"


class TestTestImages:
    def test_each_payload_class_has_three_within_its_bounds(self, model_dir: Path) -> None:
        images = json.loads((model_dir / "images.json").read_text())
        if any(image["source"].startswith("--images") for image in images):
            pytest.skip("artifacts/model has the user's own images")
        bounds = {"small": (5e3, 2e4), "medium": (4e4, 1.2e5), "large": (3e5, 8e5)}
        for image in images:
            low, high = bounds[image["payload"]]
            assert low <= image["bytes"] <= high, image["file"]
        assert min(Counter(image["payload"] for image in images).values()) >= 3

    def test_images_json_describes_the_files(self, model_dir: Path) -> None:
        for image in json.loads((model_dir / "images.json").read_text()):
            jpeg = (model_dir / image["file"]).read_bytes()
            assert len(jpeg) == image["bytes"]
            assert Image.open(io.BytesIO(jpeg)).size == (image["width"], image["height"])
            assert image["licence"]
            assert len(image["top5"]) == 5

    def test_most_are_told_apart(self, model_dir: Path) -> None:
        images = json.loads((model_dir / "images.json").read_text())
        assert len({image["top5"][0]["class_id"] for image in images}) > 0.8 * len(images)

    def test_the_users_own_are_taken_as_they_are_or_as_a_jpeg_of_them(
        self, model_dir: Path, tmp_path: Path
    ) -> None:
        jpeg = (model_dir / "images" / "china.jpg").read_bytes()
        picture = Image.open(io.BytesIO(jpeg))
        (tmp_path / "a.jpg").write_bytes(jpeg)
        picture.convert("CMYK").save(tmp_path / "b.jpeg", "JPEG")
        picture.save(tmp_path / "a.png")
        (tmp_path / ".DS_Store").write_bytes(b"not an image")
        code = """if True:
            import json, sys, hashlib
            from pathlib import Path
            from services.model.images import own
            print(json.dumps([[p.name, p.payload, hashlib.sha256(next(iter(p.encodings))).hexdigest()]
                              for p in own(Path(sys.argv[1]))]))
        """
        found = output_of(code, tmp_path)
        assert [name for name, _, _ in found] == ["a", "a.png", "b"]
        stored = {image["file"]: image for image in json.loads((MODEL / "images.json").read_text())}
        assert found[0][1:] == ["medium", stored["images/china.jpg"]["sha256"]]

    def test_one_that_is_too_large_for_the_servers_is_refused(self, model_dir: Path, tmp_path: Path) -> None:
        jpeg = (model_dir / "images" / "china.jpg").read_bytes()
        (tmp_path / "fits.jpg").write_bytes(jpeg + bytes(MAX_IMAGE_BYTES - len(jpeg)))
        code = """if True:
            import json, sys
            from pathlib import Path
            from services.model.images import BadImages, own
            try:
                print(json.dumps([p.name for p in own(Path(sys.argv[1]))]))
            except BadImages as error:
                print(json.dumps(str(error)))
        """
        assert output_of(code, tmp_path) == ["fits"]
        (tmp_path / "large.jpg").write_bytes(jpeg + bytes(MAX_IMAGE_BYTES + 1 - len(jpeg)))
        said = output_of(code, tmp_path)
        assert "large.jpg: as a JPEG it has 12,582,145 bytes; servers take 12,582,144 at most" in said
        assert "fits.jpg" not in said

    def test_one_whose_ranks_are_too_close_is_encoded_otherwise_or_left_out(self) -> None:
        code = """if True:
            import json, numpy
            from services.model.images import Picture, choose, lead
            clear, close = numpy.full(1000, 1e-4), numpy.full(1000, 1e-4)
            clear[:6] = [0.3, 0.2, 0.1, 0.05, 0.02, 0.01]
            close[:6] = [0.3, 0.2, 0.1, 0.05, 0.02, 0.0199]
            answers = {b"clear": clear, b"close": close}
            pictures = [Picture("first", "", "", "small", [b"close", b"clear"]),
                        Picture("second", "", "", "small", [b"close"])]
            said = []
            chosen = list(choose(pictures, answers.get, said.append))
            print(json.dumps([[p.name + ":" + j.decode() for p, j in chosen], said, lead(numpy.zeros(1000))]))
        """
        chosen, said, nothing = output_of(code)
        assert chosen == ["first:clear"]
        assert said == ["left out second: two of its first six classes are too close to call"]
        assert nothing == 0

"""What is special to the text classifier: its checkpoint, its payloads, its weights."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from locustfiles.engine.payloads import Image
from locustfiles.huggingface_user import HuggingfaceUser
from tests.services.backends import Backend, running
from tests.services.environments import run_in

TWICE = """if True:
    import hashlib, tempfile
    from pathlib import Path
    from services.huggingface.checkpoint import write_tiny

    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            write_tiny(Path(folder))
            print(hashlib.sha256((Path(folder) / "model.safetensors").read_bytes()).hexdigest())
"""


class TestTexts:
    @pytest.fixture
    def texts(self) -> list[Image]:
        return list(HuggingfaceUser.payloads("mix"))

    def test_come_in_every_payload_class(self, texts: list[Image]) -> None:
        assert Counter(text.payload for text in texts) == {"small": 3, "medium": 3, "large": 3}
        assert {text.payload for text in HuggingfaceUser.payloads("large")} == {"large"}

    def test_are_sent_as_text(self, texts: list[Image]) -> None:
        assert json.loads(HuggingfaceUser.encode(texts[0])) == {"instances": [texts[0].jpeg.decode()]}

    def test_have_answers_that_cannot_be_taken_for_one_another(self, texts: list[Image]) -> None:
        for one in texts:
            assert [other.name for other in texts if other.agrees(one.top5)] == [one.name]

    def test_agree_with_trained_weights_that_are_sure_of_the_plain_sentiment(
        self, texts: list[Image]
    ) -> None:
        praise, complaint = texts[0], texts[1]
        assert praise.agrees([(1, 0.99), (0, 0.01)])
        assert complaint.agrees([(0, 0.99), (1, 0.01)])
        assert not praise.agrees([(0, 0.99), (1, 0.01)])
        assert not praise.agrees([(1, 0.8), (0, 0.2)])


@pytest.mark.server
class TestTinyCheckpoint:
    def test_is_the_same_each_time(self) -> None:
        done = run_in("huggingface", TWICE)
        assert done.returncode == 0, done.stderr[-2000:]
        one, other = done.stdout.split()[-2:]
        assert one == other


@pytest.mark.server
class TestServer:
    def test_classifies_one_text_a_request_and_says_so(self, tmp_path: Path) -> None:
        with running("huggingface", tmp_path) as backend:
            assert self.ask(backend, ["a"] * 2) == (400, "`instances` holds 2 texts; send one a request")
            for bad in ([], [1], [""], ["  "], [None], [["a"]], "a"):
                status, sentence = self.ask(backend, bad)
                assert (status, "instances" in sentence) == (400, True), bad
            assert self.ask(backend, ["x" * 100_001])[0] == 400
            assert self.ask(backend, ["long " * 19_000])[0] == 200
            assert self.ask(backend, ["ÄÖÜ 🙂 \u0000 \u200b"])[0] == 200

    def ask(self, backend: Backend, instances: object) -> tuple[int, str]:
        url = f"{backend.server.url}/v1/models/distilbert:predict"
        body = json.dumps({"instances": instances}).encode()
        try:
            with urlopen(Request(url, body, {"Content-Type": "application/json"}), timeout=60) as answer:
                return answer.status, ""
        except HTTPError as error:
            return error.code, json.loads(error.read())["error"]

    @pytest.mark.parametrize(
        ("weights", "words"),
        [("hub", "distilbert-base-uncased-finetuned-sst-2-english"), ("large", "write tiny or hub")],
    )
    def test_without_its_weights_ends_by_itself_and_says_why(
        self, tmp_path: Path, weights: str, words: str
    ) -> None:
        variables = {"MODELSWARM_WEIGHTS": weights, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
        ends = pytest.raises(AssertionError, match="exited with status 1")
        with ends, running("huggingface", tmp_path, **variables) as backend:
            pytest.fail(f"{backend.key} started")
        assert words in (tmp_path / "huggingface.log").read_text()

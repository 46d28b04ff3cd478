"""A text classifier under load: `locust -f locustfiles/huggingface_user.py --shape poisson --rate 50`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from locustfiles.engine import ModelUser
from locustfiles.engine.payloads import Answer, Image

TEXTS = Path(__file__).with_name("huggingface_texts.json")
SURE = 0.9


@dataclass(frozen=True)
class Text(Image):
    """A text in UTF-8 in place of a JPEG, with the answer of the tiny checkpoint, and its plain sentiment."""

    sentiment: int

    def agrees(self, answer: Answer) -> bool:
        """The tiny checkpoint's own answer, or the plain sentiment from one that is sure: trained weights."""
        best, confidence = answer[0]
        return super().agrees(answer) or (best == self.sentiment and confidence > SURE)


class HuggingfaceUser(ModelUser):
    """A caller of services/huggingface."""

    service = "huggingface"

    @classmethod
    def payloads(cls, payload: str) -> Sequence[Image]:
        """Sentences, paragraphs and pages of English, in place of images."""
        rows = json.loads(TEXTS.read_text(encoding="utf-8"))
        return [
            Text(
                name=row["name"],
                payload=row["payload"],
                jpeg=row["text"].encode(),
                top5=tuple((label, confidence) for label, confidence in row["tiny"]),
                sentiment=row["sentiment"],
            )
            for row in rows
            if payload in ("mix", row["payload"])
        ]

    @classmethod
    def encode(cls, image: Image) -> bytes:
        """`{"instances": ["…"]}`."""
        return json.dumps({"instances": [image.jpeg.decode()]}).encode()

    @classmethod
    def decode(cls, body: bytes) -> Answer:
        """`{"predictions": [[{"class_id", "confidence"}, …]]}`."""
        [labels] = json.loads(body)["predictions"]
        return [(p["class_id"], p["confidence"]) for p in labels]

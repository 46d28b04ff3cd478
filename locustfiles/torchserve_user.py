"""TorchServe under load: `MODELSWARM_KEY_FILE=key_file.json locust -f locustfiles/torchserve_user.py`.

TorchServe makes up a key at each start and writes it to `key_file.json` in its working folder. The
environment names that file, or holds its text (`MODELSWARM_KEYS`, for who cannot read the file itself).
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from locustfiles.engine import ModelUser
from locustfiles.engine.payloads import Answer, Image


class TorchserveUser(ModelUser):
    """A caller of services/torchserve: the JPEG is the body."""

    service = "torchserve"
    content_type = "image/jpeg"

    @classmethod
    def encode(cls, image: Image) -> bytes:
        """The JPEG as it is."""
        return image.jpeg

    @classmethod
    def headers(cls, image: Image, body: bytes) -> Mapping[str, str]:
        """The key, where there is one."""
        key = _key()
        return {"Authorization": f"Bearer {key}"} if key else {}

    @classmethod
    def decode(cls, body: bytes) -> Answer:
        """`{"predictions": [{"class_id", "confidence"}, …]}`."""
        return [(p["class_id"], p["confidence"]) for p in json.loads(body)["predictions"]]


def _key() -> str:
    """Return the key for predictions, empty where nothing names one.

    Raises:
        ValueError: the file is no key file of TorchServe's.

    """
    text, file = os.environ.get("MODELSWARM_KEYS"), os.environ.get("MODELSWARM_KEY_FILE")
    if not text and not file:
        return ""
    try:
        return str(json.loads(text or Path(str(file)).read_text())["inference"]["key"])
    except FileNotFoundError:
        return ""  # without authorization TorchServe makes none
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file or 'MODELSWARM_KEYS'} holds no key of TorchServe's: {error!r}") from error

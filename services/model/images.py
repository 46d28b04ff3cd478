"""Test images: photographs that packages ship with a free licence, generated pictures, and the user's own."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from services.model.contract import MAX_IMAGE_BYTES
from services.model.runtime import TOP, BadInput, decode

Array = np.ndarray[Any, Any]

# Bytes of a JPEG in each payload class, from and to.
PAYLOADS = {"small": (5_000, 20_000), "medium": (40_000, 120_000), "large": (300_000, 800_000)}
MIN_PER_PAYLOAD = 3
QUALITIES = (92, 90, 88, 85, 80, 75, 70, 65, 60, 97, 96, 95)
# The smallest difference of log-probability between neighbours among the first six classes. The exports
# differ by 4e-4 at most, so that none can swap two of them.
MIN_LEAD = 0.02
# Samples of a class that the synthetic head was not fitted to.
UNSEEN = 7


class BadImages(ValueError):
    """The user's image folder cannot be used; one line for each bad file."""


@dataclass(frozen=True)
class Picture:
    """A candidate for a test image: one picture in one or more encodings, the best first."""

    name: str
    source: str
    licence: str
    payload: str
    encodings: Iterable[bytes]


@dataclass(frozen=True)
class Photograph:
    """A picture file inside an installed package, and the longest side to show it at."""

    package: str
    path: str
    side: int
    payload: str
    licence: str


NASA = "public domain (NASA)"
CC_BY = "CC BY 2.0, danielbuechele / vultilion on Flickr"
PHOTOGRAPHS = (
    Photograph("skimage", "data/chelsea.png", 256, "small", "CC0 (Stefan van der Walt)"),
    Photograph("sklearn", "datasets/images/flower.jpg", 288, "small", CC_BY),
    Photograph("skimage", "data/coffee.png", 320, "small", "CC0 (Rachel Michetti)"),
    Photograph("skimage", "data/rocket.jpg", 640, "medium", "public domain (SpaceX)"),
    Photograph("skimage", "data/astronaut.png", 512, "medium", NASA),
    Photograph("sklearn", "datasets/images/china.jpg", 640, "medium", CC_BY),
    Photograph("skimage", "data/hubble_deep_field.jpg", 1000, "large", NASA),
    Photograph("skimage", "data/retina.jpg", 1411, "large", "CC0 (Häggström, WikiJournal of Medicine)"),
)
# Class of the generated picture, its size and its payload class.
GENERATED = (
    (11, 256, 192, "small"),
    (24, 800, 600, "medium"),
    (37, 1600, 1200, "large"),
    (42, 1920, 1080, "large"),
)


def shipped() -> Iterator[Picture]:
    """Yield the photographs that installed packages ship, then generated pictures."""
    for photo in PHOTOGRAPHS:
        spec = importlib.util.find_spec(photo.package)
        assert spec is not None
        assert spec.origin is not None
        image = Image.open(Path(spec.origin).parent / photo.path).convert("RGB")
        image.thumbnail((photo.side, photo.side))
        name = Path(photo.path).stem
        source = f"{photo.package}/{photo.path}"
        yield Picture(name, source, photo.licence, photo.payload, _encodings(image, photo.payload))
    for kind, width, height, payload in GENERATED:
        image = Image.fromarray(scene(kind, UNSEEN, width, height))
        yield Picture(f"scene-{kind}", "generated", "CC0", payload, _encodings(image, payload))


def own(folder: Path) -> list[Picture]:
    """Read the user's images: JPEGs as they are, anything else as a JPEG made of it.

    BadImages when there is none, or names every file that is not an image that the servers accept.
    """
    if not folder.is_dir():
        raise BadImages(f"{folder} is not a folder; give one that holds JPEG or PNG files")
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    if not files:
        raise BadImages(f"{folder} holds no files; put JPEG or PNG files into it")
    pictures, bad = [], []
    for path in files:
        try:
            jpeg = _as_jpeg(path.read_bytes())
        except BadInput as error:
            bad.append(f"{path.name}: {error}")
            continue
        name = path.stem if path.suffix.lower() in (".jpg", ".jpeg") else path.name
        payload = _payload_of(len(jpeg))
        pictures.append(Picture(name, f"--images, {path.name}", "the user's own", payload, [jpeg]))
    if bad:
        raise BadImages("\n".join([f"{folder} holds files that cannot be used; mend or remove them:", *bad]))
    return pictures


def choose(
    pictures: Iterable[Picture], probabilities: Callable[[bytes], Array], say: Callable[[str], None]
) -> Iterator[tuple[Picture, bytes]]:
    """Yield each picture in its first encoding whose top 5 is clear; say which have none.

    Two classes within rounding of each other may change places between two correct servers, and a check
    for parity would call one of them wrong.
    """
    for picture in pictures:
        jpeg = next((jpeg for jpeg in picture.encodings if lead(probabilities(jpeg)) >= MIN_LEAD), None)
        if jpeg is None:
            say(f"left out {picture.name}: two of its first six classes are too close to call")
        else:
            yield picture, jpeg


def lead(probabilities: Array) -> float:
    """The smallest difference of log-probability between neighbours among the first six classes."""
    best = np.sort(probabilities.astype(np.float64))[::-1][: TOP + 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.nan_to_num(-np.diff(np.log(best)), nan=0.0).min())


def _encodings(image: Image.Image, payload: str) -> Iterator[bytes]:
    low, high = PAYLOADS[payload]
    for quality in QUALITIES:
        jpeg = _encoded(image, quality)
        if low <= len(jpeg) <= high:
            yield jpeg


def _encoded(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _as_jpeg(encoded: bytes) -> bytes:
    rgb = decode(encoded)
    with Image.open(io.BytesIO(encoded)) as image:
        plain = image.format == "JPEG" and image.mode in ("RGB", "L")
    jpeg = encoded if plain else _encoded(Image.fromarray(rgb), 95)
    if len(jpeg) > MAX_IMAGE_BYTES:
        raise BadInput(f"as a JPEG it has {len(jpeg):,} bytes; servers take {MAX_IMAGE_BYTES:,} at most")
    return jpeg


def _payload_of(size_bytes: int) -> str:
    if size_bytes <= 30_000:
        return "small"
    return "medium" if size_bytes <= 200_000 else "large"


def scene(kind: int, sample: int, width: int, height: int) -> Array:
    """Draw sample `sample` of the generated class `kind` as [height, width, 3] bytes.

    A class is a palette, a texture and a few shapes; samples of it differ in position, scale, light and
    noise. The same four numbers give the same picture on every machine.
    """
    style, jitter = np.random.default_rng((1, kind)), np.random.default_rng((2, kind, sample))
    zoom = jitter.uniform(0.9, 1.1)
    x, y = np.meshgrid(
        np.linspace(-1, 1, width, dtype=np.float32) * zoom + jitter.uniform(-0.08, 0.08),
        np.linspace(-1, 1, height, dtype=np.float32) * zoom + jitter.uniform(-0.08, 0.08),
    )
    ground, other = style.uniform(0.1, 0.9, (2, 3)).astype(np.float32)
    wave = _wave(style, x, y)[..., np.newaxis]
    picture = ground + (other - ground) * wave
    for _ in range(style.integers(2, 6)):
        colour = style.uniform(0, 1, 3).astype(np.float32)
        mask = _shape(style, x, y)[..., np.newaxis]
        picture += mask * (colour - picture) * style.uniform(0.5, 1)
    picture *= jitter.uniform(0.9, 1.1)
    picture += jitter.normal(0, 0.02, picture.shape).astype(np.float32)
    result: Array = (picture.clip(0, 1) * 255).astype(np.uint8)
    return result


def _wave(rng: np.random.Generator, x: Array, y: Array) -> Array:
    """A grating or a pair of crossed ones, in [0, 1]."""
    angle, frequency = rng.uniform(0, np.pi), np.exp(rng.uniform(np.log(2), np.log(50)))
    along = np.cos(angle) * x + np.sin(angle) * y
    across = np.cos(angle) * y - np.sin(angle) * x
    wave = np.sin(frequency * along + rng.uniform(0, 6))
    wave *= np.cos(frequency * across * rng.choice([0, 0.5, 1]))
    result: Array = (0.5 + 0.5 * wave * rng.uniform(0.2, 1)).astype(np.float32)
    return result


def _shape(rng: np.random.Generator, x: Array, y: Array) -> Array:
    """A soft-edged ellipse, box or ring: 1 inside, 0 outside."""
    cx, cy = rng.uniform(-0.7, 0.7, 2)
    rx, ry = rng.uniform(0.1, 0.6, 2)
    u, v = (x - cx) / rx, (y - cy) / ry
    distance: Array = [np.hypot(u, v), np.maximum(abs(u), abs(v)), abs(np.hypot(u, v) - 0.7) + 0.6][
        rng.integers(3)
    ]
    result: Array = ((1 - distance) * rng.uniform(5, 20)).clip(0, 1).astype(np.float32)
    return result

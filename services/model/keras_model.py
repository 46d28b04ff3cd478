"""The same network in Keras, as a SavedModel that takes float images or JPEG bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from services.model.runtime import MAX_PIXELS, SIDE
from services.model.torch_model import Weights

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_HEAD_BYTES = 24


def save(weights: Weights, folder: Path) -> None:
    """Write a SavedModel with two signatures, each giving `probabilities`, [N, 1000].

    `serve` takes `images`, [N, 224, 224, 3] floats in [-1, 1]; `serving_jpeg` takes `image_bytes`, [N]
    strings (TensorFlow Serving decodes base64 for names that end in `_bytes`).
    """
    model = keras.applications.MobileNetV2(weights=None)
    for variable in model.weights:
        variable.assign(weights[variable.path])
    served = _Served(model)
    tf.saved_model.save(served, str(folder), {"serve": served.serve, "serving_jpeg": served.serving_jpeg})


class _Served(tf.Module):  # type: ignore[misc]
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    @tf.function(input_signature=[tf.TensorSpec([None, SIDE, SIDE, 3], tf.float32, name="images")])  # type: ignore[untyped-decorator]
    def serve(self, images: Any) -> dict[str, Any]:
        return {"probabilities": self.model(images, training=False)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])  # type: ignore[untyped-decorator]
    def serving_jpeg(self, image_bytes: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.serve(tf.map_fn(_decode, image_bytes, fn_output_signature=tf.float32))
        return answer


def _decode(encoded: Any) -> Any:
    """Do what `runtime.prepare` does: Pillow's decoder, too, uses the accurate transform."""
    too_large = f"at most {MAX_PIXELS // 10**6} megapixels are accepted"
    with tf.control_dependencies([tf.debugging.Assert(_pixels(encoded) <= MAX_PIXELS, [too_large])]):
        image = tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")
    return tf.image.resize(image, (SIDE, SIDE), "bilinear", antialias=True) / 127.5 - 1.0


def _pixels(encoded: Any) -> Any:
    """Width times height, from the header of a JPEG or PNG: decoding takes the memory first."""
    sides = tf.cond(
        tf.io.is_jpeg(encoded), lambda: tf.image.extract_jpeg_shape(encoded)[:2], lambda: _png_sides(encoded)
    )
    return tf.reduce_prod(tf.cast(sides, tf.int64))


def _png_sides(encoded: Any) -> Any:
    """Two big-endian numbers after the signature and the first chunk's length and name."""
    is_png = tf.strings.substr(encoded, 0, len(PNG_SIGNATURE)) == PNG_SIGNATURE
    with tf.control_dependencies([tf.debugging.Assert(is_png, ["the bytes are not a JPEG or PNG image"])]):
        head = tf.strings.substr(encoded, 0, PNG_HEAD_BYTES)
    words = tf.io.decode_raw(head, tf.int32, little_endian=False, fixed_length=PNG_HEAD_BYTES)
    return words[-2:]

"""Draws random crops with numpy, and computes their windows.

The crop of a view is a function of (seed, stream, epoch, example id, view) by
a counter-based generator: Philox 4x32-10 (Salmon et al. 2011), keyed as
`tf.random.stateless_uniform(alg='philox')` keys it, so the numbers are the same
bit for bit. A whole batch is drawn at once, so batches from the host and sets
that are resident on the device have the same windows.
"""

from collections.abc import Sequence
import math
from typing import Any, NamedTuple

import numpy as np

# Of the two views, and of the crop of supervised training.
PRETRAIN_STREAM, SUPERVISED_STREAM = 0, 1
_EPOCH_BITS = 40  # bits of a key below the epoch, for the example id
_ROUNDS = 10
_FACTORS = np.array([0xD2511F53, 0xCD9E8D57], np.uint64)
_WEYL = np.array([0x9E3779B9, 0xBB67AE85], np.uint64)
_SEED_KEY = np.array([0x3EC8F720, 0x02461E29], np.uint64)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


class CropRange(NamedTuple):
  """The nominal range of a crop, (low, high) each; method.md 3.2."""

  area: Sequence[float]  # share of the image's area
  ratio: Sequence[float]  # width / height


def _philox(counters: np.ndarray, keys: np.ndarray) -> np.ndarray:
  """Philox 4x32-10, uint64 [..., 4] and [..., 2] below 2^32 -> [..., 4]."""
  x0, x1, x2, x3 = (counters[..., i] for i in range(4))
  k0, k1 = keys[..., 0], keys[..., 1]
  for _ in range(_ROUNDS):
    first, second = _FACTORS[0] * x0, _FACTORS[1] * x2
    x0, x1, x2, x3 = (
      (second >> _HALF) ^ x1 ^ k0,
      second & _LOW,
      (first >> _HALF) ^ x3 ^ k1,
      first & _LOW,
    )
    k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
  return np.stack([x0, x1, x2, x3], axis=-1)


def draw_uniform(
  seed: int, stream: int, epochs: np.ndarray, ids: np.ndarray, count: int
) -> np.ndarray:
  """Returns float64 [N, count, 4] in [0, 1), a function of the arguments.

  Args:
    seed: of the run, taken modulo 2^63.
    stream: PRETRAIN_STREAM or SUPERVISED_STREAM, independent for a seed.
    epochs: int64 [N].
    ids: of the examples, int64 [N], below 2^40.
    count: number of views.
  """
  first = np.full(len(ids), (2 * seed + stream) % 2**64, np.uint64)
  second = (epochs.astype(np.uint64) << np.uint64(_EPOCH_BITS)) + ids.astype(
    np.uint64
  )
  parts = [first & _LOW, first >> _HALF, second & _LOW, second >> _HALF]
  mixed = _philox(np.stack(parts, axis=-1), _SEED_KEY)
  # Two float64 a block of four words, so two blocks a view.
  blocks = np.arange(2 * count, dtype=np.uint64)[None, :]
  counters = np.zeros((len(ids), 2 * count, 4), np.uint64)
  counters[..., 0] = blocks
  counters[..., 2:] = mixed[:, None, 2:]
  words = _philox(counters, mixed[:, None, :2])
  words = words.reshape(len(ids), count, 4, 2)
  mantissa = ((words[..., 0] & np.uint64(0xFFFFF)) << _HALF) | words[..., 1]
  return mantissa * 2.0**-52


def draw_crops(
  uniforms: np.ndarray, crop_ranges: Sequence[CropRange | None]
) -> np.ndarray:
  """Scales uniform numbers to crops, float64 [N, V, 4] both.

  The four numbers of a crop are its share of the area (uniform), its ratio
  width / height (log-uniform), and its offsets down and right in [0, 1).

  Args:
    uniforms: [N, V, 4] in [0, 1).
    crop_ranges: of each view; None leaves the numbers unchanged.
  """
  drawn = uniforms.copy()
  for i, crop_range in enumerate(crop_ranges):
    if crop_range is None:
      continue
    (low, high), ratio = crop_range.area, crop_range.ratio
    logs = math.log(ratio[0]), math.log(ratio[1])
    drawn[:, i, 0] = low + (high - low) * uniforms[:, i, 0]
    drawn[:, i, 1] = np.exp(logs[0] + (logs[1] - logs[0]) * uniforms[:, i, 1])
  return drawn


def compute_window(height: Any, width: Any, drawn: Any) -> tuple:
  """Returns (y, x, h, w) of a crop, whole numbers as float64; method.md 3.2.

  Sides are clamped to the image, without rejection, and are at least one
  pixel, where the official code would fail.

  Args:
    height, width: of the image, or arrays of them.
    drawn: [4, ...], the four numbers of `draw_crops`.
  """
  share, ratio, down, right = drawn[0], drawn[1], drawn[2], drawn[3]
  target = height * width * share
  w = np.rint(np.sqrt(target * ratio))
  h = np.rint(np.sqrt(target / ratio))
  w = np.maximum(np.minimum(w, width), 1.0)
  h = np.maximum(np.minimum(h, height), 1.0)
  return (
    np.floor(down * (height - h + 1)),
    np.floor(right * (width - w + 1)),
    h,
    w,
  )

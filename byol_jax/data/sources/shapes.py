"""Generates the embedded set: ten shapes at 32 x 32 pixels, without files.

An image is one bright shape on a dark background, as RGB JPEG bytes. The shape
is the class; colour, position, size, rotation, texture and background are
independent of it. An image is a pure function of (split, index), drawn at its
first use and kept: a whole set is about 5 MB.
"""

import functools
import hashlib
import io
import math

import numpy as np
from PIL import Image, ImageDraw

from byol_jax.data.sources import base

CLASSES = (
  *('arrow', 'bar', 'bowtie', 'circle', 'crescent'),
  *('cross', 'ring', 'square', 'star', 'triangle'),
)
SIZE = 32  # pixels
COUNTS = {'train': 4000, 'test': 1000}
_KEYS = {'train': 1, 'test': 2}
_OVERSAMPLING = 4  # shapes are drawn larger, then averaged: smooth edges
_REVISION = 1  # increase it with every change of the images

# Corners in units of the radius, y downwards. Each has its centre of mass
# near the origin.
_BAR = ((-1.0, -0.24), (1.0, -0.24), (1.0, 0.24), (-1.0, 0.24))
_CROSS = (
  *((-0.26, -0.95), (0.26, -0.95), (0.26, -0.26), (0.95, -0.26)),
  *((0.95, 0.26), (0.26, 0.26), (0.26, 0.95), (-0.26, 0.95)),
  *((-0.26, 0.26), (-0.95, 0.26), (-0.95, -0.26), (-0.26, -0.26)),
)
_ARROW = (
  *((1.0, 0.0), (0.1, -0.8), (0.1, -0.25), (-1.0, -0.25)),
  *((-1.0, 0.25), (0.1, 0.25), (0.1, 0.8)),
)
_BOWTIE = (
  *((-0.9, -0.7), (0.0, -0.08), (0.9, -0.7)),
  *((0.9, 0.7), (0.0, 0.08), (-0.9, 0.7)),
)


def _corners(*radii: float) -> tuple:
  """Corners at those distances from the centre, at equal angles."""
  angles = [2 * math.pi * i / len(radii) for i in range(len(radii))]
  return tuple(
    (r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles)
  )


_POLYGONS = {
  'arrow': _ARROW,
  'bar': _BAR,
  'bowtie': _BOWTIE,
  'cross': _CROSS,
  'square': _corners(*[1.0] * 4),
  'star': _corners(*[1.0, 0.4] * 5),
  'triangle': _corners(*[1.0] * 3),
}


def _disc(
  draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, fill: int
) -> None:
  draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)


def _mask(
  name: str, x: float, y: float, radius: float, angle: float
) -> np.ndarray:
  """Coverage of each pixel by a shape, float64 [SIZE, SIZE] in [0, 1].

  x, y and radius are in pixels, angle in radians.
  """
  image = Image.new('L', (SIZE * _OVERSAMPLING, SIZE * _OVERSAMPLING))
  draw = ImageDraw.Draw(image)
  x, y, radius = x * _OVERSAMPLING, y * _OVERSAMPLING, radius * _OVERSAMPLING
  cosine, sine = math.cos(angle), math.sin(angle)
  if name in _POLYGONS:
    draw.polygon(
      [
        (
          x + radius * (cosine * px - sine * py),
          y + radius * (sine * px + cosine * py),
        )
        for px, py in _POLYGONS[name]
      ],
      fill=255,
    )
  else:
    _disc(draw, x, y, 0.9 * radius, 255)
    if name == 'ring':
      _disc(draw, x, y, 0.52 * radius, 0)
    if name == 'crescent':
      shift = 0.5 * radius
      _disc(draw, x + shift * cosine, y + shift * sine, 0.75 * radius, 0)
  fine = np.asarray(image, np.float64) / 255
  return fine.reshape(SIZE, _OVERSAMPLING, SIZE, _OVERSAMPLING).mean((1, 3))


def _hue(turn: float, saturation: float, value: float) -> np.ndarray:
  """The colour of a hue in turns, float64 [3] in [0, 1]."""
  ramp = np.abs((turn + np.array([0.0, 2 / 3, 1 / 3])) % 1.0 * 6 - 3) - 1
  return value * (1 - saturation * (1 - np.clip(ramp, 0, 1)))


def _texture(uniform: np.ndarray, strength: float) -> np.ndarray:
  """A weak wave plus noise, [SIZE, SIZE, 1], mean about 1."""
  angle, wave, phase = uniform[:3] * (2 * math.pi, 0.6, 2 * math.pi)
  rows, columns = np.mgrid[:SIZE, :SIZE]
  along = rows * math.sin(angle) + columns * math.cos(angle)
  noise = uniform[3:].reshape(SIZE, SIZE) - 0.5
  waves = np.sin((0.2 + wave) * along + phase)
  return 1 + strength * (0.5 * waves + noise)[..., None]


def draw_image(split: str, index: int) -> np.ndarray:
  """Returns an image before compression, uint8 [SIZE, SIZE, 3]."""
  # Raw words: numpy guarantees their stream, and not that of Generator.
  philox = np.random.Philox(key=(_REVISION, _KEYS[split]), counter=index << 64)
  words = philox.random_raw(16 + 2 * (3 + SIZE * SIZE))
  uniform = (words >> np.uint64(11)) * 2.0**-53
  single, textures = uniform[:16], uniform[16:].reshape(2, -1)
  radius = 7 + 5.5 * single[0]
  x, y = radius + (SIZE - 2 * radius) * single[1:3]
  name = CLASSES[index % len(CLASSES)]
  cover = _mask(name, x, y, radius, 2 * math.pi * single[3])[..., None]
  bright = _hue(single[4], 0.5 + 0.5 * single[5], 0.7 + 0.3 * single[6])
  dark = _hue(single[7], single[8], 0.3 * single[9])
  pixels = cover * bright * _texture(textures[0], 0.15)
  pixels += (1 - cover) * dark * _texture(textures[1], 0.6)
  return np.round(255 * np.clip(pixels, 0, 1)).astype(np.uint8)


@functools.cache
def encode_image(split: str, index: int) -> bytes:
  """Returns an image as JPEG, quality 90, full chroma."""
  buffer = io.BytesIO()
  Image.fromarray(draw_image(split, index)).save(
    buffer, 'JPEG', quality=90, subsampling=0
  )
  return buffer.getvalue()


class ShapesSource(base.Source):
  """A split of the embedded set, 'train' or 'test'; classes are balanced."""

  suits_threads = True

  def __init__(self, split: str) -> None:
    self._split = split
    self._size = COUNTS[split]
    self.name = 'shapes'
    self.class_names = CLASSES
    self.num_classes = len(CLASSES)
    self.labels = np.arange(self._size) % len(CLASSES)
    text = f'shapes {_REVISION} {split} {self._size}'
    self.fingerprint = hashlib.sha256(text.encode()).hexdigest()

  def __len__(self) -> int:
    return self._size

  def read(self, index: int) -> tuple[bytes | np.ndarray, int]:
    """Returns JPEG bytes and the class of an image."""
    if not 0 <= index < self._size:
      raise IndexError(index)
    return encode_image(self._split, index), index % len(CLASSES)

  def file_name(self, index: int) -> str:
    """Returns a name for reports; no such file exists."""
    return f'{self._split}/{CLASSES[index % len(CLASSES)]}/{index:05d}.jpg'

"""Images made here, and short names for opening sets of them."""

import io

import numpy as np
from PIL import Image
import pytest

from byol_jax import errors
from byol_jax.data import sources

STANDARD = {
  'data_dir': None,
  'holdout': 'paper',
  'heldout_share': 0.2,
  'max_unreadable': 0.0,
}


def opened(dataset, split='train', **options):
  return sources.open_source(str(dataset), split, **{**STANDARD, **options})


def names(source):
  return [source.file_name(i) for i in range(len(source))]


def refused(dataset, split='train', error=errors.DataError, **options):
  """The one line of an error."""
  with pytest.raises(error) as info:
    opened(dataset, split, **options)
  assert '\n' not in str(info.value)
  return str(info.value)


def smooth(seed, height, width):
  """A picture without sharp edges, uint8 [height, width, 3]."""
  rng = np.random.default_rng(seed)
  rows = np.linspace(0, 1, height)[:, None, None]
  columns = np.linspace(0, 1, width)[None, :, None]
  a, b, c = rng.uniform(0, 1, (3, 3))
  waves = 0.5 + 0.25 * (np.sin(5 * a * rows + c) + np.cos(5 * b * columns))
  return np.round(255 * waves).astype(np.uint8)


def encode(pixels, kind='JPEG', **options):
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, kind, **options)
  return buffer.getvalue()

"""Images that cannot be used: counted, named once, and replaced."""

import logging
import threading

import numpy as np

from byol_jax import errors
from byol_jax.data.loading import decode
from byol_jax.data.sources import base

_ALWAYS_ALLOWED = 10  # bad images, however small the set
_NAMED = 50  # file names in one line; `data check` lists all
_LOG = logging.getLogger(__name__)


def describe_failure(error: Exception) -> str:
  """Returns in one line why an image cannot be used."""
  if isinstance(error, decode.Unusable | errors.UserError):
    return errors.to_line(str(error))[:300]
  return errors.first_line(error)


class BadImageCounter:
  """Counts the distinct images that cannot be used, from any thread.

  Args:
    name: of the set, for messages.
    num_examples: images of the set.
    max_bad_share: in [0, 1]; more than max(10, this share of the set) end the
      run.
    key: where a user sets that share.
  """

  def __init__(
    self,
    name: str,
    num_examples: int,
    max_bad_share: float,
    key: str = 'input.max_bad_share of the pretraining',
  ) -> None:
    self._set = errors.quote(name)
    self._limit = max(_ALWAYS_ALLOWED, int(max_bad_share * num_examples))
    self._key = key
    self._names: dict[int, str] = {}
    self._lock = threading.Lock()

  def __len__(self) -> int:
    return len(self._names)

  def add(self, index: int, name: str, reason: str) -> None:
    """Counts an image once and logs it.

    Raises:
      DataError: there are more than allowed.
    """
    with self._lock:
      if index in self._names:
        return
      name = self._names[index] = errors.quote(name)
      names = list(self._names.values())
    _LOG.warning('%s: %s cannot be used: %s', self._set, name, reason)
    if len(names) > self._limit:
      more = len(names) - _NAMED
      raise errors.DataError(
        f'{self._set}: {len(names)} images cannot be used, allowed are'
        f' {self._limit}: {", ".join(names[:_NAMED])}'
        + (f' and {more} more' if more > 0 else '')
        + f' (the last {reason}); remove or repair them, or raise {self._key}'
      )


class FallbackReader:
  """Reads single images where an engine left a gap, and counts the bad ones.

  Engines skip what fails, since TensorFlow hides the reason; this reader sees
  the exception.
  """

  def __init__(
    self,
    source: base.Source,
    max_bad_share: float,
    pixels: decode.PixelOptions,
  ) -> None:
    self.bad_images = BadImageCounter(source.name, len(source), max_bad_share)
    self._source = source
    self._pixels = pixels

  def read(self, index: int) -> tuple[np.ndarray, int] | None:
    """Returns pixels, uint8 [H, W, 3], and label; None for a bad image.

    Raises:
      DataError: too many images are bad.
    """
    try:
      image, label = self._source.read(index)
      return decode.to_pixels(image, self._pixels), label
    except errors.UserError:
      raise
    except Exception as error:  # a source or a decoder may raise anything
      name = self._source.file_name(index)
      self.bad_images.add(index, name, describe_failure(error))
      return None

  def read_next_usable(self, index: int) -> tuple[np.ndarray, int]:
    """Returns the image, or the next one that can be used, as `read`.

    Raises:
      DataError: no image can be used, or too many are bad.
    """
    for offset in range(len(self._source)):
      found = self.read((index + offset) % len(self._source))
      if found is not None:
        return found
    raise errors.DataError(f'{self._source.name}: no image can be used')

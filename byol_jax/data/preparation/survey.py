"""What a set really holds: every image read, checked and decoded.

Bytes are those of the encoded image; decoded bytes are 3 H W, its RGB pixels.
"""

import collections
from collections.abc import Callable, Mapping, Sequence
import functools
import hashlib
import io
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from byol_jax import errors
from byol_jax.data.loading import decode, threads
from byol_jax.data.sources import base, lookup, tfds

_ORIENTATION = 0x0112  # the EXIF tag
_EXIF = b'Exif\0\0'  # opens the EXIF segment, near the start of a file
_NEAR = 1 << 16  # bytes


class Seen(NamedTuple):
  """One image; `reason` says why it is broken, and then the rest is unknown.

  label is -1 and kind None where unknown; digest is the sha256 of the bytes.
  """

  label: int
  digest: bytes
  num_bytes: int
  kind: str | None
  height: int
  width: int
  rotated: bool
  reason: str | None


def splits(dataset: str, **where: Any) -> dict[str, base.Source]:
  """The splits of a set that share no image, as 'train', 'valid' and 'test'.

  What is held out of train is part of train here; 'valid' is there only
  where the set has a split of its own for it.

  Args:
    dataset: as for `sources.open_source`, which takes `where` too.

  Raises:
    DataError: the set is missing, or one of its files is.
  """
  # Opens every file: what fails below is a split that the set has not.
  lookup.open_source(dataset, 'all', **where)
  found = {}
  for split in ('train', 'fit', 'valid', 'test'):
    try:
      found[split] = lookup.open_source(dataset, split, **where)
    except errors.DataError:
      continue
  fit = found.pop('fit', None)
  own = fit and fit.fingerprint == found['train'].fingerprint
  if not own:
    found.pop('valid', None)
  return found


def look(source: base.Source, index: int) -> Seen:
  """Reads, checks and decodes one image; raises nothing."""
  label = -1
  image: bytes | np.ndarray = b''
  try:
    if isinstance(source, tfds.RecordSource):
      source.verify(index)
    image, label = source.read(index)
    if not isinstance(image, bytes):
      height, width = image.shape[:2]
      data = image.tobytes()
      return _seen(label, data, 'pixels', height, width, False)
    kind, height, width = decode.header(image)
    decode.rgb(image)
    return _seen(label, image, kind, height, width, _is_rotated(image))
  except Exception as error:  # a source or a decoder may raise anything
    data = image if isinstance(image, bytes) else b''
    digest = hashlib.sha256(data).digest()
    return Seen(label, digest, len(data), None, 0, 0, False, reason(error))


def reason(error: Exception) -> str:
  """Why an image cannot be used, in one line."""
  known = isinstance(error, decode.Unusable | errors.UserError)
  text = str(error) if known else f'{type(error).__name__}: {error}'
  return text.partition('\n')[0]


def _seen(
  label: int, data: bytes, kind: str, height: int, width: int, rotated: bool
) -> Seen:
  digest = hashlib.sha256(data).digest()
  return Seen(label, digest, len(data), kind, height, width, rotated, None)


def _is_rotated(image: bytes) -> bool:
  """Whether EXIF asks for another orientation than that of the pixels."""
  if _EXIF not in image[:_NEAR]:
    return False
  try:
    with Image.open(io.BytesIO(image)) as opened:
      return opened.getexif().get(_ORIENTATION, 1) in range(2, 9)
  except Exception:  # a broken tag; the pixels were decoded
    return False


def read(
  source: base.Source,
  num_threads: int,
  progress: Callable[[Any], Any] = iter,
) -> list[Seen]:
  """Every image of a source, in its order.

  Args:
    source: what to read.
    num_threads: at least 1.
    progress: wraps the iteration, as `tqdm.tqdm` does.
  """
  look_at = functools.partial(look, source)
  return list(
    progress(threads.in_order(look_at, range(len(source)), num_threads))
  )


def summary(source: base.Source, seen: Sequence[Seen]) -> dict[str, Any]:
  """Counts and sizes of a split, for people and the manifest."""
  good = [image for image in seen if image.reason is None]
  heights = np.array([image.height for image in good], np.int64)
  widths = np.array([image.width for image in good], np.int64)
  return {
    'fingerprint': source.fingerprint,
    'num_images': len(seen),
    'encoded_bytes': sum(image.num_bytes for image in seen),
    'decoded_bytes': int(np.sum(3 * heights * widths)),
    'classes': _classes(source, seen),
    'shorter_side': _sides(np.minimum(heights, widths)),
    'longer_side': _sides(np.maximum(heights, widths)),
    'kinds': dict(collections.Counter(str(i.kind) for i in good).most_common()),
    'rotated_by_exif': sum(image.rotated for image in good),
    'broken': [
      {'index': i, 'name': source.file_name(i), 'reason': image.reason}
      for i, image in enumerate(seen)
      if image.reason is not None
    ],
  }


def _sides(pixels: np.ndarray) -> dict[str, float] | None:
  if not len(pixels):
    return None
  return {
    'smallest': int(pixels.min()),
    'median': float(np.median(pixels)),
    'largest': int(pixels.max()),
  }


def _classes(
  source: base.Source, seen: Sequence[Seen]
) -> dict[str, Any] | None:
  """How many there are, and which have the fewest and the most images."""
  if not source.num_classes:
    return None
  labels = np.array([image.label for image in seen], np.int64)
  counts = np.bincount(labels[labels >= 0], minlength=source.num_classes)
  names = source.class_names or tuple(map(str, range(source.num_classes)))

  def one(label: int) -> dict[str, Any]:
    return {'name': names[label], 'num_images': int(counts[label])}

  return {
    'number': source.num_classes,
    'empty': int(np.sum(counts == 0)),
    'fewest': one(int(counts.argmin())),
    'most': one(int(counts.argmax())),
  }


def duplicates(
  found: Mapping[str, base.Source], seen: Mapping[str, Sequence[Seen]]
) -> list[list[dict[str, str]]]:
  """Groups of images with the same bytes: [{'split', 'name'}, ...] each.

  What has no bytes, for it could not be read, is nobody's duplicate.
  """
  places: dict[bytes, list[tuple[str, int]]] = {}
  for split, images in seen.items():
    for index, image in enumerate(images):
      if image.num_bytes:
        places.setdefault(image.digest, []).append((split, index))
  return [
    [{'split': s, 'name': found[s].file_name(i)} for s, i in group]
    for group in places.values()
    if len(group) > 1
  ]

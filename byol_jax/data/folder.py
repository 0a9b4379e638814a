"""The readable images of a folder.

A file must be one that TensorFlow decodes. Its content decides, not its name:
size and header are looked at when the folder is opened.
"""

from collections.abc import Sequence
from concurrent import futures
import hashlib
import logging
import pathlib
import warnings

import numpy as np
from PIL import Image

from byol_jax import errors
from byol_jax.data import layouts

_FORMATS = ('JPEG', 'MPO', 'PNG', 'WEBP', 'BMP', 'GIF')
_MAX_PIXELS = 178_956_970  # where Pillow too suspects a decompression bomb
_THREADS = 16
_LOG = logging.getLogger(__name__)


def unreadable(path: pathlib.Path) -> str | None:
  """Why a file is no usable image, by its size and header; None if it is."""
  try:
    if not path.stat().st_size:
      return 'is empty'
    with Image.open(path) as image:
      if image.format not in _FORMATS:
        return f'is {image.format}'
      if image.width * image.height > _MAX_PIXELS:
        return f'claims {image.width} x {image.height} pixels'
      if not image.width * image.height:
        return f'claims {image.width} x {image.height} pixels'
  except Image.DecompressionBombError:
    return f'claims more than {_MAX_PIXELS:,} pixels'
  except Exception as error:  # Pillow raises many kinds on broken headers
    return f'cannot be opened: {type(error).__name__}'
  return None


class FolderSource:
  """The readable images of one split of a folder, sorted by path.

  Args:
    layout: from `layouts.scan`.
    split: a key of layout.splits.
    max_unreadable: share of the split's files; above it nothing is opened.
  """

  def __init__(
    self, layout: layouts.Layout, split: str, max_unreadable: float
  ) -> None:
    self._root = layout.root
    files = layout.splits[split]
    with warnings.catch_warnings(), futures.ThreadPoolExecutor(_THREADS) as p:
      # Large pictures are allowed; whether too large is decided above.
      warnings.simplefilter('ignore', Image.DecompressionBombWarning)
      reasons = list(p.map(lambda f: unreadable(self._root / f), files))
    broken = [(f, r) for f, r in zip(files, reasons) if r is not None]
    _report(self._root, split, broken, len(files), max_unreadable)
    self._files = [f for f, r in zip(files, reasons) if r is None]
    self.name = self._root.name
    self.class_names = layout.class_names
    self.num_classes = len(layout.class_names) if layout.class_names else None
    self._labels = _labels(self._files, layout)
    self.num_unreadable = len(broken)
    self.fingerprint = self._digest()

  def _digest(self) -> str:
    """Covers names, sizes and labels, not the pixels."""
    digest = hashlib.sha256(repr(self.class_names).encode(errors='replace'))
    for file, label in zip(self._files, self._labels):
      size = (self._root / file).stat().st_size
      digest.update(f'{file}\n{size} {label}\n'.encode(errors='replace'))
    return digest.hexdigest()

  def __len__(self) -> int:
    return len(self._files)

  def read(self, index: int) -> tuple[bytes, int]:
    """Encoded image and label, -1 if there is none."""
    return (
      (self._root / self._files[index]).read_bytes(),
      int(self._labels[index]),
    )

  def file_name(self, index: int) -> str:
    """The path below the folder."""
    return self._files[index]


def _labels(files: Sequence[str], layout: layouts.Layout) -> np.ndarray:
  """Classes of files, int32 [N], -1 for none."""
  number = {name: i for i, name in enumerate(layout.class_names or ())}
  labels = np.full(len(files), -1, np.int32)
  for i, file in enumerate(files):
    top = file.partition('/')[0]
    base = f'{top}/' if top in layout.split_folders else ''
    labels[i] = number.get(layouts.class_of(file, base) or '', -1)
  return labels


def _report(
  root: pathlib.Path,
  split: str,
  broken: Sequence[tuple[str, str]],
  count: int,
  max_unreadable: float,
) -> None:
  """Names the unreadable files once; too many of them are an error."""
  if not broken:
    return
  names = '; '.join(f'{file} {reason}' for file, reason in broken[:5])
  more = f' and {len(broken) - 5} more' if len(broken) > 5 else ''
  text = (
    f'{root} ({split}): {len(broken)} of {count} files are unreadable:'
    f' {names}{more}'
  )
  if len(broken) > max_unreadable * count:
    raise errors.DataError(
      f'{text}; allowed are {max_unreadable:.2%}: remove or mend them, or'
      ' raise data.max_unreadable'
    )
  _LOG.warning('%s; left out', text)

"""Reads a folder of images, or a tar file of one: files, splits and classes.

  DATA/CLASS/**.jpg               labelled; a share is held out as test
  DATA/train/CLASS/**.jpg         labelled; DATA/val (valid, validation, test)
                                  is the test set where it exists
  DATA/*.jpg, DATA/train/*.jpg    unlabelled

Whether an image is held out depends only on its path below DATA, so adding
files moves no other file between the splits. Hidden files are ignored. If all
of this lies in one folder, as in most tar files, that folder counts as DATA.

Every file with the extension of an image is a record, whatever it holds: a
file that cannot be read or decoded is counted and replaced when it is read.
"""

from collections.abc import Sequence
import hashlib
import logging
from typing import NamedTuple, TypeAlias

import numpy as np

from byol_jax import errors
from byol_jax.data.sources import archives, base, paths

# Both give the bytes of a file from any thread.
Files: TypeAlias = paths.Directory | archives.Archive

EXTENSIONS = (
  *('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.webp', '.bmp', '.gif'),
  *('.tif', '.tiff', '.avif', '.heic', '.heif'),
)
_TRAIN = 'train'
_TEST = ('val', 'valid', 'validation', 'test')
_LOG = logging.getLogger(__name__)


class Layout(NamedTuple):
  """The images among files, by split, as sorted posix paths below `prefix`.

  prefix is '', or the one folder around the set with its slash. classes maps
  each image to the folder that is its class, '' if it lies in none.
  """

  files: Files
  prefix: str
  class_names: tuple[str, ...] | None
  classes: dict[str, str]
  splits: dict[str, list[str]]


class FolderSource:
  """The images of one split of a layout, sorted by path."""

  def __init__(self, layout: Layout, split: str) -> None:
    self._files, self._prefix = layout.files, layout.prefix
    self._names = layout.splits[split]
    self.name = (layout.files.root / layout.prefix).name
    self.class_names = layout.class_names
    self.num_classes = len(layout.class_names) if layout.class_names else None
    rows = {name: i for i, name in enumerate(layout.class_names or ())}
    labels = np.array(
      [rows.get(layout.classes[name], -1) for name in self._names], np.int32
    )
    self.labels = labels if rows else None
    # Covers names, sizes and labels, not the pixels.
    digest = hashlib.sha256(repr(self.class_names).encode(errors='replace'))
    for name, label in zip(self._names, labels):
      size = self._files.size(self._prefix + name)
      digest.update(f'{name}\n{size} {label}\n'.encode(errors='replace'))
    self.fingerprint = digest.hexdigest()

  def __len__(self) -> int:
    return len(self._names)

  def read(self, index: int) -> tuple[bytes, int]:
    """Returns the encoded image and the label, -1 if there is none."""
    data = self._files.read(self._prefix + self._names[index])
    label = -1 if self.labels is None else int(self.labels[index])
    return data, label

  def file_name(self, index: int) -> str:
    """Returns the path below the folder."""
    return self._names[index]


def open_heldout(layout: Layout, split: str) -> base.Source:
  """Returns 'fit' or 'valid': as a part of 'train', unless it is a folder."""
  names = layout.splits['train']
  chosen = set(layout.splits[split])
  ids = [row for row, name in enumerate(names) if name in chosen]
  if len(ids) < len(chosen):
    return FolderSource(layout, split)
  return base.Subset(FolderSource(layout, 'train'), np.array(ids, np.int64))


def find_splits(files: Files, heldout_share: float) -> Layout:
  """Returns the images among files, by split; a function of paths alone.

  Raises:
    DataError: fewer than two images, or folders that contradict each other.
  """
  images = sorted(filter(_is_image, files.names))
  prefix = _outer_folder(images)
  images = [image.removeprefix(prefix) for image in images]
  root = str(files.root / prefix)
  if len(images) < 2:
    raise errors.DataError(
      f'{root}: {len(images)} image files found, expected at least 2 with one'
      f' of the extensions {" ".join(EXTENSIONS)}'
    )
  folders = _split_folders(root, images)
  classes = {image: _class_of(image, folders) for image in images}
  train = _images_below(_TRAIN, images) if folders else images
  names = {classes[image] for image in train} - {''}
  class_names = tuple(sorted(names)) or None
  if class_names is not None:
    train = _drop_unlabelled(root, train, classes)
  splits = {'all': images, 'train': train}
  tests = []
  for name in folders[1:]:
    found = _images_below(name, images)
    if class_names is not None:
      found = _drop_unlabelled(f'{root}/{name}', found, classes)
      if unknown := sorted({classes[image] for image in found} - names):
        raise errors.DataError(
          f'{root}/{name}: {len(unknown)} class folders that {root}/{_TRAIN}'
          f' does not have: {", ".join(unknown[:3])}; expected the same classes'
        )
    if found:
      tests.append(found)
  if tests:
    splits['test'] = tests[-1]
    if len(tests) > 1:
      splits['fit'], splits['valid'] = train, tests[0]
  elif class_names is not None:
    splits['train'], splits['test'] = _divide_by_hash(
      train, heldout_share, 'test'
    )
  if 'valid' not in splits:
    splits['fit'], splits['valid'] = _divide_by_hash(
      splits['train'], heldout_share, 'valid'
    )
  return Layout(files, prefix, class_names, classes, splits)


def _is_image(name: str) -> bool:
  hidden = name.startswith('.') or '/.' in name
  return not hidden and name.lower().endswith(EXTENSIONS)


def is_heldout(file: str, share: float, salt: str) -> bool:
  """Returns whether a hash of the path, uniform in [0, 1), is below share."""
  digest = hashlib.sha256(f'{salt}\n{file}'.encode(errors='replace')).digest()
  return int.from_bytes(digest[:8], 'big') < share * 2**64


def _divide_by_hash(
  files: Sequence[str], share: float, salt: str
) -> tuple[list[str], list[str]]:
  heldout = [file for file in files if is_heldout(file, share, salt)]
  return sorted(set(files) - set(heldout)), heldout


def _outer_folder(images: Sequence[str]) -> str:
  """'NAME/' if one folder holds several others, or train/, and all images."""
  tops = {image.partition('/')[0] for image in images}
  inner = {_class_of(image, tops) for image in images}
  if len(tops) != 1 or '' in inner or tops & {_TRAIN, *_TEST}:
    return ''
  return f'{tops.pop()}/' if len(inner) > 1 or _TRAIN in inner else ''


def _split_folders(root: str, images: Sequence[str]) -> tuple[str, ...]:
  """('train', and of val, valid, validation, test those that exist), or ().

  A folder `train` among others, with images directly in it, is a class: the
  vehicle.
  """
  tops = {image.partition('/')[0] for image in images if '/' in image}
  tests = tuple(name for name in _TEST if name in tops)
  if _TRAIN not in tops:
    if tests and tops == set(tests):
      raise errors.DataError(
        f'{root}: {tests[0]}/ found without {_TRAIN}/; expected {_TRAIN}/'
        ' beside it, or folders named after classes'
      )
    return ()
  nested = any(i.count('/') > 1 for i in _images_below(_TRAIN, images))
  return (_TRAIN, *tests) if nested or tops <= {_TRAIN, *_TEST} else ()


def _images_below(folder: str, images: Sequence[str]) -> list[str]:
  return [image for image in images if image.startswith(f'{folder}/')]


def _class_of(image: str, split_folders: Sequence[str] | set[str]) -> str:
  """The folder of an image below its split; '' if it lies in none."""
  *parts, _ = image.split('/')
  if parts and parts[0] in split_folders:
    del parts[0]
  return parts[0] if parts else ''


def _drop_unlabelled(
  folder: str, images: list[str], classes: dict[str, str]
) -> list[str]:
  """Leaves out images beside the class folders, with a warning."""
  kept = [image for image in images if classes[image]]
  if len(kept) < len(images):
    count = len(images) - len(kept)
    _LOG.warning('%s: %d images in no class folder are left out', folder, count)
  return kept

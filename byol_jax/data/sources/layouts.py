"""A folder of images: which files, splits and classes it has.

  DATA/CLASS/**.jpg               labelled; a share is held out as test
  DATA/train/CLASS/**.jpg         labelled; DATA/val (valid, validation, test)
                                  is the test set where it exists
  DATA/*.jpg, DATA/train/*.jpg    unlabelled

What is held out depends on nothing but a file's path below DATA, so adding
files moves no other file between the splits. Hidden files are ignored. DATA
may be a tar file: the same rules hold for its members. One folder around all
this, as most tar files have it, is looked through.
"""

from collections.abc import Sequence
import hashlib
import logging
import pathlib
from typing import NamedTuple

from byol_jax import errors
from byol_jax.data.sources import paths as files_lib

EXTENSIONS = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.gif')
_TRAIN = 'train'
_TEST = ('val', 'valid', 'validation', 'test')
_LOG = logging.getLogger(__name__)


class Layout(NamedTuple):
  """The images among files, by split, as sorted posix paths.

  split_folders are the top folders that are splits and not classes.
  """

  files: files_lib.Files
  class_names: tuple[str, ...] | None
  split_folders: tuple[str, ...]
  splits: dict[str, list[str]]


def scan(files: files_lib.Files, heldout_share: float) -> Layout:
  """Finds the images and their splits, a function of paths alone."""
  images = sorted(name for name in files.names if _is_image(name))
  wrapper = _wrapper(images)
  if wrapper:
    files = files_lib.Inside(files, wrapper)
    images = [image.removeprefix(f'{wrapper}/') for image in images]
  root = files.root
  if len(images) < 2:
    raise errors.DataError(
      f'{root}: {len(images)} image files found, expected at least 2 with one'
      f' of the extensions {" ".join(EXTENSIONS)}'
    )
  folders = _split_folders(root, images)
  base = f'{_TRAIN}/' if folders else ''
  train = _below(images, base)
  class_names = _class_names(train, base)
  train = _labelled(root, base, train, class_names)
  splits = {'all': images, 'train': train}
  tests = {}
  for name in folders[1:]:
    found = _labelled(root, f'{name}/', _below(images, f'{name}/'), class_names)
    _check_classes(root, name, found, class_names)
    if found:
      tests[name] = found
  if tests:
    splits['test'] = tests[list(tests)[-1]]
    if len(tests) > 1:
      splits['fit'], splits['valid'] = train, next(iter(tests.values()))
  elif class_names is not None:
    splits['train'], splits['test'] = _divide(train, heldout_share, 'test')
  if 'valid' not in splits:
    splits['fit'], splits['valid'] = _divide(
      splits['train'], heldout_share, 'valid'
    )
  return Layout(files, class_names, folders, splits)


def _wrapper(images: Sequence[str]) -> str | None:
  """The one folder that holds all, if it holds several, or train/, itself."""
  tops = {image.partition('/')[0] for image in images}
  inner = {class_of(image, f'{image.partition("/")[0]}/') for image in images}
  if len(tops) != 1 or None in inner or tops & {_TRAIN, *_TEST}:
    return None
  return tops.pop() if len(inner) > 1 or _TRAIN in inner else None


def _split_folders(root: pathlib.Path, files: Sequence[str]) -> tuple[str, ...]:
  """('train', and of val, valid, validation, test those that exist), or ().

  A folder `train` among others, with images directly in it, is a class: the
  vehicle.
  """
  tops = {file.partition('/')[0] for file in files if '/' in file}
  tests = tuple(name for name in _TEST if name in tops)
  if _TRAIN not in tops:
    if tests and tops == set(tests):
      raise errors.DataError(
        f'{root}: {tests[0]}/ found without {_TRAIN}/; expected {_TRAIN}/'
        ' beside it, or folders named after classes'
      )
    return ()
  nested = any(
    file.startswith(f'{_TRAIN}/') and file.count('/') > 1 for file in files
  )
  return (_TRAIN, *tests) if nested or tops <= {_TRAIN, *_TEST} else ()


def _is_image(name: str) -> bool:
  hidden = name.startswith('.') or '/.' in name
  return not hidden and name.lower().endswith(EXTENSIONS)


def _below(files: Sequence[str], base: str) -> list[str]:
  return [file for file in files if file.startswith(base)]


def class_of(file: str, base: str) -> str | None:
  """The first folder below base, or None for an image directly in it."""
  name, separator, _ = file[len(base) :].partition('/')
  return name if separator else None


def _class_names(files: Sequence[str], base: str) -> tuple[str, ...] | None:
  """The sorted sub-folders; None where all images lie directly in base."""
  names = {class_of(file, base) for file in files} - {None}
  return tuple(sorted(str(name) for name in names)) or None


def _labelled(
  root: pathlib.Path,
  base: str,
  files: list[str],
  class_names: tuple[str, ...] | None,
) -> list[str]:
  """Leaves out images that lie beside the class folders, and says so."""
  if class_names is None:
    return files
  kept = [file for file in files if class_of(file, base) is not None]
  if len(kept) < len(files):
    _LOG.warning(
      '%s: %d images in no class folder are left out',
      root / base,
      len(files) - len(kept),
    )
  return kept


def _check_classes(
  root: pathlib.Path,
  name: str,
  files: Sequence[str],
  class_names: tuple[str, ...] | None,
) -> None:
  if class_names is None:
    return
  found = {class_of(file, f'{name}/') for file in files}
  unknown = sorted(str(c) for c in found - set(class_names))
  if unknown:
    raise errors.DataError(
      f'{root / name}: {len(unknown)} class folders that {root / _TRAIN} does'
      f' not have: {", ".join(unknown[:3])}; expected the same classes'
    )


def is_heldout(file: str, share: float, salt: str) -> bool:
  """Whether a hash of the path, uniform in [0, 1), is below the share."""
  digest = hashlib.sha256(f'{salt}\n{file}'.encode(errors='replace')).digest()
  return int.from_bytes(digest[:8], 'big') < share * 2**64


def _divide(
  files: Sequence[str], share: float, salt: str
) -> tuple[list[str], list[str]]:
  heldout = [file for file in files if is_heldout(file, share, salt)]
  chosen = set(heldout)
  return [file for file in files if file not in chosen], heldout

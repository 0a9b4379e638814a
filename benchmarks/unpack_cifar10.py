"""Unpacks the CIFAR-10 mosaics of DATA into a folder of images, or one file.

  python benchmarks/unpack_cifar10.py DATA/cifar10 FOLDER
  python benchmarks/unpack_cifar10.py DATA/cifar10 FILE.npz [--validation]

Each tar holds pictures of 25 rows of 40 images, `labels.u8`, `classes.txt` and
`names.txt`. FOLDER gets train/CLASS/NAME.png and test/CLASS/NAME.png, FILE.npz
arrays of both splits (`dataset` takes either), with the very pixels of the
mosaics (which are JPEG q95: say so beside a result). The file takes seconds,
the folder, of 60,000 files, a minute. --validation puts the last 5,000 training
images, a balanced split, in the place of the test images: to choose settings.
"""

import argparse
from collections.abc import Iterator
import io
from pathlib import Path
import tarfile

import numpy as np
from PIL import Image

ROWS, COLUMNS, SIDE = 25, 40, 32
VALIDATION = 5000  # images


def read_tiles(tar: tarfile.TarFile) -> Iterator[np.ndarray]:
  """Yields the images of each mosaic, uint8 [1000, 32, 32, 3]."""
  for mosaic in sorted(n for n in tar.getnames() if n.startswith('mosaic')):
    pixels = np.asarray(Image.open(io.BytesIO(tar.extractfile(mosaic).read())))
    tiles = pixels.reshape(ROWS, SIDE, COLUMNS, SIDE, 3)
    yield tiles.swapaxes(1, 2).reshape(-1, SIDE, SIDE, 3)


def read_arrays(archive: Path) -> tuple[np.ndarray, np.ndarray]:
  """Returns images, uint8 [N, 32, 32, 3], and labels, int64 [N], of one tar."""
  with tarfile.open(archive) as tar:
    labels = np.frombuffer(tar.extractfile('labels.u8').read(), np.uint8)
    return np.concatenate(list(read_tiles(tar))), labels.astype(np.int64)


def write_arrays(source: Path, target: Path, validation: bool) -> None:
  """Writes both splits as one file of arrays, without compression."""
  images, labels = read_arrays(source / 'train.tar')
  if validation:
    images, test_images = np.split(images, [-VALIDATION])
    labels, test_labels = np.split(labels, [-VALIDATION])
  else:
    test_images, test_labels = read_arrays(source / 'test.tar')
  np.savez(
    target,
    images=images,
    labels=labels,
    test_images=test_images,
    test_labels=test_labels,
  )
  print(f'{len(images):,} + {len(test_images):,} images')


def unpack(archive: Path, folder: Path) -> int:
  """Writes the images of one tar; returns how many."""
  with tarfile.open(archive) as tar:
    names = iter(tar.extractfile('names.txt').read().decode().split())
    count = 0
    for tiles in read_tiles(tar):
      for tile, name in zip(tiles, names):
        path = (folder / name).with_suffix('.png')
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(tile).save(path, compress_level=1)
        count += 1
  return count


def main() -> None:
  """Unpacks both splits."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('source', type=Path)
  parser.add_argument('target', type=Path)
  parser.add_argument('--validation', action='store_true')
  arguments = parser.parse_args()
  source, target = arguments.source, arguments.target
  if target.suffix == '.npz':
    write_arrays(source, target, arguments.validation)
    return
  if arguments.validation:
    parser.error('--validation: only for an .npz')
  for split in ('train', 'test'):
    count = unpack(source / f'{split}.tar', target / split)
    print(f'{split}: {count} images')


if __name__ == '__main__':
  main()

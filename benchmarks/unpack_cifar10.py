"""Unpacks the CIFAR-10 mosaics of DATA into a folder of images.

  python benchmarks/unpack_cifar10.py DATA/cifar10 FOLDER

Each tar holds pictures of 25 rows of 40 images, `labels.u8`, `classes.txt` and
`names.txt`. FOLDER gets train/CLASS/NAME.png and test/CLASS/NAME.png with the
very pixels of the mosaics (which are JPEG q95: say so beside a result).
"""

import io
from pathlib import Path
import sys
import tarfile

import numpy as np
from PIL import Image

ROWS, COLUMNS, SIDE = 25, 40, 32


def unpack(archive: Path, folder: Path) -> int:
  """Writes the images of one tar; returns how many."""
  with tarfile.open(archive) as tar:
    read = lambda name: tar.extractfile(name).read()
    mosaics = sorted(n for n in tar.getnames() if n.startswith('mosaic'))
    names = read('names.txt').decode().split()
    for place, mosaic in enumerate(mosaics):
      pixels = np.asarray(Image.open(io.BytesIO(read(mosaic))))
      tiles = pixels.reshape(ROWS, SIDE, COLUMNS, SIDE, 3)
      tiles = tiles.swapaxes(1, 2).reshape(-1, SIDE, SIDE, 3)
      for offset, tile in enumerate(tiles):
        name = names[place * len(tiles) + offset]
        path = (folder / name).with_suffix('.png')
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(tile).save(path, compress_level=1)
  return len(names)


def main() -> None:
  """Unpacks both splits."""
  source, target = Path(sys.argv[1]), Path(sys.argv[2])
  for split in ('train', 'test'):
    count = unpack(source / f'{split}.tar', target / split)
    print(f'{split}: {count} images')


if __name__ == '__main__':
  main()

"""Tar files, as ImageNet's are."""

import io
import tarfile

from tests.helpers.made import encode, smooth

CLASSES = ('n01440764', 'n01443537', 'n13133613')


def tar(path, members):
  """Writes {name: bytes} to a tar file, or returns its bytes for None."""
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode='w') as file:
    for name, data in members.items():
      info = tarfile.TarInfo(name)
      info.size = len(data)
      file.addfile(info, io.BytesIO(data))
  if path is None:
    return buffer.getvalue()
  path.write_bytes(buffer.getvalue())
  return path


def train(per_class):
  """{wnid.tar: a tar of images}, what the training tar holds."""
  return {
    f'{wnid}.tar': tar(
      None,
      {
        f'{wnid}_{i * 37}.JPEG': encode(smooth(10 * label + i, 20 + i, 30))
        for i in range(per_class)
      },
    )
    for label, wnid in enumerate(CLASSES)
  }


def validation(count):
  """{ILSVRC2012_val_00000001.JPEG: an image}, the last one first."""
  return {
    f'ILSVRC2012_val_{i:08d}.JPEG': encode(smooth(100 + i, 30, 20))
    for i in range(count, 0, -1)
  }

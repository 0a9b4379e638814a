"""Tar files of given members."""

import io
import tarfile


def tar(path, members, mode='w', **options):
  """Writes {name: bytes} to a tar file and returns its path."""
  with tarfile.open(path, mode, **options) as file:
    for name, data in members.items():
      info = tarfile.TarInfo(name)
      info.size = len(data)
      file.addfile(info, io.BytesIO(data))
  return path

"""A limit on the size of files stands for a full disk."""

import contextlib
import resource


@contextlib.contextmanager
def limit_files(size):
  """No file of this process grows beyond `size` bytes in the block."""
  old = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, old)

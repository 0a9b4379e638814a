"""A limit on the size of files stands for a full disk."""

import contextlib
import resource
import sys


@contextlib.contextmanager
def limit_files(size):
  """No file of this process grows beyond `size` bytes in the block."""
  old = resource.getrlimit(resource.RLIMIT_FSIZE)
  is_off = sys.dont_write_bytecode
  # Python would cut the compiled code of a module that the block imports.
  sys.dont_write_bytecode = True
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, old)
    sys.dont_write_bytecode = is_off

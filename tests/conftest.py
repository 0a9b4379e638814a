"""Tests run on the CPU, whatever the machine has: tolerances are its."""

import atexit
import os
import pathlib
import shutil
import tempfile

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

# Many tests compile the same small step, in this process and in others.
os.environ.setdefault(
  'JAX_COMPILATION_CACHE_DIR',
  str(pathlib.Path(__file__).parent.parent / '.pytest_cache' / 'xla'),
)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.5')

# Nothing is written to the home of whoever runs the tests. Set before the
# first import, so that processes which tests start inherit it.
os.environ['BYOL_JAX_CACHE'] = tempfile.mkdtemp(prefix='byol_jax_tests_')
atexit.register(shutil.rmtree, os.environ['BYOL_JAX_CACHE'], ignore_errors=True)

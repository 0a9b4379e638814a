"""Tests run on the CPU, whatever the machine has: tolerances are its."""

import atexit
import importlib.metadata
import importlib.util
import os
import pathlib
import shutil
import sys
import tempfile

import pytest

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

# Many tests compile the same small step, in this process and in others.
os.environ.setdefault(
  'JAX_COMPILATION_CACHE_DIR',
  str(pathlib.Path(__file__).parent.parent / '.pytest_cache' / 'xla'),
)
# Reading a small program too is faster than compiling it.
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
# Compiling is most of the suite. Without XLA's optimisations it takes two
# thirds of the time; one test of one device against four, whose sums those
# reorder, has them (`training/loop_test.py`).
os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
# XLA's newer emitters take most of the rest: a step of the tiny network 14 s,
# 5 s without them. A version that lacks the flag would end every process.
if importlib.metadata.version('jaxlib').startswith('0.10.') and not (
  importlib.util.find_spec('libtpu')
):
  os.environ.setdefault('XLA_FLAGS', '--xla_cpu_use_fusion_emitters=false')

# Processes that tests start need not compile our modules again.
os.environ.pop('PYTHONDONTWRITEBYTECODE', None)

# Nothing is written to the home of whoever runs the tests. Set before the
# first import, so that processes which tests start inherit it.
os.environ['BYOL_JAX_CACHE'] = tempfile.mkdtemp(prefix='byol_jax_tests_')
atexit.register(shutil.rmtree, os.environ['BYOL_JAX_CACHE'], ignore_errors=True)


# A file stays on one worker. The longest come first, so that the workers end
# together.
LONG = (
  *('training/train', 'main', 'docs', 'python_docs', 'augment'),
  *('training/signals', 'conformance/steps', 'packaging', 'byol', 'api'),
  *('parallel', 'tools/bench_input'),
)


def pytest_collection_modifyitems(items):
  """Long files first, everything else in its order."""
  ranks = {f'tests/{name}_test.py': rank for rank, name in enumerate(LONG)}
  items.sort(key=lambda item: ranks.get(item.nodeid.split('::')[0], len(LONG)))


def pytest_runtest_setup(item):
  """Skips a test marked `export` where the packages of the extra are not."""
  if item.get_closest_marker('export'):
    from tests.helpers import torchvision_operators

    pytest.importorskip('torch', reason='run by make test-export')
    torchvision_operators.define()


@pytest.fixture(scope='module', autouse=True)
def drop_compiled_programs():
  """Drops them between files, long before Linux refuses a process more maps.

  XLA maps memory for each of thousands of programs; the limit is 65,530.
  """
  yield
  maps = pathlib.Path('/proc/self/maps')
  if 'jax' in sys.modules and maps.exists():
    with maps.open('rb') as lines:
      count = sum(1 for _ in lines)
    if count > 20_000:
      sys.modules['jax'].clear_caches()


@pytest.fixture(scope='session')
def labelled(tmp_path_factory):
  """(folder, workdir) of a run on a labelled folder."""
  from tests.helpers import tiny_folder  # JAX reads the variables above

  return tiny_folder.make_run(tmp_path_factory.mktemp('labelled'))


@pytest.fixture(scope='module')
def compiled_once():
  """See `tests/helpers/compiled_once.py`."""
  from tests.helpers import compiled_once

  with compiled_once.shared():
    yield

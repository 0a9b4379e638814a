"""The cache of compiled programs: where it is, and when there is none."""

from importlib import metadata
import os
import shutil
import subprocess
import sys
import types

import pytest

from byol_jax import __main__ as command
from byol_jax.cli import compilation_cache

DIR = 'JAX_COMPILATION_CACHE_DIR'
CPUINFO = """processor\t: {number}
vendor_id\t: AuthenticAMD
model\t\t: {model}
cpu MHz\t\t: {clock}
flags\t\t: fpu {flags}
Features\t: fp {features}
CPU part\t: {part}

processor\t: 1
"""


@pytest.fixture(name='home')
def make_home(monkeypatch, tmp_path):
  """The folder of caches of a user who has set nothing."""
  monkeypatch.setenv('BYOL_JAX_CACHE', str(tmp_path))
  # Set first, so that it is as before after the test.
  monkeypatch.setenv('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
  monkeypatch.delenv(DIR)
  return tmp_path


FACTS = {'number': 0, 'model': 1, 'clock': 2000, 'flags': 'avx2'}
FACTS |= {'features': 'asimd', 'part': '0xd0c'}  # of ARM


def name(tmp_path, **changes):
  """The name of a machine with these facts."""
  path = tmp_path / 'cpuinfo'
  path.write_text(CPUINFO.format(**FACTS | changes))
  return compilation_cache.name_machine(path)


def test_a_machine_is_what_its_programs_depend_on(tmp_path, monkeypatch):
  known = name(tmp_path)
  assert known == name(tmp_path, number=3, clock=3456.7)
  assert known != name(tmp_path, model=2)
  assert known != name(tmp_path, flags='avx2 avx512f')
  assert known != name(tmp_path, features='asimd sve')
  assert known != name(tmp_path, part='0xd40')
  assert compilation_cache.name_machine('/none')  # as on macOS
  monkeypatch.setattr(metadata, 'version', lambda package: f'{package} 9')
  assert known != name(tmp_path)


def test_a_verb_tells_jax_a_folder_of_the_machine(home):
  assert command.main(['config', 'seed']) == 0
  folder = os.environ[DIR]
  assert folder == str(home / 'xla' / compilation_cache.name_machine())
  assert os.stat(folder).st_mode & 0o777 == 0o700


def test_a_part_of_a_program_is_replaced_with_one_line(home, monkeypatch):
  """As a process leaves it that is killed, or a full disk."""
  monkeypatch.delenv('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS')
  code = 'from byol_jax.cli import compilation_cache as cache; cache.enable();'
  code += 'import jax, resource, sys; limit = int(sys.argv[1]);'
  code += 'resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit));'
  code += 'print(jax.jit(lambda x: x + 1)(2))'

  def run(limit=10**6):
    command = [sys.executable, '-c', code, str(limit)]
    return subprocess.run(command, check=True, capture_output=True, text=True)

  def find():
    return [*home.glob('xla/*/jit__lambda*')]

  lines = run(limit=50).stderr.splitlines()
  assert lines and all('are not kept in' in line for line in lines)
  assert not find()
  assert run().stderr == ''
  (path,) = find()
  size = path.stat().st_size
  os.truncate(path, 50)
  (line,) = run().stderr.splitlines()
  assert 'that cannot be read are compiled anew' in line
  assert path.stat().st_size >= size - 8  # it holds the time of compilation


@pytest.mark.parametrize('value', ['', '/elsewhere'])
def test_a_folder_of_the_users_choice_stays(home, monkeypatch, value):
  monkeypatch.setenv(DIR, value)
  compilation_cache.enable()
  assert os.environ[DIR] == value and not list(home.iterdir())


@pytest.mark.parametrize(
  'fault', ['file', 'others', 'owner', 'full', 'home', 'url']
)
def test_without_a_usable_folder_there_is_no_cache(home, monkeypatch, fault):
  folder = home / 'xla' / compilation_cache.name_machine()
  if fault == 'file':
    (home / 'xla').touch()
  elif fault == 'others':  # may write
    folder.mkdir(parents=True)
    folder.chmod(0o770)
  elif fault == 'owner':
    monkeypatch.setattr(os, 'geteuid', lambda: os.getuid() + 1)
  elif fault == 'full':
    usage = types.SimpleNamespace(free=10**6)
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage)
  elif fault == 'home':
    monkeypatch.setenv('BYOL_JAX_CACHE', '~nobody_of_that_name/x')
  else:
    monkeypatch.chdir(home)
    monkeypatch.setenv('BYOL_JAX_CACHE', 'gs://bucket/x')
  compilation_cache.enable()
  assert DIR not in os.environ and not (home / 'gs:').exists()


def test_above_the_limit_what_was_read_long_ago_goes(home, monkeypatch):
  monkeypatch.setattr(compilation_cache, '_MAX_BYTES', 250)
  folder = home / 'xla' / compilation_cache.name_machine()
  (folder / 'folder').mkdir(parents=True)
  folder.chmod(0o700)
  for age, file in enumerate(('new', 'old', 'older')):
    (folder / file).write_bytes(bytes(100))
    os.utime(folder / file, (10**9 - age, 10**9 + age))  # read, written
  compilation_cache.enable()
  assert sorted(os.listdir(folder)) == ['folder', 'new', 'old']

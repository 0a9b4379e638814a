"""A folder of a run: one process at a time, whole files, clear refusals."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import jax
import pytest

from byol_jax import errors
from byol_jax.training import workdir

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_a_new_folder_gets_config_and_versions(tmp_path):
  config = {'seed': 0, 'network': {'projector': (4096, 256), 'stem': None}}
  with workdir.open_workdir(tmp_path / 'a' / 'b') as folder:
    assert folder.config() is None
    folder.write_config(config)
    folder.write_versions()
    assert folder.path == tmp_path / 'a' / 'b'
  found = workdir.read_config(tmp_path / 'a' / 'b')
  assert found == {
    'seed': 0,
    'network': {'projector': [4096, 256], 'stem': None},
  }
  versions = json.loads((folder.path / 'versions.json').read_text())
  assert versions['jax'] == jax.__version__
  assert versions['python'] == '.'.join(map(str, sys.version_info[:3]))
  assert {'platform', 'dm-haiku', 'optax', 'orbax-checkpoint'} <= set(versions)


def test_a_second_opening_is_refused_until_the_first_closes(tmp_path):
  first = workdir.open_workdir(tmp_path)
  with pytest.raises(errors.DataError) as caught:
    workdir.open_workdir(tmp_path)
  message = str(caught.value)
  assert f'process {os.getpid()} on {os.uname().nodename}' in message
  assert str(tmp_path) in message and 'in use' in message
  first.close()
  first.close()
  workdir.open_workdir(tmp_path).close()


def test_the_lock_survives_no_error_inside(tmp_path):
  with pytest.raises(KeyError), workdir.open_workdir(tmp_path):
    raise KeyError
  workdir.open_workdir(tmp_path).close()


HOLDER = """
import sys, time
from byol_jax.training import workdir
folder = workdir.open_workdir(sys.argv[1])
print('open', flush=True)
time.sleep(60)
"""


def test_another_process_holds_it_until_it_is_killed(tmp_path):
  process = subprocess.Popen(
    [sys.executable, '-c', HOLDER, str(tmp_path)],
    cwd=ROOT,
    stdout=subprocess.PIPE,
  )
  try:
    assert process.stdout.readline() == b'open\n'
    with pytest.raises(errors.DataError, match=f'process {process.pid} on'):
      workdir.open_workdir(tmp_path)
  finally:
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
  workdir.open_workdir(tmp_path).close()


def test_a_refused_opening_leaks_no_file(tmp_path):
  descriptors = lambda: len(os.listdir('/proc/self/fd'))
  with workdir.open_workdir(tmp_path):
    before = descriptors()
    for _ in range(5):
      with pytest.raises(errors.DataError):
        workdir.open_workdir(tmp_path)
    assert descriptors() == before


@pytest.mark.parametrize('tail', ['file', 'file/inside', 'file/in/side'])
def test_a_file_in_the_way(tmp_path, tail):
  (tmp_path / 'file').write_text('kept')
  with pytest.raises(errors.DataError) as caught:
    workdir.open_workdir(tmp_path / tail)
  assert str(tmp_path / tail) in str(caught.value)
  assert 'in the way' in str(caught.value)
  assert '\n' not in str(caught.value)
  assert (tmp_path / 'file').read_text() == 'kept'


@pytest.mark.parametrize('path', ['/proc/self', '/proc/none', '/sys/none'])
def test_places_where_even_root_may_not_write(path):
  with pytest.raises(errors.DataError, match='expected a writable folder'):
    workdir.open_workdir(path)


def test_a_bucket_is_refused_not_made_a_local_folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(errors.DataError, match='found a URL'):
    workdir.open_workdir('gs://bucket/run')
  assert not list(tmp_path.iterdir())


def test_folders_without_a_run(tmp_path):
  (tmp_path / 'file').write_text('')
  for path in (tmp_path, tmp_path / 'absent', tmp_path / 'file'):
    with pytest.raises(errors.DataError) as caught:
      workdir.read_config(path)
    assert str(caught.value) == (
      f'{path} holds no byol_jax run: config.json is missing'
    )


@pytest.mark.parametrize('content', [b'{"seed":', b'[1]', b'\xff\xfe'])
def test_a_broken_config(tmp_path, content):
  (tmp_path / 'config.json').write_bytes(content)
  with pytest.raises(errors.DataError, match=r'config\.json'):
    workdir.read_config(tmp_path)


SAVED = {
  'seed': 0,
  'network': {'width': 1.0, 'projector': [4096, 256]},
  'augment': {'blur': {'probability': 0.5}},
  'log': {'every_steps': 50},
}


def changed(**change):
  return json.loads(json.dumps(SAVED)) | change


@pytest.mark.parametrize(
  'new',
  [
    SAVED,
    changed(network={'width': 1, 'projector': (4096, 256)}),
    changed(log={'every_steps': 1, 'else': None}),
    {key: SAVED[key] for key in ('augment', 'network', 'seed')},
  ],
)
def test_configs_that_agree(new):
  assert workdir.compare_configs(SAVED, new, {'log'}) is None


@pytest.mark.parametrize(
  'new, text',
  [
    (changed(seed=1), 'seed: saved 0, now 1'),
    (changed(seed=False), 'seed: saved 0, now False'),
    (
      changed(network={'width': 1.0, 'projector': [4096]}),
      'network.projector: saved [4096, 256], now [4096]',
    ),
    # Two differ: the first of the saved order is named.
    (
      changed(augment={}, network={'width': 2, 'projector': [1]}),
      'network.width: saved 1.0, now 2',
    ),
    (
      changed(augment={'blur': None}),
      'augment.blur.probability: saved 0.5, now absent',
    ),
    (changed(more={'a': 1}), 'more.a: absent when saved, now 1'),
  ],
)
def test_the_first_difference_is_named(new, text):
  assert workdir.compare_configs(SAVED, new, {'log'}) == text


def test_not_a_number_agrees_with_itself():
  same = {'a': float('nan'), 'b': [float('nan')]}
  assert workdir.compare_configs(same, same, set()) is None


def test_of_a_bucket_the_lock_and_logs_are_on_this_machine(monkeypatch):
  monkeypatch.setenv('BYOL_JAX_CACHE', '/cache')
  local = workdir.local('gs://bucket/a/run')
  assert local == pathlib.Path('/cache/runs/gs/bucket/a/run')
  assert workdir.local('runs/a') == pathlib.Path('runs/a')
  assert workdir.checkpoints('gs://b/run') == 'gs://b/run/checkpoints'
  assert workdir.checkpoints('runs/a') == 'runs/a/checkpoints'
  assert workdir.checkpoints('runs/a', 'gs://b/c') == 'gs://b/c'

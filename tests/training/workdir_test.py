"""A folder of a run: one process at a time, whole files, clear refusals."""

import contextlib
import json
import os
import pathlib
import signal
import sys

import jax
import pytest

from byol_jax import errors
from byol_jax.evaluation import pretrained
from byol_jax.training import workdir
from tests.helpers import full_disk, tiny_run, wiring

NAME = '\x1b[31mrun\n' + 200 * 'x'


def open_and_close(path):
  with workdir.open_workdir(path):
    pass


def test_a_new_folder_gets_config_and_versions(tmp_path):
  config = {'seed': 0, 'network': {'projector': (4096, 256), 'stem': None}}
  with workdir.open_workdir(tmp_path / 'a' / 'b') as folder:
    assert folder == tmp_path / 'a' / 'b'
    workdir.write_record(folder, config, None)
    found = {'seed': 0, 'network': {'projector': [4096, 256], 'stem': None}}
    assert workdir.read_config_file(folder) == found
  versions = json.loads((folder / 'versions.json').read_text())
  assert versions['jax'] == jax.__version__
  assert versions['python'] == '.'.join(map(str, sys.version_info[:3]))
  assert {'platform', 'dm-haiku', 'optax', 'orbax-checkpoint'} <= set(versions)


def test_a_second_opening_is_refused_until_the_first_closes(tmp_path):
  descriptors = lambda: len(os.listdir('/proc/self/fd'))
  with contextlib.suppress(KeyError), workdir.open_workdir(tmp_path):
    before = descriptors()
    for _ in range(2):
      with pytest.raises(errors.DataError) as caught:
        open_and_close(tmp_path)
    assert descriptors() == before
    raise KeyError
  assert str(caught.value) == (
    f"workdir '{tmp_path}' is in use by 'process {os.getpid()} on"
    f" {os.uname().nodename}'"
  )
  open_and_close(tmp_path)


HOLDER = """
import sys, time
from byol_jax.training import workdir
with workdir.open_workdir(sys.argv[1]):
  print('open', flush=True)
  time.sleep(60)
"""


def test_foreign_text_is_escaped_and_cut(tmp_path):
  """Of the path and of the lock, which anybody may write."""
  with workdir.open_workdir(tmp_path / NAME):
    (tmp_path / NAME / '.lock').write_text('\x1b[31m\n' + 10**6 * 'y')
    with pytest.raises(errors.DataError) as caught:
      open_and_close(tmp_path / NAME)
  text = str(caught.value)
  assert text.isprintable() and len(text) < 500
  config = {'a\n': 'x\x1b' * 10**6}
  text = workdir.compare_configs({}, config, set())
  assert text.isprintable() and len(text) < 300


def test_another_process_holds_it_until_it_is_killed(tmp_path):
  process = tiny_run.start_python('-c', HOLDER, tmp_path)
  try:
    assert process.stdout.readline() == 'open\n'
    with pytest.raises(errors.DataError, match=f'process {process.pid} on'):
      open_and_close(tmp_path)
  finally:
    process.send_signal(signal.SIGKILL)
    process.communicate()
  ours = pytest.raises(errors.DataError, match=f"by 'process {os.getpid()}")
  with workdir.open_workdir(tmp_path), ours:
    open_and_close(tmp_path)


@pytest.mark.parametrize(
  'path, words',
  [
    *((tail, 'in the way') for tail in ('file', 'file/inside', 'file/in/side')),
    # Even root may not write there.
    *((f'/{x}', 'writable') for x in ('proc/self', 'proc/none', 'sys/none')),
  ],
)
def test_what_cannot_be_a_workdir_is_refused(
  tmp_path, monkeypatch, path, words
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'file').write_text('kept')
  with pytest.raises(errors.DataError, match=words) as caught:
    open_and_close(path)
  assert path in str(caught.value) and '\n' not in str(caught.value)
  assert [x.read_text() for x in tmp_path.iterdir()] == ['kept']


def test_a_lock_that_is_a_link_or_a_pipe_is_refused(tmp_path):
  """Through a link we would empty a file of the user."""
  target, lock = tmp_path / 'target', tmp_path / 'run' / '.lock'
  target.write_text('kept')
  lock.parent.mkdir()
  for make in (os.mkfifo, lambda path: path.symlink_to(target)):
    make(lock)
    with pytest.raises(errors.DataError, match=r'\.lock is a symbolic link'):
      open_and_close(lock.parent)
    lock.unlink()
  assert target.read_text() == 'kept'


@pytest.mark.parametrize(
  'content',
  [
    *(b'[1]', b'\xff\xfe', b'[' * 200_000, b'{}'),
    b'{"training_set": {"num_examples": 1e999, "num_classes": 2}}',
  ],
)
def test_no_config_is_one_line_for_an_evaluation(tmp_path, content):
  (tmp_path / 'config.json').write_bytes(content)
  with pytest.raises(errors.DataError) as caught:
    pretrained.open_run(tmp_path)
  text = str(caught.value)
  assert str(tmp_path) in text and '\n' not in text and len(text) < 600


def test_a_config_that_is_missing(tmp_path):
  file = tmp_path / 'config.json'
  file.write_text('{}')
  for path, found in (
    (file, 'config.json is missing'),
    (tmp_path / 'absent', 'there is no such folder'),
  ):
    with pytest.raises(errors.DataError) as caught:
      workdir.read_config_file(path)
    assert str(caught.value) == f"'{path}' holds no byol_jax run: {found}"


SAVED = {
  'seed': 0,
  'network': {'width': 1.0, 'projector': [4096, 256]},
  'augment': {'blur': {'probability': 0.5}},
  'nan': float('nan'),
  'log': {'every_steps': 50},
}


@pytest.mark.parametrize(
  'change, text',
  [
    ({}, None),
    ({'network': {'width': 1, 'projector': (4096, 256)}}, None),
    ({'log': {'every_steps': 1, 'else': None}}, None),
    ({'seed': 1}, 'seed: saved 0, now 1'),
    ({'seed': False}, 'seed: saved 0, now False'),
    (
      {'network': {'width': 1.0, 'projector': [4096]}},
      'network.projector: saved [4096, 256], now [4096]',
    ),
    # Two differ: the first of the saved order is named.
    (
      {'augment': {}, 'network': {'width': 2, 'projector': [1]}},
      'network.width: saved 1.0, now 2',
    ),
    (
      {'augment': {'blur': None}},
      'augment.blur.probability: saved 0.5, now absent',
    ),
    ({'more': {'a': 1}}, 'more.a: absent when saved, now 1'),
  ],
)
def test_the_first_difference_of_two_configs_is_named(change, text):
  new = dict(reversed((SAVED | change).items()))
  assert workdir.compare_configs(SAVED, new, {'log'}) == text


def test_what_decides_what_is_learned_binds_a_workdir():
  sections = {key.partition('.')[0] for key in wiring.METHOD}
  names = {'preset', 'preset_epochs', 'preset_batch_size'}
  # They change where arrays lie, and what is computed twice.
  same_results = {'shard_optimizer', 'recompute_blocks'}
  assert workdir.KEYS_THAT_MAY_CHANGE & sections == names | same_results
  assert {'dataset', 'data', 'init'}.isdisjoint(workdir.KEYS_THAT_MAY_CHANGE)


@pytest.mark.parametrize('record', ({}, {'config': 1}, {'config': {'data': 1}}))
def test_a_checkpoint_of_an_unknown_run_is_refused(record):
  with pytest.raises(errors.DataError, match=r"'\\n/7' does not record of whi"):
    workdir.require_same_run({}, record, '\n/7')


def test_of_a_bucket_the_lock_and_logs_are_on_this_machine(monkeypatch):
  monkeypatch.setenv('BYOL_JAX_CACHE', '/cache')
  local = workdir.local_folder('gs://bucket/a/run')
  assert local == pathlib.Path('/cache/runs/gs/bucket/a/run')
  assert workdir.local_folder('runs/a') == pathlib.Path('runs/a')
  assert workdir.checkpoint_folder('gs://b/run') == 'gs://b/run/checkpoints'
  assert workdir.checkpoint_folder('runs/a') == 'runs/a/checkpoints'
  assert workdir.checkpoint_folder('runs/a', 'gs://b/c') == 'gs://b/c'


def test_a_full_disk_is_one_line(tmp_path):
  with full_disk.limit_files(0):
    opened = workdir.open_workdir(tmp_path / 'run')
    with pytest.raises(errors.DataError, match='found: '), opened:
      pass

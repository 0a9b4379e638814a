"""Reading: other formats, folders that nobody can list, a run beside it."""

import hashlib
import json
import os
import pathlib
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import errors
from byol_jax.checkpoints import checkpointer, manifest as checkpoint_manifest
from tests.helpers import tiny_run
from tests.helpers.tiny_checkpoint import (
  assert_same_bits,
  empty,
  flip,
  halve,
  manifest,
  resume,
  save,
  states,
)

FORMAT_1 = tiny_run.ROOT / 'tests' / 'checkpoint_format_1'


def sha256(path):
  return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_manifest_tells_what_was_saved(tmp_path):
  record = {'config_sha256': 'abc', 'versions': {'jax': '0'}}
  tree = {'a': np.zeros((2, 3), 'f4'), 'b': {'c': np.int32(1)}}
  save(tmp_path, 4, tree, {'note': (1, 2)}, record=record)
  document = json.loads(manifest(tmp_path / '4').read_text())
  assert document['format'] == 2
  content = document['content']
  assert content['step'] == 4 and content['record'] == record
  assert content['meta'] == {'note': [1, 2]}
  assert list(content['arrays']) == ['a', 'b/c']
  assert content['arrays']['a']['shape'] == [2, 3]
  assert content['arrays']['a']['dtype'] == 'float32'
  assert (
    content['arrays']['a']['sha256'] == hashlib.sha256(24 * b'\0').hexdigest()
  )
  listed = {name: entry['sha256'] for name, entry in content['files'].items()}
  assert listed == {
    path.relative_to(tmp_path / '4').as_posix(): sha256(path)
    for path in (tmp_path / '4').rglob('*')
    if path.is_file() and path != manifest(tmp_path / '4')
  }


def test_a_folder_that_cannot_be_listed_is_not_an_empty_one(
  tmp_path, monkeypatch
):
  """Or a run would start afresh, and bury what was there."""
  save(tmp_path, 1, states(1)[1])
  opened = checkpointer.Checkpoints(tmp_path, keep=1)

  def refuse(path='.'):
    raise PermissionError(13, 'Permission denied', path)

  monkeypatch.setattr(os, 'listdir', refuse)
  for call in (
    lambda: opened.resume(states(1)[1]),
    lambda: checkpointer.latest_step(tmp_path),
    lambda: checkpointer.read(tmp_path),
  ):
    with pytest.raises(errors.DataError, match='cannot be read: Permission'):
      call()


def test_a_newer_format_is_refused_and_not_called_damaged(
  tmp_path, monkeypatch
):
  save(tmp_path, 1, {'w': np.ones(1)})
  path = tmp_path / '1'
  content = checkpoint_manifest.read(path)
  monkeypatch.setattr(checkpoint_manifest, 'FORMAT', 3)
  checkpoint_manifest.write(path, content)
  monkeypatch.undo()
  with pytest.raises(errors.DataError, match=r'format 3, .* reads 1 to 2') as e:
    resume(tmp_path, {'w': np.ones(1)})
  assert not isinstance(e.value, checkpointer.Damaged)
  # One flipped bit is no newer version: the digest is of the format too.
  text = manifest(path).read_text()
  manifest(path).write_text(text.replace('"format": 3', '"format": 2'))
  with pytest.raises(checkpointer.Damaged):
    checkpointer.read(tmp_path)


def test_a_checkpoint_of_format_1_loads_for_ever(tmp_path):
  """Written by the last version that knew no other format."""
  folder = tmp_path / 'checkpoints'
  shutil.copytree(FORMAT_1, folder)
  assert checkpointer.latest_step(folder) == 7
  tree = {
    'step': np.int32(7),
    'params': {
      'res_net50/~/initial_conv': {
        'w': np.arange(12, dtype='f4').reshape(3, 4)
      },
      'projector/linear': {'w': np.linspace(0, 1, 8).reshape(4, 2)},
    },
    'half': jnp.arange(3, dtype=jnp.bfloat16),
    'nothing': np.zeros((0, 3), np.int16),
  }
  step, found, meta = resume(folder, tree)
  assert step == 7 and meta == {'step': 7, 'note': 'format 1'}
  assert_same_bits(found, tree)
  # A run goes on in its folder; what is damaged there is stepped back from.
  assert not save(folder, 7, tree)
  assert save(folder, 8, tree)
  empty(folder / '8')
  assert resume(folder, tree)[0] == 7
  assert save(folder, 9, tree)
  for damage in (flip, halve, pathlib.Path.unlink):
    shutil.rmtree(folder / '7', ignore_errors=True)
    shutil.copytree(FORMAT_1 / '7', folder / '7')
    for file in ('meta/metadata', 'arrays/manifest.ocdbt'):
      damage(folder / '7' / file)
      with pytest.raises(errors.DataError, match='7 is damaged'):
        checkpointer.read(folder, 7)


SAVES = """
import sys
import numpy as np
from byol_jax.checkpoints import checkpointer
saver = checkpointer.Checkpoints(sys.argv[1], keep=1)
for step in range(1, 31):
  saver.save(step, {'w': np.full(20_000, step)}, {'step': step})
saver.close()
"""


@pytest.mark.slow
def test_a_folder_is_read_while_another_process_saves_into_it(tmp_path):
  """With one step kept, each read may find that its step has just gone."""
  process = tiny_run.start_python('-c', SAVES, tmp_path)
  seen = []
  while process.poll() is None:
    if checkpointer.latest_step(tmp_path) is not None:
      arrays, meta = checkpointer.read(tmp_path)
      assert (arrays['w'] == meta['step']).all()
      seen.append(meta['step'])
  tiny_run.finish(process)
  assert seen == sorted(seen) and len(set(seen)) > 5
  assert checkpointer.read(tmp_path)[1] == {'step': 30}

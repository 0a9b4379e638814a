"""A run of an earlier version resumes and is evaluated as it was then.

`stored_run` is a run of ten steps on `tiny_config.ArraySet`: its configuration,
its checkpoint of step 6, the scalars of steps 7 to 10, and representations of
step 6. It stays as it is: later versions must read it.
"""

import json
import shutil
import tarfile

import numpy as np
import pytest

import byol_jax
from byol_jax import api, configuration
from byol_jax.checkpoints import checkpointer
from byol_jax.training import old_values, scalars, workdir
from tests.helpers import tiny_run
from tests.helpers.tiny_checkpoint import arrays_of, assert_same_arrays
from tests.helpers.tiny_config import ArraySet, tiny

STORED = tiny_run.ROOT / 'tests' / 'training' / 'stored_run'
# Instruction sets round differently; where it was recorded all bits are equal.
TOLERANCE = 1e-5


@pytest.fixture
def stored(tmp_path):
  """(workdir, what was recorded)."""
  shutil.copy(STORED / 'config.json', tmp_path)
  with tarfile.open(STORED / 'checkpoints.tar.gz') as tar:
    tar.extractall(tmp_path, filter='data')
  return tmp_path, json.loads((STORED / 'expected.json').read_text())


@pytest.mark.usefixtures('compiled_once')
def test_a_stored_run_resumes_to_the_end_that_it_had(stored, tmp_path):
  """Where a new run gives its first six steps bit for bit, the rest too."""
  path, expected = stored
  step_6 = arrays_of(path)
  dataset = ArraySet()
  api.pretrain_on(dataset, tiny(), path)
  assert dataset.asked == [6, 7, 8, 9]
  lines = list(map(json.loads, (path / 'scalars.jsonl').open()))
  assert [line['step'] for line in lines] == [8, 10]
  for line, then in zip(lines, expected['scalars']):
    then = {scalars.OLD_NAMES.get(key, key): x for key, x in then.items()}
    now = {key: line[key] for key in then}
    assert now == pytest.approx(then, rel=TOLERANCE)
  assert arrays_of(path)['step'] == 10
  config = tiny(checkpoint__every_steps=6, checkpoint__keep=2)
  api.pretrain_on(ArraySet(), config, tmp_path / 'new')
  new_6 = arrays_of(tmp_path / 'new', 6)
  if all(array.tobytes() == new_6[k].tobytes() for k, array in step_6.items()):
    assert_same_arrays(arrays_of(path), arrays_of(tmp_path / 'new'))


def test_a_stored_run_is_evaluated_as_it_was(stored):
  path, expected = stored
  images = np.random.default_rng(0).integers(0, 256, (2, 20, 18, 3))
  found = byol_jax.load_encoder(path)(images.astype(np.uint8))
  then = np.float32(expected['representations'])
  np.testing.assert_allclose(found, then, rtol=TOLERANCE)


def test_every_key_since_then_has_a_value_that_means_its_absence(stored):
  saved = json.loads((STORED / 'config.json').read_text())
  free = workdir.KEYS_THAT_MAY_CHANGE
  now = keep_old_values(stored[0]) | {'training_set': saved['training_set']}
  filled = old_values.add_old_values(saved)
  assert workdir.compare_configs(filled, now, free) is None
  missing = [
    key
    for key in configuration.flatten(tiny())
    if key not in old_values.OLD_VALUES and not has_key(saved, key.split('.'))
  ]
  assert not missing, 'add them to old_values.OLD_VALUES'


def keep_old_values(path):
  """Returns the configuration with which a run of today resumes the old one."""
  config = tiny()
  record = checkpointer.read_record(path / 'checkpoints')
  config.update_from_flattened_dict(old_values.find_old_values(config, record))
  return config.to_dict()


def has_key(config, parts):
  for part in parts:
    if part not in config:
      return False
    config = config[part]
  return True


def test_a_key_that_is_missing_counts_as_its_old_value(stored, monkeypatch):
  """As if `data.eval_crop` and a section of one key were new."""
  path, _ = stored
  old = {'data.eval_crop': 'whole', 'objective.name': 'regression'}
  monkeypatch.setattr(old_values, 'OLD_VALUES', old_values.OLD_VALUES | old)
  saved = json.loads((path / 'config.json').read_text())
  del saved['data']['eval_crop'], saved['objective']
  now = keep_old_values(path) | {'training_set': saved['training_set']}
  workdir.require_same_run(now, {'config': saved}, 'x')
  (path / 'config.json').write_text(json.dumps(saved))
  images = np.zeros((2, 16, 16, 3), np.uint8)
  assert byol_jax.load_encoder(path)(images).shape == (2, 4)
  now['objective'] |= {'name': 'other'}
  with pytest.raises(byol_jax.errors.DataError, match=r'objective\.name: sav'):
    workdir.require_same_run(now, {'config': saved}, 'x')

"""A run on disk, of any version, whole or in part."""

import contextlib
import json

import numpy as np
import pytest

from byol_jax import errors, pretrained
from byol_jax.checkpoints import checkpointer


def test_a_run_of_an_earlier_version_gets_the_keys_it_lacks(tmp_path):
  """As of the first version, whose sections were smaller."""
  config = {
    'data': {'holdout': 'official', 'heldout_share': 0.1},
    'input': {'threads': 3},
    'training_set': {'num_examples': 5},
  }
  (tmp_path / 'config.json').write_text(json.dumps(config))
  found = pretrained.read_config(tmp_path)
  assert found.data.holdout == 'official' and found.input.threads == 3
  assert found.data.resident is False and found.data.decoding == 'once'
  assert found.input.cache == 'none'


def test_a_copy_of_the_checkpoints_alone_says_what_the_run_is(tmp_path):
  """As it comes from a bucket, where no config.json lies."""
  config = {'training_set': {'num_examples': 5}, 'data': {}, 'input': {}}
  record = {'config': config}
  with contextlib.closing(
    checkpointer.Checkpointer(tmp_path / 'checkpoints', keep=1, record=record)
  ) as saving:
    saving.save(3, {'x': np.ones(2)}, {})
  assert pretrained.read_config(tmp_path).training_set.num_examples == 5


def test_a_folder_without_a_pretraining_is_no_run(tmp_path):
  with pytest.raises(errors.DataError, match='holds no byol_jax run'):
    pretrained.read_config(tmp_path)
  (tmp_path / 'config.json').write_text('{"seed": 0}')
  with pytest.raises(errors.DataError, match='holds no pretraining run'):
    pretrained.read_config(tmp_path)

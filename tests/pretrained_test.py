"""A run on disk, of any version, whole or in part."""

import contextlib
import json
import types

import numpy as np
import pytest

from byol_jax import byol, configuration, errors, pretrained
from byol_jax.checkpoints import checkpointer
from byol_jax.data import from_config
from byol_jax.data.sampling import resize
from byol_jax.evals import features
from tests.helpers import fakes, wiring
from tests.helpers.made import smooth


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


@pytest.mark.parametrize(
  'changes, reason',
  (
    ({'network': None}, 'missing: network'),
    ({'epochs': 'ten'}, 'epochs: expected float'),
    ({'batch_size': 0}, 'batch_size: expected a number'),
    ({'training_set': {}}, 'num_examples'),
    ({'training_set': 3}, 'TypeError'),
  ),
)
def test_a_damaged_configuration_is_one_line(tmp_path, changes, reason):
  config = configuration.load('shapes').to_dict() | {
    'training_set': {'num_examples': 5, 'num_classes': 2}
  }
  (tmp_path / 'config.json').write_text(json.dumps(config | changes))
  with pytest.raises(errors.DataError, match=f'damaged: .*{reason}'):
    pretrained.open_run(tmp_path)


def test_a_folder_without_a_pretraining_is_no_run(tmp_path):
  with pytest.raises(errors.DataError, match='holds no byol_jax run'):
    pretrained.read_config(tmp_path)
  (tmp_path / 'config.json').write_text('{"seed": 0}')
  with pytest.raises(errors.DataError, match='holds no pretraining run'):
    pretrained.read_config(tmp_path)


def make_state(name):
  """A state whose parts say what they are."""
  return byol.ByolState(
    *(f'{name} {field}' for field in byol.ByolState._fields)
  )


@pytest.mark.parametrize(
  'weights, params, net_state',
  [
    ('online', 'saved online_params', 'saved online_state'),
    ('target', 'saved target_params', 'saved target_state'),
    ('random', 'first online_params', 'first online_state'),
    ('random_calibrated', 'first online_params', 'estimate'),
  ],
)
def test_each_name_of_weights_has_its_parameters_and_averages(
  monkeypatch, weights, params, net_state
):
  answers = {
    (pretrained, '_read_state'): lambda run: make_state('saved'),
    (features, 'make_encoder'): lambda *arguments: arguments,
    (features, 'estimate_batch_norm'): lambda *a, **k: 'estimate',
    (from_config, 'make_image_set'): lambda *a, **k: types.SimpleNamespace(
      crop_batches=lambda *steps: steps
    ),
  }
  calls = {
    name: wiring.spy(monkeypatch, owner, name, answer)
    for (owner, name), answer in answers.items()
  }
  config = wiring.load(monkeypatch)
  method = types.SimpleNamespace(
    forward='forward', init_on_host=lambda: make_state('first')
  )
  run = pretrained.Run(None, '', config, method, {})
  found = pretrained.open_encoder(run, weights, calibration_batches=7)
  assert found == ('forward', params, net_state, weights)
  if weights == 'random_calibrated':
    (opened,), (estimated,) = (
      calls['make_image_set'],
      calls['estimate_batch_norm'],
    )
    assert opened.arguments == {
      'config': config, 'split': 'train', 'cropped': False
    }  # fmt: skip
    assert estimated.arguments == {
      'forward': 'forward',
      'params': 'first online_params',
      'state': 'first online_state',
      'batches': (96, 0, 7),
      'max_batches': 7,
    }


@pytest.mark.parametrize('rule', resize.METHODS)
def test_an_image_in_memory_has_the_crop_that_is_asked_for(rule):
  encoder, image = fakes.pixels(8 * 8 * 3), smooth(0, 20, 30)
  encode = pretrained.make_image_encoder(encoder, image_size=8, eval_crop=rule)
  expected = resize.crop_for_evaluation(image, 8, rule).ravel()
  # Bytes and floats of an image differ by rounding.
  np.testing.assert_allclose(encode(image)[0], expected, atol=1e-6)

"""A run on disk, of any version, whole or in part."""

import contextlib
import copy
import dataclasses
import json
import pickle
import re
import types

import jax
import numpy as np
import pytest

from byol_jax import byol, configuration, errors
from byol_jax.checkpoints import checkpointer
from byol_jax.conformance import compare
from byol_jax.convert import npz
from byol_jax.data import from_config
from byol_jax.evals import features
from byol_jax.evaluation import pretrained
from tests.helpers import official, wiring


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
    ({'target': None}, 'missing: target'),
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
    (pretrained, '_read_state'): lambda run, step: (step, make_state('saved')),
    (features, 'make_encoder'): lambda *parts: features.Encoder(
      *parts[:3], 8, parts[3]
    ),
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
  with pytest.raises(errors.ConfigError, match="found 'best'"):
    pretrained.open_encoder(run, 'best')
  step = None if weights.startswith('random') else 5
  if weights == 'target':
    assert config.target.parameters == 'online_stopped'
    with pytest.raises(errors.ConfigError, match='which this run did not use'):
      pretrained.open_encoder(run, weights)
    with config.unlocked():
      config.target.parameters = 'average'
  found = pretrained.open_encoder(
    run, weights, calibration_batches=7, step=step
  )
  assert found[:6] == ('forward', params, net_state, 8, weights, step)
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
    }


@pytest.fixture(scope='module')
def published(tmp_path_factory):
  """(file, vectors): a run of the official code after its last step."""
  folder = tmp_path_factory.mktemp('published')
  vectors = official.read_vectors()
  return official.write_file(folder / 'whole.pkl', vectors), vectors


def compute(encoder, images):
  """What an encoder computes of images; see `Encoder.apply`."""
  return jax.jit(encoder.apply)(encoder.params, encoder.state, images)


def test_published_weights_give_the_outputs_of_the_reference(published):
  path, vectors = published
  encoder = pretrained.load(path)
  images = vectors['eval/images']
  outputs, state = compute(encoder, images)
  for name in ('projection', 'prediction', 'logits'):
    expected = vectors[f'eval/{name}']
    found = compare.compare_arrays(name, name, getattr(outputs, name), expected)
    assert found.holds, found
  assert state.keys() == encoder.state.keys()
  assert encoder.config.network.encoder == 'TinyResNet'
  assert encoder.num_classes == 10 and encoder.dim == 8
  assert 'TinyResNet' in repr(encoder) and 'CC BY-NC' in repr(encoder)
  target = pretrained.load(path, 'target')
  assert (
    target.params['classifier']['w'] != encoder.params['classifier']['w']
  ).any()


def test_a_file_of_an_encoder_only_is_the_same_encoder(published, tmp_path):
  path, vectors = published
  whole = pretrained.load(path)
  images = vectors['eval/images']
  expected = compute(whole, images)[0].representation
  for options in ({}, {'step': None, 'rng': None}):
    file = tmp_path / 'encoder.pkl'
    official.write_file(file, vectors, official.leave_encoder, **options)
    found = pretrained.load(file)
    outputs, _ = compute(found, images)
    # Of a program without heads: XLA may sum in another order.
    np.testing.assert_allclose(
      outputs.representation, expected, rtol=1e-5, atol=1e-6
    )
    for module, leaves in found.params.items():
      for name, leaf in leaves.items():
        np.testing.assert_array_equal(leaf, whole.params[module][name])
    assert outputs.projection is None and found.num_classes is None


def test_a_linear_evaluation_is_the_encoder_with_its_classifier(
  published, tmp_path
):
  path, vectors = published
  generator = np.random.default_rng(0)
  classifier = {'w': generator.normal(size=(8, 3)), 'b': np.arange(3)}
  classifier = {k: np.float32(x) for k, x in classifier.items()}
  change = official.make_linear_evaluation(classifier)
  file = official.write_file(tmp_path / 'linear-eval.pkl', vectors, change)
  whole, found = pretrained.load(path), pretrained.load(file)
  assert found.num_classes == 3 and found.params.keys() == whole.params.keys()
  images = vectors['eval/images']
  (outputs, _), (expected, _) = (compute(x, images) for x in (found, whole))
  np.testing.assert_array_equal(outputs.projection, expected.projection)
  logits = expected.representation @ classifier['w'] + classifier['b']
  np.testing.assert_allclose(outputs.logits, logits, rtol=1e-5, atol=1e-5)
  for shape in ((), (8,), (0, 8, 3)):
    bad = classifier | {'w': np.zeros(shape, np.float32)}
    change = official.make_linear_evaluation(bad)
    official.write_file(file, vectors, change)
    with pytest.raises(errors.DataError, match="'classifier/w': expected"):
      pretrained.load(file)


def test_an_encoder_goes_to_other_processes(published):
  """Also one that has been called, with other parameters and an axis."""
  path, vectors = published
  images = vectors['eval/images'][:2]
  encoder = pretrained.load(path, axis_name='i')
  changed = jax.tree.map(lambda x: x + 1, encoder.params)
  encoder = dataclasses.replace(encoder, params=changed)
  expected = encoder(images)
  found = pickle.loads(pickle.dumps(encoder))
  np.testing.assert_array_equal(found(images), expected)
  assert found.axis_name == 'i' and repr(found) == repr(encoder)
  assert copy.deepcopy(encoder).config == encoder.config


@pytest.mark.parametrize(
  'change, pattern',
  (
    ({'image_size': 0}, "x.npz': its configuration .* image_size: expected"),
    ({'eval_crop': 'none'}, 'data.eval_crop: expected'),
    ({'network': {'padding': -0.5}}, 'padding'),
    ({'network': {'projector': [1] * 10**6}}, 'at most 16 layers'),
    ({'card': {'config': {'seed': 0}}}, 'missing'),
    ({'card': {'config': {'network': 3}}}, 'configuration'),
    ({'card': {'licence': {}}}, "expected 'licence' .* text, found {}"),
    ({'card': {'source': 5}}, "expected 'source'"),
  ),
)
def test_a_file_with_facts_of_none_of_ours_is_one_line(
  published, tmp_path, change, pattern
):
  weights = pretrained.read_weights(published[0])
  for field, value in change.items():
    old = getattr(weights, field)
    value = old | value if isinstance(old, dict) else value
    weights = weights._replace(**{field: value})
  npz.write_encoder(weights, tmp_path)
  file = (tmp_path / npz.FILE).rename(tmp_path / 'x.npz')
  with pytest.raises(errors.DataError, match=pattern):
    pretrained.load(file)


def test_apply_is_pure_and_its_batch_norm_local_or_over_an_axis(published):
  path, vectors = published
  local, shared = pretrained.load(path), pretrained.load(path, axis_name='i')
  images = vectors['eval/images'][:4]

  def represent(encoder, images, is_training, params=local.params):
    outputs, _ = encoder.apply(params, encoder.state, images, is_training)
    return outputs.representation

  def map_images(encoder, images, is_training, axis_name=None):
    function = lambda x: represent(encoder, x, is_training)
    return jax.jit(jax.vmap(function, axis_name=axis_name))(images)

  expected = compute(local, images)[0].representation
  each = map_images(local, images[:, None], False)[:, 0]
  np.testing.assert_allclose(each, expected, rtol=1e-4, atol=1e-6)
  loss = lambda params: represent(local, images, True, params).sum()
  grads = jax.jit(jax.grad(loss))(local.params)
  moved = [np.abs(x).max() for x in jax.tree.leaves(grads)]
  assert np.isfinite(moved).all() and max(moved) > 0
  halves = images.reshape(2, 2, *images.shape[1:])
  (whole,) = map_images(local, images[None], True)
  parts = map_images(shared, halves, True, axis_name='i')
  # Sums in another order, amplified where a variance is small.
  np.testing.assert_allclose(parts.reshape(whole.shape), whole, atol=1e-3)
  alone = map_images(local, halves, True)
  assert np.abs(alone.reshape(whole.shape) - whole).max() > 0.01


CONV = 'tiny_res_net/~/initial_conv'


def change_leaf(change):
  """Returns a change of both networks' parameters."""

  def apply(trees):
    for field in ('online_params', 'target_params'):
      change(trees[field])
    return trees

  return apply


@pytest.mark.parametrize(
  'change, patterns',
  (
    (
      lambda p: (p.pop('projector/linear'), p['classifier'].pop('b')),
      ("missing 'projector/linear/w'", "missing 'classifier/b'"),
    ),
    (
      lambda p: p.update(other={'w': np.zeros(2, np.float32)}),
      (r"unknown 'other/w' \[2\]",),
    ),
    (
      lambda p: p['predictor/linear'].update(b=np.zeros(3, np.float32)),
      (r"'predictor/linear/b': expected \[64\], found \[3\]",),
    ),
    (lambda p: p.pop(CONV), (f"expected '{CONV}/w'", 'found none')),
    (
      lambda p: [p.pop(name) for name in [*p] if 'tiny' in name],
      ('expected parameters of one of', "'tiny_res_net'"),
    ),
  ),
)
def test_names_and_shapes_that_differ_are_all_listed(
  published, tmp_path, change, patterns
):
  file = tmp_path / 'other.pkl'
  official.write_file(file, published[1], change_leaf(change))
  with pytest.raises(errors.DataError) as caught:
    pretrained.load(file)
  for pattern in patterns:
    assert re.search(pattern, str(caught.value)), caught.value


def test_what_holds_no_encoder_is_one_line(tmp_path):
  (tmp_path / 'run.txt').write_text('x')
  (tmp_path / 'empty').mkdir()
  np.savez(tmp_path / 'images.npz', images=np.zeros(9))
  np.savez(tmp_path / 'numbers.npz', description=np.zeros(9))
  for name, pattern in (
    ('images.npz', 'with its description, found none'),
    ('numbers.npz', 'with its description, found none'),
    ('run.txt', 'expected a workdir, or a file that ends in'),
    ('absent.pkl', 'expected a file, found none'),
    ('absent', 'holds no byol_jax run'),
    ('empty', 'holds no byol_jax run'),
  ):
    with pytest.raises(errors.DataError, match=pattern):
      pretrained.load(tmp_path / name)

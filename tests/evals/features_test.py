"""Features do not depend on how a set is cut into batches."""

import chex
import jax
import numpy as np
import pytest

from byol_jax import errors, networks, parallel
from byol_jax.evals import features
from tests.evals import knn_test
from tests.helpers import fakes, tiny_run

SIZE = 16


def images(count, seed=0):
  return np.random.default_rng(seed).random((count, SIZE, SIZE, 3), np.float32)


@pytest.fixture(scope='module')
def forward():
  return tiny_run.make_forward(axis_name=parallel.AXIS)


@pytest.fixture(scope='module')
def tree(forward):
  """params and state with batch-norm averages that are not trivial."""
  params, state = forward.init(jax.random.PRNGKey(0), images(1), True)
  generator = np.random.default_rng(3)

  def average(module, x):
    low, high = (0.5, 1.5) if module.endswith('var_ema') else (-0.2, 0.2)
    return generator.uniform(low, high, x.shape).astype(x.dtype)

  return params, {
    module: leaves | {'average': average(module, leaves['average'])}
    for module, leaves in state.items()
  }


@pytest.fixture(scope='module')
def encoder(forward, tree):
  return features.make_encoder(forward, *tree, 'test')


def test_any_batch_size_gives_each_image_once_and_the_same_features(encoder):
  data = images(11)
  labels = np.arange(11) % 4
  network = (encoder.forward, encoder.params, encoder.state)
  alone = jax.jit(lambda x: networks.represent(*network, x))
  expected = np.stack([np.asarray(alone(x[None]))[0] for x in data])
  assert encoder.dim == expected.shape[1] == 8
  # Most channels are alive.
  assert np.sum(expected.std(axis=0) > 1e-3) >= 5
  for batch_size in (4, 16):  # the last batch is not full, or the only one
    dataset = fakes.ImageSet(data, labels)
    found = features.extract_features(encoder, dataset.eval_batches(batch_size))
    # The convolution may sum in another order for another batch size.
    np.testing.assert_allclose(found.values, expected, atol=1e-5, rtol=1e-5)
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_array_equal(found.ids, np.arange(11))
    kinds = [np.float32, np.int32, np.int64, np.uint64]
    assert [x.dtype for x in found] == kinds
    digests = features.compute_digests(data[None])
    np.testing.assert_array_equal(found.digests, digests)


def test_rows_are_those_of_readable_images_in_the_order_of_64_bit_ids():
  data = images(6)[:, :1, :4]
  dataset = fakes.ImageSet(data, np.arange(6))
  dataset.unreadable = (0, 4)
  batches = [
    batch | {'ids': batch['ids'] + 2**40} for batch in dataset.eval_batches(4)
  ]
  found = features.extract_features(fakes.pixels(12), reversed(batches))
  assert (found.ids - 2**40).tolist() == found.labels.tolist() == [1, 2, 3, 5]
  np.testing.assert_array_equal(found.values, data[[1, 2, 3, 5]].reshape(4, -1))


@pytest.mark.parametrize(
  'side, dtype', ((4, np.float32), (32, np.uint8), (96, np.float32))
)
def test_equal_images_have_equal_digests_and_others_have_not(side, dtype):
  drawn = np.random.default_rng(0).integers(0, 3, (1, 40, side, side, 3))
  data = (drawn / 3 if dtype == np.float32 else drawn).astype(dtype)
  data[0, 7] = data[0, 31]
  found = features.compute_digests(data)
  again = features.compute_digests(
    data[0, ::-1].reshape(2, 20, *data.shape[2:])
  )
  np.testing.assert_array_equal(again[::-1], found)
  assert found.dtype == np.uint64 and found[7] == found[31]
  assert len(np.unique(found)) == 39


def test_nothing_to_evaluate_is_a_data_error():
  for dataset in (fakes.ImageSet(images(0)), fakes.ImageSet(images(3))):
    dataset.unreadable = (0, 1, 2)
    with pytest.raises(errors.DataError, match='no images'):
      features.extract_features(fakes.pixels(12), dataset.eval_batches(4))


def test_a_representation_that_is_not_finite_is_named():
  data = images(5)[:, :1, :4]
  data[3] = np.inf
  with pytest.raises(errors.DivergedError, match=r'pixel encoder .* 1 of 5'):
    features.extract_features(
      fakes.pixels(12), fakes.ImageSet(data).eval_batches(4)
    )


def train_mode(forward, params, state, batch):
  """The representation with the batch's own statistics."""
  run = parallel.on_one_device(
    lambda p, s, x: forward.apply(p, s, x, is_training=True)[0].representation
  )
  return np.asarray(run(params, state, batch))


def test_calibrated_on_one_batch_evaluation_is_training_mode(forward, tree):
  data = images(8)
  dataset = fakes.ImageSet(data)
  batches = dataset.eval_batches(8)
  state = features.estimate_batch_norm(forward, *tree, batches)
  chex.assert_trees_all_equal_shapes_and_dtypes(state, tree[1])
  encoder = features.make_encoder(forward, tree[0], state, 'calibrated')
  found = features.extract_features(encoder, dataset.eval_batches(8))
  # Both normalise by the same moments, in differently fused programs.
  np.testing.assert_allclose(
    found.values, train_mode(forward, *tree, data), atol=2e-5, rtol=2e-5
  )


def averages(state):
  return {module: leaves['average'] for module, leaves in state.items()}


def test_calibration_is_the_mean_over_batches_in_any_order(forward, tree):
  data = images(12, seed=1)

  def calibrate(order):
    batches = list(fakes.ImageSet(data).eval_batches(4))
    return features.estimate_batch_norm(
      forward, *tree, [batches[i] for i in order]
    )

  single = [averages(calibrate([i])) for i in range(3)]
  expected = jax.tree.map(lambda *x: np.mean(x, axis=0), *single)
  for order in ((0, 1, 2), (2, 0, 1)):
    chex.assert_trees_all_close(
      averages(calibrate(order)), expected, atol=1e-6, rtol=1e-5
    )
  with pytest.raises(errors.DataError, match='no images'):
    calibrate(())


@pytest.mark.slow
def test_two_processes_of_two_devices_all_have_every_row(encoder, tmp_path):
  """Each gives its half of every batch; ids above 2^40 survive the way.

  So do the nearest neighbours, whose queries they share.
  """
  port = tiny_run.free_port()
  workers = [
    tiny_run.start_python(
      tiny_run.ROOT / 'tests' / 'helpers' / 'features_worker.py',
      tmp_path / f'{index}.npz',
      f'localhost:{port},2,{index}',
      JAX_NUM_CPU_DEVICES='2',
    )
    for index in range(2)
  ]
  for worker in workers:
    tiny_run.finish(worker)
  for index in range(2):
    found = np.load(tmp_path / f'{index}.npz')
    values = images(11)[:, :1, :4].reshape(11, -1)
    np.testing.assert_array_equal(found['values'], values)
    np.testing.assert_array_equal(found['ids'], np.arange(11) + 2**40)
    np.testing.assert_array_equal(found['labels'], np.arange(11))
    for name, value in knn_test.neighbours_of_noise().items():
      np.testing.assert_array_equal(found[f'{name}_of_knn'], value)

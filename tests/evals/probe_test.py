"""Linear classifiers on features and on images, one update a batch."""

import jax
import numpy as np
import pytest

from byol_jax import errors, parallel
from byol_jax.evals import features, probe, supervised
from byol_jax.training import train
from tests.helpers import fakes

NUM_CLASSES, NUM_FEATURES = 6, 12
RATES, NUM_STEPS, BATCH_SIZE = (0.1, 1.0), 5, 8


def make_start(mean):
  optimizer = supervised.nesterov(RATES, momentum=0.9, num_steps=NUM_STEPS)
  state = supervised.init(
    jax.random.PRNGKey(1),
    optimizer,
    num_rates=len(RATES),
    num_features=NUM_FEATURES,
    num_classes=NUM_CLASSES,
  )
  return supervised.make_update(optimizer, mean), state


def make_progress(lines=None):
  log = lambda text: None if lines is None else lines.append(text)
  return probe.Progress(list(RATES), NUM_STEPS, log)


def check_training(params, progress, batches):
  """Compares with one update after another, of values and labels."""
  update, state = make_start(lambda tree: tree)
  for values, labels in batches:
    state, scalars = update(state, {'features': values, 'labels': labels})
  for name in ('w', 'b'):
    # Sums in another order.
    np.testing.assert_allclose(
      params['linear'][name], state.params['linear'][name], rtol=1e-4, atol=1e-5
    )
  np.testing.assert_allclose(progress.losses, scalars['loss'], rtol=1e-4)


def test_training_on_features_is_one_update_a_batch():
  images, labels = fakes.clusters(0, 4, NUM_CLASSES, noise=0.6)
  values = images.reshape(len(images), NUM_FEATURES)
  stored = features.Features(values, labels.astype(np.int32), np.arange(24))
  start, progress = make_start(lambda tree: tree), make_progress()
  params = probe.train_cached(start, stored, BATCH_SIZE, 3, progress)
  rows = probe.draw_rows(3, 24, NUM_STEPS, BATCH_SIZE)
  check_training(params, progress, ((values[i], labels[i]) for i in rows))


def test_training_on_images_is_one_update_a_batch():
  """Of random crops, by the loop and the mean over devices of pretraining."""
  lines = []
  split = fakes.ImageSet(
    *fakes.clusters(0, 4, NUM_CLASSES, noise=0.6), num_classes=NUM_CLASSES
  )
  start, progress = make_start(parallel.mean), make_progress(lines)
  encoder, loop = fakes.pixels(NUM_FEATURES), train.train_in_memory
  params = probe.train_augmented(
    start, encoder, split, BATCH_SIZE, progress, loop
  )
  check_training(
    params,
    progress,
    (
      (batch['images'].reshape(BATCH_SIZE, -1), batch['labels'].ravel())
      for batch in split.crop_batches(BATCH_SIZE, 0, NUM_STEPS)
    ),
  )
  first, second = progress.losses
  shown = f'loss {first:.4f} (rate 0.1), {second:.4f} (rate 1)'
  assert lines[-1].endswith(f'step {NUM_STEPS} of {NUM_STEPS}, {shown}')


def test_a_rate_that_was_not_finite_once_is_out():
  progress = probe.Progress([0.1, 0.2], 4, lambda text: None)
  progress.add(np.array([[1.0, np.nan], [1.0, 1.0]]))
  assert progress.finite.tolist() == [True, False]
  with pytest.raises(errors.DivergedError, match='by step 4 of 4'):
    progress.add(np.array([[np.inf, 1.0], [1.0, 1.0]]))


@pytest.mark.parametrize('batch_size', (8, 30, 100))
def test_every_epoch_has_each_row_once_in_its_own_order(batch_size):
  rows = probe.draw_rows(3, 40, 120 // batch_size + 1, batch_size)
  assert rows.shape[1] == batch_size
  epochs = rows.reshape(-1)[:120].reshape(3, 40)
  assert all(sorted(epoch) == list(range(40)) for epoch in epochs)
  assert len({tuple(epoch) for epoch in epochs}) == 3
  again = probe.draw_rows(3, 40, 5, 8)
  np.testing.assert_array_equal(again.reshape(-1), epochs[0])

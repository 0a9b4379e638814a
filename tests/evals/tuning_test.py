"""The update of an encoder with its classifier, on TinyResNet."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import errors, parallel
from byol_jax.evals import features, probe, supervised, tuning
from byol_jax.training import multi_step, train
from tests.helpers import fakes, tiny_run
from tests.helpers.tiny_run import NETWORK

NUM_CLASSES, BATCH, SIZE = 4, 16, 8
CLASSIFIER = tuning.CLASSIFIER


@functools.cache
def compile_statistics():
  """(params, averages, images) -> the averages after a batch."""
  forward = tiny_run.make_forward(axis_name=parallel.AXIS)
  return parallel.on_one_device(
    lambda *arguments: forward.apply(*arguments, is_training=True)[1]
  )


@functools.cache
def make_encoder():
  """An encoder with heads, its averages those of three batches."""
  forward = tiny_run.make_forward(axis_name=parallel.AXIS)
  params, state = tiny_run.random_network(tiny_run.make_forward())
  for seed in range(3):
    images = tiny_run.patches(np.random.default_rng(seed), BATCH, SIZE)
    state = compile_statistics()(params, state, images)
  encoder = features.make_encoder(
    forward, params, jax.device_get(state), 'tiny'
  )
  return encoder._replace(network=NETWORK)


def make_split(seed=0, count=4 * BATCH):
  generator = np.random.default_rng(seed)
  labels = generator.integers(0, NUM_CLASSES, count)
  images = tiny_run.patches(generator, count, SIZE)
  return fakes.ImageSet(images, labels, NUM_CLASSES)


def make_batch(seed=0):
  split = make_split(seed, BATCH)
  return {'images': split.images, 'labels': split.labels}


@functools.cache
def make_trainer(**changes):
  settings = {
    **{'batch_norm': 'local', 'bn_decay': 0.9},
    **{'momentum': 0.9, 'encoder_rate': 1.0},
    **{'warmup_share': 0.0, 'label_smoothing': 0.0},
  }
  return tuning.make_trainer(NETWORK, **(settings | changes))


@functools.cache
def compile_update(trainer):
  return parallel.on_one_device(trainer.update)


def start(trainer, rate=0.1, weight_decay=0.0, num_steps=5):
  return tuning.init_state(
    trainer,
    make_encoder(),
    NUM_CLASSES,
    1,
    rate=rate,
    weight_decay=weight_decay,
    num_steps=num_steps,
  )


def test_a_frozen_encoder_trains_the_classifier_of_the_linear_evaluation():
  """By two ways: features of the whole encoder, and images of its parts."""
  encoder, split, steps = make_encoder(), make_split(), 3
  optimizer = supervised.nesterov([0.3], momentum=0.9, num_steps=steps)
  state = supervised.init(
    jax.random.PRNGKey(1),
    optimizer,
    num_rates=1,
    num_features=encoder.dim,
    num_classes=NUM_CLASSES,
  )
  linear = supervised.make_update(optimizer, parallel.mean), state
  progress = probe.Progress([0.3], steps, lambda text: None)
  loop = train.train_in_memory
  expected = probe.train_augmented(
    linear, encoder, split, BATCH, progress, loop
  )['linear']
  trainer = make_trainer(batch_norm='frozen', encoder_rate=0.0)
  before = start(trainer, 0.3, num_steps=steps)
  last, loss = tuning.train_classifier(
    trainer, before, split, BATCH, loop, 'tiny', lambda text: None
  )
  for name, value in last.params[CLASSIFIER].items():
    # The same sums, in another program.
    np.testing.assert_allclose(value, expected[name][0], rtol=1e-5, atol=1e-6)
  assert loss == pytest.approx(progress.losses[0], rel=1e-5)
  chex.assert_trees_all_equal(last.net_state, before.net_state)
  for module in before.params.keys() - {CLASSIFIER}:
    chex.assert_trees_all_equal(last.params[module], before.params[module])
  assert not [m for m in last.params if m.startswith(('projector', 'predic'))]


def test_one_plain_step_shrinks_kernels_by_the_decay_times_the_rate():
  rate, share = 0.25, 1e-2
  trainer = make_trainer(momentum=0.0)
  optimizer = trainer.make_optimizer(rate, share / rate, 5)
  params = start(trainer).params
  zeros = jax.tree.map(np.zeros_like, params)
  updates, _ = optimizer.update(zeros, optimizer.init(params), params)
  for module, leaves in params.items():
    for name, value in leaves.items():
      kept = share * value if name == 'w' else np.zeros_like(value)
      np.testing.assert_allclose(-updates[module][name], kept, rtol=1e-6)


def test_the_rate_rises_through_the_warmup_of_each_length():
  """One program serves trainings of several lengths (method.md 5.1)."""
  trainer = make_trainer(momentum=0.0, warmup_share=0.25)
  params = {CLASSIFIER: {'b': np.ones(1, np.float32)}}
  for steps in (8, 20):
    warmup, rates = steps // 4, []
    optimizer = trainer.make_optimizer(0.5, 0.0, steps)
    state = optimizer.init(params)
    for _ in range(steps):
      updates, state = optimizer.update(params, state, params)
      rates.append(-updates[CLASSIFIER]['b'][0])
    rising = 0.5 * np.arange(warmup) / warmup
    turns = np.pi * np.arange(steps - warmup) / (steps - warmup)
    expected = np.concatenate([rising, 0.25 * (1 + np.cos(turns))])
    np.testing.assert_allclose(rates, expected, atol=1e-6)


def test_the_momentum_of_averages_is_that_of_the_steps_per_epoch():
  assert tuning.compute_bn_decay(256 * 50, 256) == 0.9
  assert tuning.compute_bn_decay(256 * 100, 256) == pytest.approx(0.9)
  assert tuning.compute_bn_decay(256 * 1000, 256) == pytest.approx(0.99)


def test_averages_go_on_from_the_pretraining_with_another_decay():
  encoder, batch = make_encoder(), make_batch()
  fresh = jax.tree.map(np.zeros_like, encoder.state)
  # The average of one batch alone is its statistics.
  found = compile_statistics()(encoder.params, fresh, batch['images'])
  trainer = make_trainer(batch_norm='cross_replica', bn_decay=0.99)
  state, _ = compile_update(trainer)(start(trainer), batch)
  for name, new in state.net_state.items():
    before, value = (x[name]['average'] for x in (encoder.state, found))
    expected = 0.99 * before + (1 - 0.99) * value
    np.testing.assert_allclose(new['average'], expected, rtol=1e-5, atol=1e-6)


def test_averages_of_no_batch_start_from_zero():
  _, fresh = tiny_run.random_network(tiny_run.make_forward())
  chex.assert_trees_all_equal(tuning.continue_averages(fresh), fresh)


def test_four_devices_train_like_one_if_batch_norm_is_over_all():
  trainer = make_trainer(batch_norm='cross_replica', bn_decay=0.99)
  whole = start(trainer)
  replicas = jax.tree.map(lambda x: jnp.stack([x] * 4), whole)
  on_four = jax.jit(jax.vmap(trainer.update, axis_name=parallel.AXIS))
  for seed in range(2):
    batch = make_batch(seed)
    whole, _ = compile_update(trainer)(whole, batch)
    replicas, _ = on_four(replicas, tiny_run.divided(batch, 4))
  for i in range(4):
    # Sums in another order.
    chex.assert_trees_all_close(
      jax.tree.map(lambda x, i=i: x[i], (replicas.params, replicas.net_state)),
      (whole.params, whole.net_state),
      atol=1e-5,
      rtol=1e-5,
    )


def test_points_of_a_grid_share_one_program():
  trainer, split = make_trainer(), make_split()
  compiled = multi_step.StreamedCalls(None).compile(trainer.update)
  assert multi_step.StreamedCalls(None).compile(trainer.update) is compiled
  # Nor are the numbers of a point constants of it.
  found = {}
  for rate, decay, num_steps in ((0.1, 0, 2), (0.3, 0, 2), (0.3, 0.1, 3)):
    state = start(trainer, rate, decay, num_steps)
    last, _ = tuning.train_classifier(
      trainer, state, split, BATCH, train.train_in_memory, 'x', print
    )
    assert last.step == num_steps
    found[rate, decay] = np.linalg.norm(last.params[CLASSIFIER]['w'])
  assert len({*found.values()}) == 3


def test_a_loss_that_is_not_finite_ends_a_training():
  trainer, split = make_trainer(), make_split()
  split.images[:] = np.nan
  with pytest.raises(errors.DivergedError, match=r'^x: the loss is not fin'):
    tuning.train_classifier(
      trainer, start(trainer), split, BATCH, train.train_in_memory, 'x', print
    )


def test_scores_are_those_of_numpy():
  trainer, split = make_trainer(), make_split(count=50)
  split.labels[split.labels == 2] = 1  # a class without an image
  state = start(trainer)
  encoded = tuning.encode_split(trainer, state, split, BATCH, 'test')
  scores = tuning.compute_scores(state.params[CLASSIFIER], encoded)
  encoder = features.make_encoder(
    trainer.forward, state.params, state.net_state, 'tiny'
  )
  found = features.extract_features(encoder, split.eval_batches(BATCH))
  classifier = state.params[CLASSIFIER]
  chosen = np.argmax(found.values @ classifier['w'] + classifier['b'], axis=1)
  hits = chosen == split.labels
  by_class = [hits[split.labels == i].mean() for i in (0, 1, 3)]
  assert scores['top1'] == pytest.approx(hits.mean())
  assert scores['mean_per_class'] == pytest.approx(np.mean(by_class))
  assert scores['top1'] != pytest.approx(scores['mean_per_class'])
  assert 'top5' not in scores

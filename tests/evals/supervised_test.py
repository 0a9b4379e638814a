"""Linear classifiers: against float64 numpy, and the independence of rates."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import parallel
from byol_jax.evals import supervised

NUM_FEATURES, NUM_CLASSES, BATCH = 6, 4, 8
RATES = (0.05, 0.7, 3.0)
STEPS = 7


def whole(tree):
  """The mean over the parts of a batch that is not divided."""
  return tree


def batches():
  """The same STEPS batches at each call."""
  generator = np.random.default_rng(0)
  return [
    {
      'features': generator.normal(size=(BATCH, NUM_FEATURES)).astype('f4'),
      'labels': generator.integers(0, NUM_CLASSES, BATCH).astype('i4'),
    }
    for _ in range(STEPS)
  ]


def start(rates, mean=whole):
  optimizer = supervised.nesterov(rates, momentum=0.9, num_steps=STEPS)
  state = supervised.init(
    jax.random.PRNGKey(1),
    optimizer,
    num_rates=len(rates),
    num_features=NUM_FEATURES,
    num_classes=NUM_CLASSES,
  )
  return supervised.make_update(optimizer, mean), state


def train(rates):
  """(final state, losses [STEPS, R])."""
  update, state = start(rates)
  update = jax.jit(update)
  losses = []
  for batch in batches():
    state, scalars = update(state, batch)
    losses.append(scalars['loss'])
  return state, np.array(losses)


def reference(weights, rate):
  """SGD as the textbook has it: v <- m v + g, w <- w - lr (g + m v)."""
  w, b = weights.astype(np.float64), np.zeros(NUM_CLASSES)
  velocity = [np.zeros_like(w), np.zeros_like(b)]
  losses = []
  for step, batch in enumerate(batches()):
    x, y = batch['features'].astype(np.float64), batch['labels']
    scores = x @ w + b
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    losses.append(-np.log(p[np.arange(BATCH), y]).mean())
    d = (p - np.eye(NUM_CLASSES)[y]) / BATCH
    grads = [x.T @ d, d.sum(axis=0)]
    velocity = [0.9 * v + g for v, g in zip(velocity, grads)]
    now = rate * 0.5 * (1 + np.cos(np.pi * step / STEPS))
    w -= now * (grads[0] + 0.9 * velocity[0])
    b -= now * (grads[1] + 0.9 * velocity[1])
  return w, b, losses


def test_update_agrees_with_nesterov_sgd_in_float64():
  first = start(RATES)[1].params['linear']['w'][0]
  state, losses = train(RATES)
  for i, rate in enumerate(RATES):
    w, b, expected = reference(np.asarray(first), rate)
    # float32 sums of a few dozen terms of order one.
    np.testing.assert_allclose(
      state.params['linear']['w'][i], w, atol=2e-5, rtol=2e-5
    )
    np.testing.assert_allclose(
      state.params['linear']['b'][i], b, atol=2e-5, rtol=2e-5
    )
    np.testing.assert_allclose(losses[:, i], expected, rtol=2e-5)
  assert state.step == STEPS


def test_a_rate_that_diverges_leaves_the_others_alone():
  state, losses = train((*RATES, 1e38))
  expected, _ = train(RATES)
  assert not np.isfinite(losses[:, -1]).all()
  chex.assert_trees_all_close(
    jax.tree.map(lambda x: x[:-1], state.params),
    expected.params,
    atol=2e-6,
    rtol=2e-6,
  )


def test_a_divided_batch_trains_like_the_whole_one():
  divided, state = start(RATES, parallel.mean)
  replicas = jax.tree.map(lambda x: jnp.stack([x] * 4), state)
  step = jax.jit(jax.vmap(divided, axis_name=parallel.AXIS))
  for batch in batches():
    parts = {k: v.reshape(4, -1, *v.shape[1:]) for k, v in batch.items()}
    replicas, scalars = step(replicas, parts)
  expected, losses = train(RATES)
  for replica in range(4):
    chex.assert_trees_all_close(
      jax.tree.map(lambda x, r=replica: x[r], replicas.params),
      expected.params,
      atol=1e-5,
      rtol=1e-5,
    )
  np.testing.assert_allclose(scalars['loss'][0], losses[-1], rtol=1e-5)


def test_start_is_haikus_default_and_common_to_all_rates():
  optimizer = supervised.nesterov(RATES, momentum=0.9, num_steps=STEPS)
  state = supervised.init(
    jax.random.PRNGKey(0),
    optimizer,
    num_rates=3,
    num_features=400,
    num_classes=50,
  )
  w, b = state.params['linear']['w'], state.params['linear']['b']
  assert not b.any()
  chex.assert_trees_all_equal(w[0], w[1], w[2])
  sigma = 400**-0.5
  assert float(jnp.abs(w).max()) <= 2 * sigma
  # A truncated normal that is not rescaled; 20,000 draws: 0.5 % of error.
  assert float(w[0].std()) == pytest.approx(0.880 * sigma, rel=0.02)

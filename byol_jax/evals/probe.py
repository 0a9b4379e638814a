"""Trains linear classifiers on a frozen encoder.

Two ways to the same update: a forward pass of the encoder at each step, on
all devices, or one scan over features that were stored before. Parameters have
a leading axis of R learning rates (`supervised`).
"""

from collections.abc import Callable
import functools
from typing import Any

import jax
import numpy as np

from byol_jax import errors, networks
from byol_jax.evals import features, splits, supervised

PROGRESS_LINES = 10  # of a training

Start = tuple[Callable, supervised.TrainState]  # update, state


class Progress:
  """Records the losses of the steps done and logs some of them."""

  def __init__(
    self, rates: list[float], num_steps: int, log: Callable[[str], None]
  ) -> None:
    self.rates = rates
    self.num_steps = num_steps
    self.log = log
    self.losses = np.zeros(len(rates))  # of the last step
    self.finite = np.ones(len(rates), bool)
    self._done = 0

  def add(self, losses: np.ndarray) -> None:
    """Records the losses of consecutive steps, [K, R].

    Raises:
      DivergedError: every rate has had a loss that is not finite.
    """
    before = self._done
    self._done += len(losses)
    self.losses = losses[-1]
    self.finite &= np.isfinite(losses).all(axis=0)
    if not self.finite.any():
      raise errors.DivergedError(
        f'linear: the losses of all rates {self.rates} are not finite by step'
        f' {self._done} of {self.num_steps}; lower --config.rates'
      )
    lines = [n * PROGRESS_LINES // self.num_steps for n in (before, self._done)]
    if lines[1] > lines[0]:
      pairs = zip(self.rates, self.losses)
      shown = ', '.join(f'{loss:.4f} (rate {rate:g})' for rate, loss in pairs)
      self.log(f'linear: step {self._done} of {self.num_steps}, loss {shown}')


def train_augmented(
  start: Start,
  encoder: features.Encoder,
  split: splits.Split,
  batch_size: int,
  progress: Progress,
  train: Callable,
  augment: Callable | None = None,
) -> supervised.Params:
  """Trains with one forward pass of the encoder a step, on all devices.

  The update has means over devices; `augment`, (images, step) -> images, gets
  the random crops on the devices.
  """
  update, initial = start

  def encode_and_update(state: Any, batch: Any) -> tuple[Any, Any]:
    trained, params, net_state = state
    images = batch['images']
    if augment is not None:
      images = augment(images, trained.step)
    encoded = networks.represent(encoder.forward, params, net_state, images)
    batch = {'features': encoded, 'labels': batch['labels']}
    trained, scalars = update(trained, batch)
    # Scalars of a call have an axis of steps.
    return (trained, params, net_state), {'loss': scalars['loss'][None]}

  make_batches = functools.partial(splits.labelled_batches, split)
  state = (initial, encoder.params, encoder.state)
  steps = (make_batches, batch_size, progress.num_steps)
  observe = lambda values: progress.add(values['loss'])
  last = train(encode_and_update, state, *steps, observe, name='linear')
  return last[0].params


def train_cached(
  start: Start,
  stored: features.Features,
  batch_size: int,
  seed: int,
  progress: Progress,
) -> supervised.Params:
  """Trains on batches of stored features: one scan over all steps.

  `seed` is that of the orders; the update has no mean over devices.
  """
  update, state = start

  @jax.jit
  def train(state: Any, values: Any, labels: Any, rows: Any) -> Any:
    def step(state: Any, rows: jax.Array) -> Any:
      return update(state, {'features': values[rows], 'labels': labels[rows]})

    return jax.lax.scan(step, state, rows)

  rows = draw_rows(seed, len(stored.ids), progress.num_steps, batch_size)
  state, scalars = train(state, stored.values, stored.labels, rows)
  progress.add(np.asarray(scalars['loss']))
  return jax.device_get(state.params)


def draw_rows(
  seed: int, num_rows: int, num_steps: int, batch_size: int
) -> np.ndarray:
  """Returns the rows of all batches, int32 [num_steps, batch_size].

  Every epoch is a new random order of all rows; a batch may straddle two.
  """
  key = jax.random.fold_in(jax.random.PRNGKey(seed), 1)
  count = num_steps * batch_size
  orders = [
    np.asarray(jax.random.permutation(jax.random.fold_in(key, i), num_rows))
    for i in range(-(-count // num_rows))
  ]
  return np.concatenate(orders)[:count].reshape(num_steps, batch_size)

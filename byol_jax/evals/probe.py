"""Training of linear classifiers on a frozen encoder, and their counts.

Two ways to the same update: a forward pass of the encoder at each step, on
all devices, or features stored once and a scan over them. Parameters have a
leading axis of R learning rates (`supervised`).
"""

from collections.abc import Callable, Iterable, Iterator
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from byol_jax import errors, metrics
from byol_jax.distributed import placement
from byol_jax.evals import features, splits, supervised

ROWS = 1024  # features that are scored at once
NOTES = 10  # lines of progress in a training
IN_FLIGHT = 2  # steps that may wait on the devices

Note = Callable[[str], None]
Start = tuple[Callable, supervised.LinearState]  # update, state


class Progress:
  """Losses of the steps done; a line of progress now and then."""

  def __init__(self, rates: list[float], steps: int, note: Note) -> None:
    self.rates = rates
    self.steps = steps
    self.note = note
    self.losses = np.zeros((0, len(rates)))  # of the last step that was added
    self.finite = np.ones(len(rates), bool)
    self.done = 0

  def add(self, losses: np.ndarray) -> None:
    """Takes the losses of some steps, [K, R].

    Raises:
      DivergedError: every rate has had a loss that is not finite.
    """
    before = self.done
    self.done += len(losses)
    self.losses = losses[-1]
    self.finite &= np.isfinite(losses).all(axis=0)
    if not self.finite.any():
      raise errors.DivergedError(
        f'linear: the losses of all rates {self.rates} are not finite by step'
        f' {self.done} of {self.steps}; lower --config.rates'
      )
    if self.done * NOTES // self.steps > before * NOTES // self.steps:
      shown = ' '.join(f'{loss:.4f}' for loss in self.losses)
      self.note(f'linear: step {self.done} of {self.steps}, losses {shown}')


def train_augmented(
  start: Start,
  encoder: features.Encoder,
  batches: Iterable[Any],
  progress: Progress,
) -> supervised.Params:
  """One forward pass of the encoder a step, on all devices.

  Args:
    start: update, with means over devices, and state.
    encoder: frozen.
    batches: `images` and `labels`, [local devices, per device, ...].
    progress: takes the losses.

  Returns:
    Parameters as numpy.
  """
  update = placement.pmap(start[0], donate_argnums=(0,))
  state = placement.replicate(start[1])
  represent = features.make_represent(encoder)
  waiting: list[Any] = []
  for batch in placement.prefetch(batches):
    encoded = represent(batch['images'])
    state, scalars = update(
      state, {'features': encoded, 'labels': batch['labels']}
    )
    waiting.append(scalars['loss'])
    if len(waiting) > IN_FLIGHT:
      progress.add(placement.first_replica(waiting.pop(0))[None])
  for loss in waiting:
    progress.add(placement.first_replica(loss)[None])
  return placement.first_replica(state.params)


def train_cached(
  start: Start,
  stored: features.Features,
  batch_size: int,
  seed: int,
  progress: Progress,
) -> supervised.Params:
  """Batches out of stored features, an epoch's steps in one scan.

  Every epoch is a new order of the whole set; a batch may straddle two.

  Args:
    start: update, with no mean over devices, and state.
    stored: features of the training part.
    batch_size: rows a step.
    seed: of the orders.
    progress: has the number of steps; takes the losses.

  Returns:
    Parameters as numpy.
  """
  update, state = start
  values, labels = jnp.asarray(stored.values), jnp.asarray(stored.labels)

  @functools.partial(jax.jit, donate_argnums=(0,))
  def epoch(state: Any, values: Any, labels: Any, rows: Any) -> Any:
    def step(state: Any, rows: jax.Array) -> Any:
      return update(state, {'features': values[rows], 'labels': labels[rows]})

    return jax.lax.scan(step, state, rows)

  steps = max(1, len(labels) // batch_size)
  order = orders(seed, len(labels))
  while progress.done < progress.steps:
    now = min(steps, progress.steps - progress.done)
    rows = np.fromiter(order, np.int32, count=now * batch_size)
    state, scalars = epoch(state, values, labels, rows.reshape(now, batch_size))
    progress.add(np.asarray(scalars['loss']))
  return jax.device_get(state.params)


def orders(seed: int, size: int) -> Iterator[int]:
  """Rows in one random order after another, without end."""
  key = jax.random.fold_in(jax.random.PRNGKey(seed), 1)
  for epoch in itertools.count():
    order = jax.random.permutation(jax.random.fold_in(key, epoch), size)
    yield from np.asarray(order).tolist()


def labelled(batches: Iterable[Any], num_classes: int) -> Iterator[Any]:
  """The batches, their labels checked before they reach a device."""
  for batch in batches:
    splits.check_labels(np.asarray(batch['labels']), num_classes, 'fit')
    yield {'images': batch['images'], 'labels': batch['labels']}


@functools.partial(jax.jit, static_argnames='k')
def hits(
  params: supervised.Params,
  values: jax.Array,
  labels: jax.Array,
  mask: jax.Array,
  k: int,
) -> jax.Array:
  """Labels among the k best, [B, D] and [B] -> int32 [R]."""
  scores = supervised.logits(params, values)
  by_rate = jax.vmap(metrics.count_in_top_k, in_axes=(0, None, None, None))
  return by_rate(scores, labels, mask, k)


def count(
  params: supervised.Params, found: features.Features, k: int
) -> np.ndarray:
  """How many images have their label among the k best, int64 [R]."""
  total = np.zeros(len(params['linear']['b']), np.int64)
  for first in range(0, len(found.ids), ROWS):
    values = found.values[first : first + ROWS]
    labels = found.labels[first : first + ROWS]
    missing = min(ROWS, len(found.ids)) - len(labels)
    total += np.asarray(
      hits(
        params,
        np.pad(values, ((0, missing), (0, 0))),
        np.pad(labels, (0, missing)),
        np.arange(len(labels) + missing) < len(labels),
        k,
      )
    )
  return total

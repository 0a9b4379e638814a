"""Defines schedules as functions of the 0-based step (method.md 4.2).

Steps are exact in float32 up to 2^24; the longest preset has 2.5 million.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from byol_jax import errors

MIN_AUTO_STEPS = 4000
_MAX_STEPS = 2**31 - 1  # the step of a state is an int32


def count_steps(epochs: float, num_examples: int, batch_size: int) -> int:
  """Returns floor(epochs * num_examples / batch_size).

  Raises:
    ConfigError: these are 2^31 steps or more.
  """
  steps = math.floor(epochs * num_examples / batch_size)
  if steps > _MAX_STEPS:
    raise errors.ConfigError(
      f'epochs: {epochs:g} of {num_examples} images make {steps:,} steps of'
      f' batch_size {batch_size}, expected at most {_MAX_STEPS:,}'
    )
  return steps


def choose_steps(num_examples: int) -> int:
  """Returns the length of a run with `steps='auto'`.

  Half as many steps as images, so half of batch_size epochs, and at least
  `MIN_AUTO_STEPS`: shorter runs gain little, however few the images are.
  """
  return max(MIN_AUTO_STEPS, num_examples // 2)


def choose_length(
  steps: int | str, epochs: float, num_examples: int, batch_size: int
) -> int:
  """Returns the steps of a run.

  Args:
    steps: a number, 'auto', or 0: then `epochs` counts.
    epochs: passes over the images.
    num_examples: images of the training set.
    batch_size: of all devices.

  Raises:
    ConfigError: there is no step, or not one batch of images.
  """
  if steps:
    if batch_size > num_examples:
      largest = 1 << max(1, num_examples.bit_length() - 1)
      raise errors.ConfigError(
        f'batch_size: expected at most {num_examples}, the number of images,'
        f' found {batch_size}; add images or give --config.batch_size={largest}'
      )
    return choose_steps(num_examples) if steps == 'auto' else int(steps)
  num_steps = count_steps(epochs, num_examples, batch_size)
  if num_steps < 1:
    raise errors.ConfigError(
      f'epochs: {epochs:g} of {num_examples} images make no step of batch_size'
      f' {batch_size}; raise epochs or lower batch_size'
    )
  return num_steps


class LearningRate(NamedTuple):
  """The learning rate of a run."""

  schedule: optax.Schedule
  peak: float
  warmup_steps: int
  head_rates: dict[str, float]  # head -> factor of the rate, where it is not 1


def make_learning_rate(
  base_rate: float,
  warmup_epochs: float,
  max_warmup_share: float,
  scale_with_batch: bool,
  predictor_rate: float,
  projector_rate: float,
  *,
  num_examples: int,
  batch_size: int,
  total_steps: int,
  in_epochs: bool = True,
) -> LearningRate:
  """Returns the learning rate of the config section `schedule`.

  Args:
    base_rate: the peak at batch size 256.
    warmup_epochs: length of the linear rise of a run in epochs.
    max_warmup_share: of the run that the rise may take, in [0, 1].
    scale_with_batch: the peak is base_rate * batch_size / 256, else base_rate.
    predictor_rate: factor of the rate of the predictor, lambda of the paper.
    projector_rate: factor of the rate of the projector, mu.
    num_examples: images of the training set.
    batch_size: of all devices.
    total_steps: length of the run.
    in_epochs: whether `warmup_epochs` counts; else the rise takes
      `max_warmup_share`.
  """
  peak = base_rate * (batch_size / 256 if scale_with_batch else 1)
  warmup_steps = math.floor(max_warmup_share * total_steps)
  if in_epochs:
    asked = count_steps(warmup_epochs, num_examples, batch_size)
    warmup_steps = min(asked, warmup_steps)
  schedule = warmup_cosine_schedule(peak, warmup_steps, total_steps)
  rates = {'predictor': predictor_rate, 'projector': projector_rate}
  head_rates = {head: rate for head, rate in rates.items() if rate != 1}
  return LearningRate(schedule, peak, warmup_steps, head_rates)


def warmup_cosine_schedule(
  peak: float,
  warmup_steps: int | jax.Array,
  total_steps: int | jax.Array,
) -> optax.Schedule:
  """Returns a linear warm-up from 0 to `peak`, then a cosine to 0.

  The value is `peak` at step `warmup_steps` and 0 at step `total_steps`. It is
  not clamped beyond, where the cosine rises again.
  """

  maximum = jnp.maximum if isinstance(warmup_steps, jax.Array) else max

  def schedule(step: jax.typing.ArrayLike) -> jax.Array:
    step = jnp.asarray(step, jnp.float32)
    rising = peak * step / maximum(warmup_steps, 1)
    remaining = jnp.maximum(total_steps - warmup_steps, 1)
    falling = peak * _half_cosine((step - warmup_steps) / remaining)
    return jnp.where(step < warmup_steps, rising, falling)

  return schedule


def tau_schedule(
  base_tau: float, total_steps: int, schedule: str
) -> optax.Schedule:
  """Returns the decay of the target parameters.

  Args:
    base_tau: value at step 0, in [0, 1].
    total_steps: the cosine is 1 at this step; it is not clamped beyond.
    schedule: 'cosine' (base_tau to 1) or 'constant'.
  """

  def rising(step: jax.typing.ArrayLike) -> jax.Array:
    progress = jnp.asarray(step, jnp.float32) / total_steps
    return 1.0 - (1.0 - base_tau) * _half_cosine(progress)

  constant = lambda step: jnp.asarray(base_tau, jnp.float32)
  return {'cosine': rising, 'constant': constant}[schedule]


def _half_cosine(progress: jax.Array) -> jax.Array:
  """Falls from 1 at progress 0 to 0 at progress 1."""
  return 0.5 * (1.0 + jnp.cos(jnp.pi * progress))

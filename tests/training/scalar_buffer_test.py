"""Means of the scalars between two log lines."""

import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax.training import scalar_buffer


def call(*losses, skipped=None, tau=None):
  """Scalars of the steps of one call, with an axis of one device."""
  skipped = [0.0] * len(losses) if skipped is None else skipped
  found = {'loss': losses, 'tau': tau or losses, 'skipped': skipped}
  return {name: jnp.array([x], jnp.float32) for name, x in found.items()}


def test_means_are_of_the_steps_that_were_not_skipped():
  buffer = scalar_buffer.ScalarBuffer(first_step=7)
  buffer.add(call(1.0, 2.0, 9.0, tau=[0.1, 0.2, 0.9]), count=2)  # 9 is padding
  buffer.add(call(np.nan, skipped=[1.0], tau=[0.3]), count=1)
  buffer.add(call(6.0, 3.0, tau=[0.4, 0.5]), count=2)
  assert len(buffer) == 5
  found = buffer.fetch_means()
  assert found.means == {
    'loss': 3.0, 'tau': pytest.approx(0.5), 'skipped': 1.0
  }  # fmt: skip
  assert (found.skipped, found.steps) == ([9], range(7, 12))
  np.testing.assert_array_equal(found.values['loss'], [1, 2, np.nan, 6, 3])
  assert len(buffer) == 0
  buffer.add(call(4.0), count=1)
  found = buffer.fetch_means()
  assert found.means == {'loss': 4.0, 'tau': 4.0}
  assert (found.skipped, found.steps) == ([], range(12, 13))


def test_without_a_good_step_there_is_no_mean():
  buffer = scalar_buffer.ScalarBuffer(first_step=0)
  buffer.add(call(np.nan, np.nan, skipped=[1.0, 1.0], tau=[0.5, 0.75]), 2)
  found = buffer.fetch_means()
  assert found.means == {'tau': 0.75, 'skipped': 2.0}
  assert found.skipped == [0, 1]


def test_the_classifier_is_averaged_over_labelled_images():
  buffer = scalar_buffer.ScalarBuffer(first_step=0)
  found = {'loss': [1, 3, 5], 'labelled': [0.5, 0, 0.25]}
  found |= {key: [0.2, 0, 0.8] for key in scalar_buffer.OF_LABELLED}
  steps = {name: jnp.array([x], jnp.float32) for name, x in found.items()}
  buffer.add(steps, 3)
  means = buffer.fetch_means().means
  assert means['loss'] == 3 and means['labelled'] == 0.25
  for name in scalar_buffer.OF_LABELLED:
    assert means[name] == pytest.approx(0.4)
  buffer.add(steps | {'labelled': jnp.zeros((1, 3))}, 3)
  assert buffer.fetch_means().means == {'loss': 3, 'labelled': 0}


class Running:
  """A scalar of a step that is not done: fetching it would be an error."""

  def is_ready(self):
    return False


def test_a_peek_gives_means_of_steps_that_are_done_and_keeps_all():
  buffer = scalar_buffer.ScalarBuffer(first_step=0)
  assert buffer.peek_means() == {}
  buffer.add(call(1.0, 9.0), count=1)
  buffer.add(call(3.0, np.nan, skipped=[0.0, 1.0]), count=2)
  buffer._scalars.append({'loss': Running()})
  buffer._counts.append(1)
  expected = {'loss': 2.0, 'tau': pytest.approx(np.nan, nan_ok=True)}
  assert buffer.peek_means() == expected | {'skipped': 1.0}
  assert len(buffer) == 4
  del buffer._scalars[-1], buffer._counts[-1]
  assert buffer.fetch_means().means['loss'] == 2.0
  buffer.add({'loss': Running()}, count=1)
  assert buffer.peek_means() == {}

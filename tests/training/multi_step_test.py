"""Calls of several steps: how they are cut, and what they compute."""

import jax
import numpy as np
import pytest

from byol_jax.distributed import packing, placement
from byol_jax.training import multi_step
from tests.helpers.tiny_config import ArraySet


class Plans:
  """A resident set without images: a plan is the number of its step."""

  extent = None

  def store(self):
    return np.float32(10)

  def plans(self, batch_size, start_step, num_steps):
    for step in range(start_step, start_step + num_steps):
      yield {'step': np.full((1, batch_size), step, np.float32)}

  @staticmethod
  def views(store, plan):
    return store * plan['step']


def update(state, batch):
  """A state and scalars that show which steps were made, in which order."""
  return 2 * state + batch[0], {'seen': batch[0], 'before': state}


@pytest.mark.parametrize('most', (1, 4, 100))
@pytest.mark.parametrize('boundaries', ((3, 5), (7, 0), (1, 2), (1000, 1000)))
def test_calls_cover_every_step_and_cross_no_boundary(most, boundaries):
  calls = multi_step.ResidentCalls(Plans(), most, boundaries)
  spans = list(calls.split(range(2, 40)))
  assert [step for span in spans for step in span] == list(range(2, 40))
  for span in spans:
    assert 1 <= len(span) <= most
    for every in filter(None, boundaries):
      # A boundary is a step that is completed.
      assert all(step % every for step in range(span.start + 1, span.stop))


def test_no_call_is_shorter_than_it_must_be():
  calls = multi_step.ResidentCalls(Plans(), 4, (10, 0))
  found = [len(span) for span in calls.split(range(1, 25))]
  assert found == [4, 4, 1, 4, 4, 2, 4, 1]
  streamed = multi_step.StreamedCalls(None).split(range(2, 4))
  assert list(streamed) == [range(2, 3), range(3, 4)]


@pytest.mark.parametrize('most', (1, 4, 16))
def test_a_call_is_its_steps_one_after_the_other(most):
  """Calls that a boundary cuts short compile no other program."""
  steps, traced, counts = range(3, 14), [], []

  def counted(state, batch):
    traced.append(1)
    return update(state, batch)

  calls = multi_step.ResidentCalls(Plans(), most, (6,))
  call = calls.compile(counted)
  state, seen = placement.replicate(packing.pack(np.float32(1))), []
  batches = placement.prefetch(calls.batches(8, steps))
  for span, batch in zip(calls.split(steps), batches, strict=True):
    assert batch['steps']['step'].shape == (1, most, 8)
    state, scalars = call(state, batch)
    seen += list(np.asarray(scalars['seen'])[0, : len(span)])
    assert scalars['before'].shape == (1, most)
    counts.append(len(traced))
  assert len(set(counts)) == 1
  expected = np.float32(1)
  for step in steps:
    expected = 2 * expected + 10 * step
  assert float(placement.copy_first_replica(state)) == expected
  assert seen == [10.0 * step for step in steps]


@pytest.mark.parametrize('most', (1, 4))
def test_the_last_step_of_a_call_is_monitored(most):
  calls = multi_step.ResidentCalls(Plans(), most, (6,))
  monitor = calls.compile_monitor(lambda state, batch: (state, batch[0]))
  state, steps = placement.replicate(packing.pack(np.float32(7))), range(3, 14)
  batches = placement.prefetch(calls.batches(8, steps))
  for span, batch in zip(calls.split(steps), batches, strict=True):
    found = placement.fetch_first_replica(monitor(state, batch))
    assert found == (7, 10 * span[-1])


@pytest.mark.parametrize(
  'boundaries, most',
  [((50, 1000), 25), ((30, 1000), 10), ((7, 0), 7), ((3, 2), 1)],
)
def test_by_default_no_boundary_cuts_a_call_short(
  boundaries, most, monkeypatch
):
  assert multi_step.choose_steps_per_call(boundaries) == most

  def first_call(steps_per_call):
    calls = multi_step.make_step_calls(Plans(), steps_per_call, boundaries)
    return len(next(calls.split(range(99))))

  assert jax.default_backend() == 'cpu'
  assert first_call(0) == 1  # loops are slow there, see `repeat_update`
  assert first_call(2) == min(2, *filter(None, boundaries))
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  assert first_call(0) == most
  # Others cut calls short, and leave their size as it is.
  more = multi_step.make_step_calls(Plans(), 0, (50, 0), (7,))
  assert [len(call) for call in more.split(range(30))] == [7, 7, 7, 7, 2]
  (batch, *_) = more.batches(8, range(7))
  assert batch['steps']['step'].shape == (1, 25, 8)
  streamed = multi_step.make_step_calls(ArraySet(), 4, boundaries)
  assert isinstance(streamed, multi_step.StreamedCalls)

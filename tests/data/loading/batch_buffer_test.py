import jax
import numpy as np
import pytest

from byol_jax.data.loading import batch_buffer


def run(chunks, wanted):
  """Of each batch the labels, ten times the positions, None for a gap."""
  chunks = [
    batch_buffer.make_chunk(list(c), [10 * p for p in c]) for c in chunks
  ]
  wanted = [np.array(positions, np.int64) for positions in wanted]
  return [
    [int(label) if is_done else None for label, is_done in zip(labels, done)]
    for done, labels in batch_buffer.match_rows(iter(chunks), wanted)
  ]


@pytest.mark.parametrize('length', [1, 2, 6])
def test_every_pattern_of_gaps_gives_every_position(length):
  for pattern in range(2**6):
    good = [i for i in range(6) if pattern >> i & 1]
    chunks = [good[i : i + length] for i in range(0, len(good), length)]
    found = run([(), *chunks, ()], [(0, 1), (2, 3), (4, 5)])
    expected = [10 * i if i in good else None for i in range(6)]
    assert [label for batch in found for label in batch] == expected


def test_positions_of_other_processes_are_jumped_over():
  found = run([(0, 1, 8), (9, 17)], [(0, 1), (8, 9), (16, 17), ()])
  assert found == [[0, 10], [80, 90], [None, 170], []]


def test_a_batch_is_taken_as_soon_as_its_last_position_is_done():
  """Or a run would wait for an image that it does not need yet."""

  def chunks():
    yield batch_buffer.make_chunk([0, 1], [0, 0])
    raise AssertionError('asked for more')

  wanted = [np.arange(2)]
  done, _ = next(batch_buffer.match_rows(chunks(), wanted))
  assert done.all()


def make_buffer(rows=2):
  shapes = {'a': ((3,), np.dtype('float32')), 'b': ((1,), np.dtype('int64'))}
  return batch_buffer.BatchBuffer(shapes, rows)


def test_rows_are_written_into_their_own_batches():
  buffer = make_buffer()
  for position in (3, 0, 2, 1):
    row = buffer.row(*divmod(position, 2))
    row['a'][:] = position
    row['b'][:] = -position
  for step in (0, 1):
    batch = buffer.take(step)
    assert batch['a'].shape == (2, 3) and batch['a'].dtype == np.float32
    assert batch['a'][:, 0].tolist() == [2 * step, 2 * step + 1]
    assert batch['b'][:, 0].tolist() == [-2 * step, -2 * step - 1]


def address(array):
  return array.__array_interface__['data'][0]


def test_memory_is_reused_once_no_array_looks_at_it():
  buffer = make_buffer()
  kept = buffer.take(0)['a'][1:].reshape(3)  # a view of a view
  kept[:] = 7
  on_device = jax.device_put(buffer.take(1)['a'])
  before = np.asarray(on_device).copy()
  addresses = set()
  for step in range(2, 30):
    batch = buffer.take(step)
    batch['a'][:] = step
    addresses.add(address(batch['a']))
    del batch
  assert len(addresses) <= 2
  assert kept.tolist() == [7, 7, 7]
  np.testing.assert_array_equal(on_device, before)
  buffer.close()
  assert kept.tolist() == [7, 7, 7]
  with pytest.raises(RuntimeError, match='ended'):
    buffer.row(0, 0)  # of a thread that is late

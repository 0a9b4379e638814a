import logging

import numpy as np
import pytest

from byol_jax import errors
from byol_jax.data import assemble


def chunk(*positions):
  positions = np.array(positions, np.int64)
  return {'position': positions, 'value': 10 * positions}


def run(chunks, wanted):
  """Batches of values, and the positions that had to be mended."""
  mended = []

  def mend(position):
    mended.append(position)
    return {'position': position, 'value': -position}

  wanted = [np.array(positions, np.int64) for positions in wanted]
  batches = assemble.in_order(iter(chunks), wanted, mend)
  return [list(batch.get('value', ())) for batch in batches], mended


def test_whole_chunks_pass_untouched():
  first = chunk(0, 1, 2)
  (batch,) = assemble.in_order([first], [np.arange(3)], None)
  assert all(batch[name].base is first[name] for name in first)


def test_gaps_are_mended_and_nothing_else():
  found = run(
    [chunk(0, 2, 3), chunk(4, 5, 8)], [(0, 1, 2), (3, 4, 5), (6, 7, 8)]
  )
  assert found == ([[0, -1, 20], [30, 40, 50], [-6, -7, 80]], [1, 6, 7])


def test_every_pattern_of_gaps_gives_every_position():
  for pattern in range(2**6):
    good = [i for i in range(6) if pattern >> i & 1]
    chunks = [chunk(*good[i : i + 2]) for i in range(0, len(good), 2)]
    batches, mended = run(chunks, [(0, 1), (2, 3), (4, 5)])
    assert mended == [i for i in range(6) if i not in good]
    assert sum(map(len, batches)) == 6
    for i, value in enumerate(np.ravel(batches)):
      assert value == (10 * i if i in good else -i)


def test_positions_of_other_processes_are_jumped_over():
  found = run([chunk(0, 1, 8), chunk(9, 17)], [(0, 1), (8, 9), (16, 17), ()])
  assert found == ([[0, 10], [80, 90], [-16, 170], []], [16])


def test_padding_fills_up():
  empty = {'position': np.int64(-1), 'value': np.int64(7)}
  padded = assemble.padded(chunk(3, 4), 5, empty)
  assert list(padded['value']) == [30, 40, 7, 7, 7]
  assert list(assemble.padded({}, 2, empty)['value']) == [7, 7]
  whole = chunk(1, 2)
  assert assemble.padded(whole, 2, empty) is whole


@pytest.mark.parametrize('count, limit', [(5, 10), (9_000, 10), (50_000, 50)])
def test_more_than_ten_or_a_thousandth_are_too_many(count, limit, caplog):
  failures = assemble.Failures('set', count)
  with caplog.at_level(logging.WARNING):
    for index in [*range(limit), *range(limit)]:
      failures.add(index, f'file{index}', 'why')
    assert len(failures) == len(caplog.records) == limit
    with pytest.raises(errors.DataError, match=f'allowed are {limit}'):
      failures.add(limit, 'one more', 'why')

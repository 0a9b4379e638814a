"""One process of a job, as `distributed/processes_test.py` starts it.

python processes_worker.py join DISTRIBUTED [fail]
python processes_worker.py find DISTRIBUTED ...
"""

import os
import sys

import jax
import numpy as np

# JAX sets it where it sees no TPU; the tests play one.
if os.environ.get('JAX_FORCE_TPU_INIT'):
  os.environ.pop('TPU_SKIP_MDS_QUERY', None)

from byol_jax import errors, parallel
from byol_jax.distributed import placement, processes


def find(*ways):
  for way in ways:
    print(way, processes.find_address(way, 10))


def map_functions():
  """Arrays span the processes from call to call; each reads its own rows."""
  traced = []

  def step(state, batch):
    traced.append(1)
    return state + parallel.mean(batch), batch.sum()[None]

  mapped = placement.pmap(step, donate_argnums=(0,))
  for width in (1, 3):
    rows = 10.0 * jax.process_index() + np.arange(2, dtype=np.float32)
    state = placement.replicate(np.zeros(width, np.float32))
    batch = placement.shard(np.repeat(rows[:, None], width, 1))
    for call in (1, 2):
      before = state
      state, sums = mapped(before, batch)
      assert before.is_deleted()
      assert state.shape == (4, width) and sums.shape == (4, 1)
      assert set(placement.fetch_first_replica(state)) == {5.5 * call}
      assert list(placement.fetch_local_rows(sums)) == list(width * rows)
  assert len(traced) == 2, traced


def join(distributed, fail=None):
  _, described = processes.join_job(
    distributed,
    lambda: (None, {'a': '1'}),
    startup_seconds=60,
    heartbeat_seconds=10,
  )
  print(described)
  index = jax.process_index()
  processes.gather_strings('index', 'by the same name before')
  gathered = processes.gather_strings('index', str(index))
  print(f'gathered {gathered}; first {processes.broadcast_json("x", index)}')
  odd = np.array([-0.0, 1.5, 0], np.float32)
  odd.view(np.uint32)[2] = 0x7FC01234
  key = np.arange(2, dtype=np.uint32)
  tree = {'odd': odd, 'count': np.int32(7), 'key': key}
  mine = tree if index == 0 else jax.tree.map(np.zeros_like, tree)
  found = placement.broadcast_arrays(mine)
  for name, x in tree.items():
    assert np.asarray(found[name]).tobytes() == x.tobytes(), name
  print('the same bits')
  map_functions()
  print('mapped')

  def work():
    if fail:
      raise errors.DataError('no data here')

  processes.require_agreement('alike', {'b': '2'})
  processes.raise_on_all('work', work)


if __name__ == '__main__':
  try:
    {'find': find, 'join': join}[sys.argv[1]](*sys.argv[2:])
  except errors.UserError as error:
    print(f'byol_jax: {error}; everywhere: {error.is_everywhere}')
    sys.exit(error.exit_code)

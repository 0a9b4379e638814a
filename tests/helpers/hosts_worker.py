"""One process that joins a job, as `hosts_test` starts it.

python hosts_worker.py DISTRIBUTED FACT=VALUE [fail] [startup=SECONDS]
"""

import os
import sys

import jax
import numpy as np

# JAX sets it where it sees no TPU; the tests play one.
if os.environ.get('JAX_FORCE_TPU_INIT'):
  os.environ.pop('TPU_SKIP_MDS_QUERY', None)

from byol_jax import errors
from byol_jax.distributed import placement, processes


def main(distributed, fact, *options):
  key, value = fact.split('=')
  startup = next((o for o in options if o.startswith('startup=')), 'startup=60')
  _, described = processes.join_job(
    distributed,
    lambda: (None, {key: value}),
    startup_seconds=float(startup.partition('=')[2]),
    heartbeat_seconds=10,
  )
  print(described)
  index = jax.process_index()

  def work():
    if 'fail' in options:
      raise errors.DataError('no data here')

  processes.raise_on_all('work', work)
  gathered = processes.gather('index', str(index))
  print(
    f'gathered {gathered}; first says {processes.broadcast_json("x", index)}'
  )
  odd = np.array([-0.0, 1.5, 0], np.float32)
  odd.view(np.uint32)[2] = 0x7FC01234
  tree = {
    'odd': odd,
    'count': np.int32(7),
    'key': np.arange(2, dtype=np.uint32),
  }
  mine = tree if index == 0 else jax.tree.map(np.zeros_like, tree)
  found = placement.broadcast_arrays(mine)
  for name, x in tree.items():
    assert np.asarray(found[name]).tobytes() == x.tobytes(), name
  print('the same bits')


if __name__ == '__main__':
  try:
    main(*sys.argv[1:])
  except errors.UserError as error:
    print(f'byol_jax: {error}')
    sys.exit(error.exit_code)

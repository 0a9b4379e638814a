"""Some devices of one run, as a process of their own; see `parallel_test`.

python worker.py OUT.npz [HOST:PORT,PROCESSES,INDEX]: five augmented steps of
the small experiment; writes the state that this process holds. It runs in
float64 where JAX_ENABLE_X64 is set.
"""

import sys

import jax
import numpy as np

from byol_jax.distributed import placement, processes
from tests.helpers import tiny_run

BATCH_SIZE = 8
SIZE = 32
NUM_STEPS = 5
NETWORK = {'stem': 'small_stride2', 'width': 0.5}


def identical(leaf):
  """Whether all local replicas hold the same bits."""
  shards = [np.asarray(s.data) for s in leaf.addressable_shards]
  return all(s.tobytes() == shards[0].tobytes() for s in shards)


def leaves(tree):
  """(path, device array) of each leaf."""
  paths, _ = jax.tree_util.tree_flatten_with_path(tree)
  return [(jax.tree_util.keystr(path), x) for path, x in paths]


def main(out, distributed='none'):
  processes.join_job(distributed, lambda: (None, {}))
  placement.check_batch_size('batch_size', BATCH_SIZE)
  rate, tau = tiny_run.warmup()
  _, _, optimizer, update = tiny_run.make_experiment(
    rate=rate, tau=tau, augmented=True, **NETWORK
  )
  state = placement.replicate(tiny_run.random_state(optimizer, **NETWORK))
  update = placement.pmap(update, donate_argnums=(0,))

  local = jax.local_device_count()
  first = jax.process_index() * local
  batches = []
  for step in range(NUM_STEPS):
    batch = tiny_run.make_batch(step, batch_size=BATCH_SIZE, size=SIZE)
    for name in ('view1', 'view2'):
      batch[name] = batch[name].astype(jax.numpy.zeros(()).dtype)
    batch = tiny_run.divided(batch, jax.device_count())
    batches.append({k: v[first : first + local] for k, v in batch.items()})
  for batch in placement.prefetch(batches):
    old, (state, scalars) = state, update(state, batch)
    kept = {path for path, x in leaves(old) if not x.is_deleted()}
    # Training reads no moving average; XLA drops inputs that are not read.
    assert all(path.endswith("['average']") for path in kept), kept
  assert all(map(identical, jax.tree.leaves(state))), 'replicas differ'
  result = tiny_run.flat(placement.first_replica(state))
  result |= tiny_run.flat({'scalars': placement.first_replica(scalars)})
  np.savez(out, devices=jax.device_count(), **result)


if __name__ == '__main__':
  main(*sys.argv[1:])

"""One of two processes of a job, of which only the first saves.

python checkpoint_worker.py FOLDER HOST:PORT INDEX; see
`checkpoint_processes_test`.
"""

import pathlib
import sys
import time

import jax
import numpy as np

from byol_jax import parallel
from byol_jax.distributed import packing, placement

STEPS = 200


def tree(step):
  generator = np.random.default_rng(step)
  return {
    'w': generator.normal(size=(50, 1000)).astype('f4'),
    'step': np.int32(step),
  }


def check(found, step):
  expected = tree(step)
  for name in expected:
    assert np.array_equal(found[name], expected[name]), (name, step)


def alone(saver, folder):
  """All that is done with checkpoints, while the other process does nothing."""
  from byol_jax.checkpoints import checkpointer

  assert saver.resume(tree(0)) is None
  saver.save(1, jax.device_put(tree(1), jax.local_devices()[0]), {'step': 1})
  saver.save(2, tree(2), {'step': 2})
  saver.wait()
  check(saver.restore(tree(0), 1)[0], 1)
  step, found, meta = saver.resume(tree(0))
  assert step == 2 and meta == {'step': 2}
  check(found, 2)
  arrays, _ = checkpointer.read(folder)
  check(arrays, 2)


def wait_for(path):
  deadline = time.monotonic() + 120
  while not path.exists():
    assert time.monotonic() < deadline, 'the first process waits for this one'
    time.sleep(0.05)


def main(folder, address, index):
  jax.distributed.initialize(address, 2, int(index))
  assert jax.process_count() == 2 and jax.device_count() == 4
  folder = pathlib.Path(folder)
  saver, done = None, folder / 'done'
  if jax.process_index() == 0:
    from byol_jax.checkpoints import checkpointer

    saver = checkpointer.Checkpoints(folder / 'steps', keep=2)
    alone(saver, folder / 'steps')
    done.write_text('')
  else:
    wait_for(done)
  # Both compute, with a sum over both in each step, while the first one saves.
  update = placement.pmap(
    lambda x: jax.tree.map(lambda y: y + 0 * parallel.total(y), x),
    donate_argnums=(0,),
  )
  state = placement.replicate(packing.pack(tree(3)))
  for step in range(STEPS):
    # With hundreds of calls under way, sums over processes on CPUs lock up.
    state = jax.block_until_ready(update(state))
    if saver is not None and step % 50 == 0:
      saver.poll()
      saver.save(3 + step, placement.snapshot(state), {'step': 3 + step})
  if saver is not None:
    saver.wait()
    step, found, _ = saver.resume(tree(0))
    assert step == 3 + STEPS - 50
    check(found, 3)
    saver.close()
    print('all restored')
  assert 'orbax' in sys.modules or index == '1'
  print('processes', jax.process_count(), 'orbax' in sys.modules)
  jax.distributed.shutdown()


if __name__ == '__main__':
  main(*sys.argv[1:])

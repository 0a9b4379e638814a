"""One of two processes of a job, of which only the first saves.

python checkpoint_worker.py FOLDER HOST:PORT INDEX; see `checkpointer_test`.
"""

import pathlib
import sys
import time

import jax
import numpy as np

from byol_jax import parallel
from byol_jax.checkpoints import checkpointer
from byol_jax.distributed import packing, placement

STEPS = 60


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


def use_alone(opened, folder):
  """Uses checkpoints in every way while the other process does nothing."""
  assert opened.restore_newest(tree(0)) is None
  opened.save(1, jax.device_put(tree(1), jax.local_devices()[0]), {'step': 1})
  opened.save(2, tree(2), {'step': 2})
  opened.wait()
  check(checkpointer.read_arrays(folder, 1)[0], 1)
  step, found, meta = opened.restore_newest(tree(0))
  assert step == 2 and meta == {'step': 2}
  check(found, 2)
  check(checkpointer.read_arrays(folder)[0], 2)


def main(folder, address, index):
  jax.distributed.initialize(address, 2, int(index))
  assert jax.process_count() == 2 and jax.device_count() == 4
  folder = pathlib.Path(folder)
  opened, done = None, folder / 'done'
  if jax.process_index() == 0:
    opened = checkpointer.Checkpointer(folder / 'steps', keep=2)
    use_alone(opened, folder / 'steps')
    done.write_text('')
  else:
    deadline = time.monotonic() + 120
    while not done.exists():
      assert time.monotonic() < deadline, 'the first process waits for this one'
      time.sleep(0.05)
  # Both compute, with a sum over both in each step, while the first one saves.
  update = placement.pmap(
    lambda x: jax.tree.map(lambda y: y + 0 * parallel.total(y), x),
    donate_argnums=(0,),
  )
  state = placement.replicate(packing.pack(tree(3)))
  for step in range(STEPS):
    # With hundreds of calls under way, sums over processes on CPUs lock up.
    state = jax.block_until_ready(update(state))
    if opened is not None and step % 20 == 0:
      opened.check_for_errors()
      opened.save(
        3 + step, placement.copy_first_replica(state), {'step': 3 + step}
      )
  if opened is not None:
    opened.wait()
    step, found, _ = opened.restore_newest(tree(0))
    assert step == 3 + STEPS - 20
    check(found, 3)
    opened.close()
    print('all restored')
  print('processes', jax.process_count())
  jax.distributed.shutdown()


if __name__ == '__main__':
  main(*sys.argv[1:])

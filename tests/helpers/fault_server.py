"""A process that has imported all it needs and forks one child for each job.

Started with `faults.c` preloaded. A line of JSON on its input is a job; a line
on its output says how the child ended: {'status': waitpid's, 'result': ...}.
"""

import contextlib
import ctypes
import json
import os
import sys

import numpy as np

from byol_jax import errors
from byol_jax.checkpoints import checkpointer


def tree(step):
  """Two arrays with values, and one without elements."""
  generator = np.random.default_rng(step)
  return {
    'w': generator.normal(size=3000),
    'b': {'c': generator.normal(size=7).astype(np.float32)},
    'none': np.zeros((0, 2)),
  }


def train(folder, steps):
  """Resumes as a run does, and saves `steps` more."""
  with contextlib.closing(checkpointer.Checkpointer(folder, keep=2)) as opened:
    found = opened.restore_newest(tree(0))
    step = 0
    if found is not None:
      step, state, meta = found
      np.testing.assert_equal(state, tree(step))
      assert meta == {'step': step}
    for new in range(step + 1, step + steps + 1):
      assert opened.save(new, tree(new), {'step': new})
      opened.wait()
    return {'from': step}


def run_job(library, folder, steps, kill=0, fail_from=0, errno=0, kinds=0):
  """Returns one child's result, and how many operations it took."""
  library.fault_arm(folder.encode(), kill, fail_from, errno, kinds)
  try:
    result = train(folder, steps)
  except errors.UserError as error:
    result = {'error': str(error), 'exit_code': error.exit_code}
  return result | {'operations': library.fault_count()}


def fork_job(library, task):
  """Runs one job in a child; returns its exit status and result."""
  reads, writes = os.pipe()
  child = os.fork()
  if child == 0:
    os.close(reads)
    with os.fdopen(writes, 'w') as output:
      json.dump(run_job(library, **task), output)
    os._exit(0)
  os.close(writes)
  with os.fdopen(reads) as text:
    result = text.read()
  _, status = os.waitpid(child, 0)
  return {'status': status, 'result': json.loads(result) if result else None}


def main():
  library = ctypes.CDLL(None)
  for line in sys.stdin:
    print(json.dumps(fork_job(library, json.loads(line))), flush=True)


if __name__ == '__main__':
  main()

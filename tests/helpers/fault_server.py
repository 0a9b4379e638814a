"""A process that has imported all it needs, and forks one child for each job.

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

KEEP = 2


def tree(step):
  """A function of the step: two files of arrays, and an empty one."""
  generator = np.random.default_rng(step)
  return {
    'w': generator.normal(size=3000),
    'b': {'c': generator.normal(size=7).astype(np.float32)},
    'none': np.zeros((0, 2)),
  }


def same(left, right):
  return all(
    np.array_equal(a, b)
    for a, b in zip(
      (left['w'], left['b']['c'], left['none']),
      (right['w'], right['b']['c'], right['none']),
      strict=True,
    )
  )


def work(folder, steps):
  """What a run does: goes on from what is there, saves `steps` more."""
  with contextlib.closing(checkpointer.Checkpoints(folder, keep=KEEP)) as saver:
    found = saver.resume(tree(0))
    step = 0
    if found is not None:
      step, state, meta = found
      assert same(state, tree(step)) and meta == {'step': step}, step
    for new in range(step + 1, step + steps + 1):
      assert saver.save(new, tree(new), {'step': new})
      saver.wait()
    return {'from': step}


def job(library, folder, steps, kill=0, fail_from=0, errno=0, kinds=0):
  """One child's work, and how many operations it took."""
  library.fault_name.restype = ctypes.c_char_p
  library.fault_arm(folder.encode(), kill, fail_from, errno, kinds)
  try:
    result = work(folder, steps)
  except errors.UserError as error:
    result = {'error': str(error), 'exit_code': error.exit_code}
  count = library.fault_count()
  names = [library.fault_name(i).decode() for i in range(count)]
  return result | {'operations': names}


def forked(library, task):
  """Runs one job in a child; its exit status and result."""
  reads, writes = os.pipe()
  child = os.fork()
  if child == 0:
    os.close(reads)
    with os.fdopen(writes, 'w') as output:
      json.dump(job(library, **task), output)
    os._exit(0)
  os.close(writes)
  with os.fdopen(reads) as text:
    result = text.read()
  _, status = os.waitpid(child, 0)
  return {'status': status, 'result': json.loads(result) if result else None}


def main():
  library = ctypes.CDLL(None)
  for line in sys.stdin:
    print(json.dumps(forked(library, json.loads(line))), flush=True)


if __name__ == '__main__':
  main()

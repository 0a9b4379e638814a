"""Small checkpoints: saved, damaged and read again by several tests."""

import contextlib
import pathlib

import jax
import numpy as np

from byol_jax.checkpoints import checkpointer


def opening(folder, keep=3, **settings):
  """A context with a Checkpointer of `folder`."""
  return contextlib.closing(
    checkpointer.Checkpointer(folder, keep=keep, **settings)
  )


def save(folder, step, tree, meta=None, **settings):
  """Saves one step until it is written; returns whether it was new."""
  with opening(folder, **settings) as opened:
    return opened.save(step, tree, meta or {})


def restore_newest(folder, template):
  with opening(folder) as opened:
    return opened.restore_newest(template)


def names(folder):
  """All that is in a folder, hidden files too."""
  return sorted(path.name for path in folder.iterdir())


def files_of(step):
  paths = pathlib.Path(step).rglob('*')
  return sorted(path for path in paths if path.is_file())


def states(count):
  """Step -> a tree of 8 kB, from 1."""
  generator = np.random.default_rng(0)
  return {i: {'w': generator.normal(size=999)} for i in range(1, count + 1)}


def assert_same_bits(left, right):
  assert jax.tree.structure(left) == jax.tree.structure(right)
  for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right)):
    a, b = np.asarray(a), np.asarray(b)
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    assert a.tobytes() == b.tobytes()


def arrays_of(workdir, step=None):
  """{leaf path: array} of a checkpoint of a run."""
  return checkpointer.read_arrays(workdir / 'checkpoints', step)[0]


def latest_step(workdir):
  return checkpointer.list_steps(workdir / 'checkpoints')[-1]


def assert_same_arrays(left, right):
  """The same bits, of {path: array}."""
  assert left.keys() == right.keys()
  for name, array in left.items():
    assert array.tobytes() == right[name].tobytes(), name


def flip(path, share=0.5, bit=0):
  """Flips one bit, at a share of the file's length."""
  data = bytearray(path.read_bytes())
  data[int(share * len(data))] ^= 1 << bit
  path.write_bytes(data)


def halve(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero(path, start=0):
  """Zeroes a file from a share of its length on."""
  data = path.read_bytes()
  kept = int(start * len(data))
  path.write_bytes(data[:kept] + bytes(len(data) - kept))


def largest(step):
  """The file that holds the array."""
  return max(files_of(step), key=lambda path: path.stat().st_size)


def manifest(step):
  return step / 'manifest' / 'metadata'


# What may happen to a step.
DAMAGES = {
  'flipped': lambda step: flip(largest(step)),
  'second half zeroed': lambda step: zero(largest(step), 0.5),
  'cut': lambda step: halve(largest(step)),
  'gone': lambda step: largest(step).unlink(),
  'empty': lambda step: [path.unlink() for path in files_of(step)],
  'manifest flipped': lambda step: flip(manifest(step)),
  'manifest cut': lambda step: halve(manifest(step)),
  'manifest emptied': lambda step: manifest(step).write_text(''),
  'manifest nested': lambda step: manifest(step).write_text('[' * 200_000),
  'manifest gone': lambda step: manifest(step).unlink(),
}

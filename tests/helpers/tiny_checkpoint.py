"""Small checkpoints: saved, damaged and read again by several tests."""

import contextlib
import pathlib
import shutil

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


def restore(folder, template, step=None):
  with opening(folder) as opened:
    return opened.restore(template, step)


def restore_newest(folder, template, **settings):
  with opening(folder, **settings) as opened:
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


def flip(path, share=0.5, bit=0):
  """Flips one bit, at a share of the file's length."""
  data = bytearray(path.read_bytes())
  data[int(share * len(data))] ^= 1 << bit
  path.write_bytes(data)


def halve(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero(path):
  path.write_bytes(bytes(path.stat().st_size))


def zero_page(path):
  """Zeroes 4 KiB in the middle, as a disk that lost a page."""
  data = bytearray(path.read_bytes())
  middle = len(data) // 2
  data[middle : middle + 4096] = bytes(len(data[middle : middle + 4096]))
  path.write_bytes(data)


def empty(step):
  shutil.rmtree(step)
  step.mkdir()


def largest(step):
  """The file that holds the array."""
  return max(files_of(step), key=lambda path: path.stat().st_size)


def manifest(step):
  return step / 'manifest' / 'metadata'


# What may happen to a step.
DAMAGES = {
  'flipped': lambda step: flip(largest(step)),
  'page zeroed': lambda step: zero_page(largest(step)),
  'cut': lambda step: halve(largest(step)),
  'gone': lambda step: largest(step).unlink(),
  'empty': empty,
  'manifest flipped': lambda step: flip(manifest(step)),
  'manifest cut': lambda step: halve(manifest(step)),
  'manifest emptied': lambda step: manifest(step).write_text(''),
  'manifest gone': lambda step: manifest(step).unlink(),
}

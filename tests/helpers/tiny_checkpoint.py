"""Small checkpoints: saved, damaged and read again by several tests."""

import contextlib
import shutil

import jax
import numpy as np

from byol_jax.checkpoints import checkpointer


def save(folder, step, tree, meta=None, keep=3, **settings):
  """One step, written when this returns; whether it was new."""
  opened = checkpointer.Checkpoints(folder, keep=keep, **settings)
  with contextlib.closing(opened) as saver:
    return saver.save(step, tree, meta or {})


def restore(folder, template, step=None):
  with contextlib.closing(checkpointer.Checkpoints(folder, keep=3)) as saver:
    return saver.restore(template, step)


def resume(folder, template, keep=3):
  """What a starting run finds: (step, tree, meta) or None."""
  with contextlib.closing(checkpointer.Checkpoints(folder, keep=keep)) as saver:
    return saver.resume(template)


def names(folder):
  """All that lies in a folder, hidden things too."""
  return sorted(path.name for path in folder.iterdir())


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


def flip(path, place=0.5, bit=0):
  """One bit, at a share of the file."""
  data = bytearray(path.read_bytes())
  data[int(place * len(data))] ^= 1 << bit
  path.write_bytes(data)


def halve(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero(path):
  path.write_bytes(bytes(path.stat().st_size))


def zero_page(path):
  """4 KiB in the middle, as a disk that lost a page."""
  data = bytearray(path.read_bytes())
  middle = len(data) // 2
  data[middle : middle + 4096] = bytes(len(data[middle : middle + 4096]))
  path.write_bytes(data)


def empty(step):
  shutil.rmtree(step)
  step.mkdir()


def largest(step):
  """The file that holds the array."""
  files = [path for path in step.rglob('*') if path.is_file()]
  return max(files, key=lambda path: path.stat().st_size)


def manifest(step):
  return step / 'manifest.json'


# What may happen to a step, and the file that is named then.
DAMAGES = {
  'flipped': (lambda step: flip(largest(step)), largest),
  'page zeroed': (lambda step: zero_page(largest(step)), largest),
  'cut': (lambda step: halve(largest(step)), largest),
  'gone': (lambda step: largest(step).unlink(), largest),
  'empty': (empty, manifest),
  'manifest flipped': (lambda step: flip(manifest(step)), manifest),
  'manifest cut': (lambda step: halve(manifest(step)), manifest),
  'manifest emptied': (lambda step: manifest(step).write_text(''), manifest),
  'manifest gone': (lambda step: manifest(step).unlink(), manifest),
}

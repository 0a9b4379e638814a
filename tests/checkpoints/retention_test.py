"""Random lives of a run: its newest step that verifies always stays."""

import contextlib
import logging

import numpy as np
import pytest

from byol_jax import errors
from byol_jax.checkpoints import (
  checkpointer,
  format as checkpoint_format,
  manifest,
  places,
)
from tests.helpers.tiny_checkpoint import DAMAGES, flip, names


def small_write(folder, step, arrays, meta, record):
  """What `checkpoint_format.write` does, without Orbax: 1 ms, not 100."""
  content = {'step': step, 'meta': meta, 'record': record, 'arrays': {}}
  (folder / 'array').write_bytes(arrays['w'].tobytes())
  content['files'] = {'array': manifest._file(folder / 'array')}
  manifest.write(folder, content)
  return content


@pytest.mark.parametrize('seed', range(10))
def test_the_newest_step_that_verifies_is_never_deleted(
  tmp_path, monkeypatch, seed, caplog
):
  """A hundred random things each: saves that end well, that fail, that are
  damaged before or after they are published, damage to old ones, restarts."""
  caplog.set_level(logging.ERROR)
  generator = np.random.default_rng(seed)
  keep = int(generator.integers(1, 4))
  folder = tmp_path / 'steps'
  monkeypatch.setattr(checkpoint_format, 'write', small_write)
  publish = places.Disk.publish
  fate = ['well']

  def published(self, stage, step):
    if fate[0] == 'fails':
      raise OSError(5, 'Input/output error')
    publish(self, stage, step)
    if fate[0] == 'is damaged':
      flip(self.where(step) / 'array')
    if fate[0] == 'is torn':
      (self.where(step) / 'array').unlink()

  monkeypatch.setattr(places.Disk, 'publish', published)

  def verified():
    good = set()
    for step in places.at(folder).steps():
      with contextlib.suppress(errors.DataError):
        checkpointer.read(folder, step)
        good.add(step)
    return good

  saver = checkpointer.Checkpoints(folder, keep=keep)
  step, counts = 0, {}
  for _ in range(100):
    before = verified()
    act = str(generator.choice(
      ['well', 'fails', 'is damaged', 'is torn', 'rots', 'restart', 'empty'],
      p=[0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1],
    ))  # fmt: skip
    counts[act] = counts.get(act, 0) + 1
    if act == 'rots':
      # Anything but the last good one: then there is none to keep.
      for old in sorted(before)[1:][:1] or sorted(before)[:-1]:
        damage = generator.choice(sorted(DAMAGES))
        DAMAGES[damage][0](folder / str(old))
        before.remove(old)
    elif act == 'empty':
      step += 1
      (folder / str(step)).mkdir()
    elif act == 'restart':
      saver.close()
      saver = checkpointer.Checkpoints(folder, keep=keep)
      if before:
        assert saver.resume({})[0] == max(before)
    else:
      # Sometimes a step whose place is taken, sometimes an old number.
      step += int(generator.integers(0, 3))
      fate[0] = act
      is_new = saver.save(step, {'w': generator.bytes(9)}, {})
      if is_new and act != 'well':
        with pytest.raises(errors.DataError):
          saver.wait()
      elif is_new:
        saver.wait()
        before.add(step)
    now = verified()
    if before:
      assert max(before) in now, (act, before, now)
      assert len(now) >= min(keep, len(before)) - 1
    complete = [s for s, done in places.at(folder).steps().items() if done]
    if act == 'well' and is_new:
      assert len(complete) <= keep + 1
    assert not [n for n in names(folder) if n.startswith('.')]
  saver.close()
  assert counts['well'] > 20 and len(counts) == 7

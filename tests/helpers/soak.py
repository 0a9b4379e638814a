"""Compares a run with random kills, stops and damage with an undisturbed one.

PYTHONPATH=. python tests/helpers/soak.py FOLDER [--events=200] [--seed=0]

Each strike starts the run and, at a random batch and moment, kills it (-9) or
sends SIGTERM; after half of them a file of the newest checkpoint is damaged,
which counts as another event. Then the run may end: its last state must be
that of the undisturbed run, bit for bit; else the exit code is 1.

Every run is a fork of one process that has imported what it needs but used no
device, which saves seconds each time. Nor does that process open a checkpoint,
which starts threads and the devices: a fork would wait for them forever.
"""

import argparse
import collections
import faulthandler
import os
import pathlib
import random
import signal
import sys
import threading
import traceback

from byol_jax import api, errors
from byol_jax.training import signals
from tests.helpers.tiny_checkpoint import arrays_of, assert_same_arrays
from tests.helpers.tiny_config import ArraySet, tiny

STEPS = 60  # 15 epochs of 32 images in batches of 8
EVERY = 6  # steps, between checkpoints
KINDS = ('kill', 'kill', 'term')
TIMEOUT = 300  # seconds: some forty times what a start takes


class Struck(ArraySet):
  """Sends a signal some time after a batch is made.

  The first batch is made before the first step, where the command line's
  handler is in place.
  """

  def __init__(self, number, batch, delay):
    super().__init__()
    self.number, self.batch, self.delay = number, batch, delay

  def view_batches(self, batch_size, start_step, num_steps):
    batches = super().view_batches(batch_size, start_step, num_steps)
    for count, batch in enumerate(batches):
      if count == self.batch:
        # A little later: the run may be saving then.
        threading.Timer(self.delay, os.kill, (os.getpid(), self.number)).start()
      yield batch


def fork(log, work):
  """Calls `work` in a fork; its exit code, or minus the signal."""
  child = os.fork()
  if child == 0:
    code = 1
    try:
      with open(log, 'a') as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
      faulthandler.dump_traceback_later(TIMEOUT, exit=True)
      work()
      code = 0
    except errors.UserError as error:
      print(error, flush=True)
      code = error.exit_code
    except BaseException:
      traceback.print_exc()
    finally:
      os._exit(code)
  _, status = os.waitpid(child, 0)
  return os.waitstatus_to_exitcode(status)


def start(path, dataset):
  """A run that saves often; its exit code, or minus the signal."""

  def train():
    sys.argv = ['byol-jax', 'pretrain']
    signals.install('__main__')
    config = tiny(
      epochs=STEPS / 4,
      checkpoint__every_steps=EVERY,
      checkpoint__every_minutes=0.0,
      log__every_steps=40,
    )
    api.pretrain_on(dataset, config, path)

  return fork(path.with_suffix('.log'), train)


def saved_steps(path):
  """The steps in a workdir, by the names of their folders."""
  names = [p.name for p in (path / 'checkpoints').glob('[0-9]*')]
  return sorted(int(name) for name in names if name.isdigit())


def damage(path, generator):
  """Spoils one file of the newest checkpoint, if an older one is left.

  Returns the step that is left to resume from; None if nothing was done.
  """
  steps = saved_steps(path)
  if len(steps) < 2:
    return None
  newest = path / 'checkpoints' / str(steps[-1])
  files = [p for p in newest.rglob('*') if p.is_file()]
  path = generator.choice(sorted(files))
  data = bytearray(path.read_bytes())
  how = generator.choice(('flip', 'zero', 'cut', 'remove'))
  place = generator.randrange(max(1, len(data)))
  page = slice(place, place + 4096)
  if how == 'remove' or not data:
    path.unlink()
  elif how == 'cut':
    path.write_bytes(data[:place])
  else:
    if how == 'zero' and any(data[page]):
      data[page] = bytes(len(data[page]))
    else:
      data[place] ^= 1 << generator.randrange(8)
    path.write_bytes(data)
  return steps[-2]


def strike(path, generator, counts, sound):
  """One or two events, added to `counts`; the exit code must be a promised one.

  `sound`, the newest step that is not damaged, must not be lost. Returns the
  newest such step after the events.
  """
  kind = generator.choice(KINDS)
  number = signal.SIGTERM if kind == 'term' else signal.SIGKILL
  batch, delay = generator.randrange(0, 14), generator.uniform(0, 0.06)
  code = start(path, Struck(number, batch, delay))
  expected = (42 if kind == 'term' else -signal.SIGKILL, 0)
  if code not in expected:
    raise SystemExit(f'{kind}: exit code {code}, expected one of {expected}')
  latest = max(saved_steps(path), default=0)
  if latest < sound:
    raise SystemExit(f'{kind}: step {sound} was there, {latest} is left')
  counts[kind] += code != 0  # else the run was faster
  if generator.random() < 0.5:
    return latest
  left = damage(path, generator)
  counts['damage'] += left is not None
  return latest if left is None else left


def compare(left, right):
  """Raises AssertionError unless two runs ended in the same bits."""
  assert_same_arrays(arrays_of(left, STEPS), arrays_of(right, STEPS))


def soak(folder, events, seed):
  """Strikes runs until there were that many events; their numbers by kind.

  A run that got to its end is compared, and another one started.
  """
  generator, counts, runs = random.Random(seed), collections.Counter(), 0
  calm = folder / 'calm'
  if start(calm, ArraySet()) != 0:
    raise SystemExit(f'the undisturbed run failed: see {calm}.log')
  while sum(counts.values()) < events:
    path, sound = folder / f'struck{runs}', 0
    while sound < STEPS and sum(counts.values()) < events:
      sound = strike(path, generator, counts, sound)
    code = start(path, ArraySet())
    if code != 0:
      raise SystemExit(f'the end of {path}: exit code {code}')
    log = path.with_suffix('.log')
    if fork(log, lambda path=path: compare(calm, path)) != 0:
      raise SystemExit(f'{path} ended in another state than {calm}')
    runs += 1
  return dict(counts, runs=runs)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('folder', type=pathlib.Path)
  parser.add_argument('--events', type=int, default=200)
  parser.add_argument('--seed', type=int, default=0)
  arguments = parser.parse_args()
  arguments.folder.mkdir(parents=True)
  counts = soak(**vars(arguments))
  listed = ', '.join(f'{n} {kind}' for kind, n in sorted(counts.items()))
  print(f'{listed}: the same end')


if __name__ == '__main__':
  main()

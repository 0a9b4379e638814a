"""How long a save holds up a run, at the size of ResNet-50's real state.

PYTHONPATH=. python benchmarks/checkpoint_saving.py OUT.json [--saves=5]
  [--folder=DIR]

The state of configs/pretrain.py:1000 (float32; online and target network,
batch norm, momentum) with random numbers lies on the devices, as in a run.
Measured in seconds, each with the calling thread's share of a core:

snapshot: the copy on the device. An accelerator makes it while the host goes
  on; on CPUs, as here, the call waits for the copy.
save: the call that begins a save; what a run waits for besides.
whole: the save until it is published and verified, as if the run had waited.
longest_pause: of the calling thread, which otherwise sleeps 1 ms at a time,
  while the save goes on; once as Python starts, once after gc.freeze(): most
  of it is the garbage collector looking at all that JAX made.

And the memory of the process over 50 saves of a tree of 20 MB. Beside it
stands the time of one training step on 512 TPU v3 cores at batch 4096.
"""

import argparse
from collections.abc import Callable
import contextlib
import functools
import gc
import pathlib
import resource
import shutil
import statistics
import tempfile
import threading
import time
from typing import Any

import jax
import numpy as np

from benchmarks import results_file
from byol_jax import configuration, experiment
from byol_jax.checkpoints import checkpointer
from byol_jax.data import catalog
from byol_jax.distributed import packing, placement

CONFIG = 'pretrain:1000'
STEP_SECONDS = 0.092  # about; of the hardware, not of this machine
SMALL_SAVES = 50


def random_state() -> Any:
  """The whole state of the run, as host arrays."""
  config = configuration.load(CONFIG)
  facts = catalog.find_facts(config.dataset)
  built = experiment.build(config, facts.num_train, facts.num_classes)
  generator = np.random.default_rng(0)

  def draw(x: jax.ShapeDtypeStruct) -> np.ndarray:
    if x.dtype == np.float32:
      return generator.standard_normal(x.shape, np.float32)
    return generator.integers(0, 9, x.shape).astype(x.dtype)

  return jax.tree.map(draw, jax.eval_shape(built.initial_state))


def timed(function: Callable[[], Any]) -> tuple[Any, list[float]]:
  """Its result; seconds by the clock and on a core."""
  clock, core = time.perf_counter(), time.thread_time()
  result = function()
  took = [time.perf_counter() - clock, time.thread_time() - core]
  return result, [round(seconds, 4) for seconds in took]


def save_once(
  saver: checkpointer.Checkpointer, step: int, state: Any
) -> dict[str, Any]:
  """One row of the table."""
  copy, snapshot = timed(lambda: placement.copy_first_replica(state))
  began = time.perf_counter()
  _, save = timed(functools.partial(saver.save, step, copy, {'step': step}))
  del copy
  waiting = threading.Thread(target=saver.wait)
  waiting.start()
  longest, last = 0.0, time.perf_counter()
  while waiting.is_alive():
    time.sleep(0.001)
    now = time.perf_counter()
    longest, last = max(longest, now - last - 0.001), now
  return {
    'snapshot': snapshot,
    'save': save,
    'whole': round(time.perf_counter() - began, 2),
    'longest_pause': round(longest, 4),
  }


def medians(rows: list[dict[str, Any]]) -> dict[str, float]:
  """Of each column, by the clock."""
  first = lambda value: value[0] if isinstance(value, list) else value
  return {
    key: statistics.median(first(row[key]) for row in rows) for key in rows[0]
  }


def resident() -> float:
  """MB of memory that this process now holds."""
  pages = int(pathlib.Path('/proc/self/statm').read_text().split()[1])
  return pages * resource.getpagesize() / 1e6


def small_saves(folder: pathlib.Path) -> list[float]:
  """MB after each of many saves of a small tree."""
  tree = {
    str(i): np.random.default_rng(i).standard_normal(50_000, np.float32)
    for i in range(100)
  }
  state, memory = placement.replicate(packing.pack(tree)), []
  with contextlib.closing(checkpointer.Checkpointer(folder, keep=2)) as saver:
    for step in range(SMALL_SAVES):
      saver.save(step, placement.copy_first_replica(state), {})
      saver.wait()
      memory.append(round(resident(), 1))
  return memory


def measure(folder: pathlib.Path, saves: int) -> dict[str, Any]:
  """All of it, as JSON can hold it."""
  memory = small_saves(folder / 'small')
  state = random_state()
  leaves = jax.tree.leaves(state)
  on_devices = placement.replicate(packing.pack(state))
  jax.block_until_ready(placement.copy_first_replica(on_devices))  # compiled
  with contextlib.closing(
    checkpointer.Checkpointer(folder / 'large', keep=1)
  ) as saver:
    rows = [save_once(saver, step, on_devices) for step in range(saves)]
    gc.collect()
    gc.freeze()
    frozen = [
      save_once(saver, step, on_devices) for step in range(saves, 2 * saves)
    ]
    began = time.perf_counter()
    saver.restore_newest(state)
    restored = time.perf_counter() - began
  return {
    'config': CONFIG,
    'leaves': len(leaves),
    'megabytes': round(sum(x.nbytes for x in leaves) / 1e6, 1),
    'saves': rows,
    'saves_after_freeze': frozen,
    'median': medians(rows),
    'median_after_freeze': medians(frozen),
    'restore_seconds': round(restored, 2),
    'step_seconds_v3_512': STEP_SECONDS,
    'small_saves': SMALL_SAVES,
    'resident_megabytes_after': {
      str(n): memory[n - 1] for n in (1, 5, 10, 25, 50)
    },
  }


def main() -> None:
  """Reads the command line, measures, writes."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('out', type=pathlib.Path)
  parser.add_argument('--saves', type=int, default=5)
  parser.add_argument('--folder', default=None)
  arguments = parser.parse_args()
  folder = pathlib.Path(tempfile.mkdtemp(dir=arguments.folder))
  try:
    found = measure(folder, arguments.saves)
  finally:
    shutil.rmtree(folder, ignore_errors=True)
  results_file.write_result(found, arguments.out)


if __name__ == '__main__':
  main()

"""Starts jobs of several processes on this machine; see `job_worker`."""

import contextlib
import time
from typing import NamedTuple

from tests.helpers import tiny_run

WORKER = tiny_run.ROOT / 'tests' / 'helpers' / 'job_worker.py'


class Ended(NamedTuple):
  """How one process of a job ended."""

  code: int
  output: str

  def __repr__(self):
    return f'exit code {self.code}:\n{self.output[-3000:]}'


def start(path, processes, devices, *arguments, each=(), worker=WORKER, **env):
  """Starts the processes of a job.

  Args:
    path: its workdir.
    processes: their number.
    devices: of each process.
    arguments: of all processes, and `each`, of one.
    worker: the program; `env` holds variables for it.
  """
  address = f'localhost:{tiny_run.free_port()}'
  return [
    tiny_run.start_python(
      worker,
      path,
      f'{address},{processes},{i}' if processes > 1 else 'none',
      *arguments,
      *(each[i] if each else ()),
      JAX_NUM_CPU_DEVICES=str(devices),
      **env,
    )
    for i in range(processes)
  ]


def finish(processes, seconds=600):
  """Waits for all of them; kills those that are left after that time."""
  deadline, ended = time.monotonic() + seconds, []
  try:
    for process in processes:
      left = max(0.1, deadline - time.monotonic())
      output, _ = process.communicate(timeout=left)
      ended.append(Ended(process.returncode, output))
  finally:
    for process in processes:
      with contextlib.suppress(ProcessLookupError):
        process.kill()
  return ended


def run(*arguments, **options):
  """Starts a job and waits for its end."""
  return finish(start(*arguments, **options))


def batches(ended):
  """{step: digests of its images by place}, of a whole job."""
  found = {}
  for process in ended:
    for line in process.output.splitlines():
      if line.startswith('batch '):
        _, step, digests = line.split()
        found[int(step)] = found.get(int(step), []) + digests.split(',')
  return found

"""Runs byol_jax as several processes on this machine, over loopback.

  python launch/local_pod.py --processes=2 --devices=2
      -- pretrain --config=shapes --workdir=runs/pod

Each process gets so many devices of the CPU and the same arguments, and finds
the others as it would elsewhere: `--as=explicit` by an address, `slurm` and
`gke` by the variables that these set. Its lines begin with its index.

SIGTERM and Ctrl-C go on to all. If one process ends with an error, the others
have --grace-seconds to end by themselves. The exit code is one for all, see
exits.py: 0 and 42 only if all left with it.
"""

import argparse
from collections.abc import Callable, Sequence
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from launch import exits, job as jobs  # noqa: E402

_POLL = 0.05  # seconds

# --as -> (--distributed, variables), of (port, processes, index).
Way = Callable[[int, int, int], tuple[str, dict[str, str]]]


def _explicit(port: int, count: int, index: int) -> tuple[str, dict[str, str]]:
  return f'localhost:{port},{count},{index}', {}


def _slurm(port: int, count: int, index: int) -> tuple[str, dict[str, str]]:
  return 'slurm', {
    'SLURM_JOB_ID': '1',
    'SLURM_STEP_NODELIST': 'localhost',
    'SLURM_NTASKS': str(count),
    'SLURM_PROCID': str(index),
    'SLURM_LOCALID': str(index),
    'JAX_COORDINATOR_PORT': str(port),
  }


def _gke(port: int, count: int, index: int) -> tuple[str, dict[str, str]]:
  return 'gke', {
    'JAX_FORCE_TPU_INIT': '1',
    'TPU_WORKER_HOSTNAMES': ','.join(['localhost'] * count),
    'TPU_WORKER_ID': str(index),
    # Else JAX asks the metadata server of Google Cloud.
    'MEGASCALE_COORDINATOR_ADDRESS': 'localhost',
    'MEGASCALE_NUM_SLICES': '1',
    'MEGASCALE_SLICE_ID': '0',
    'JAX_COORDINATOR_PORT': str(port),
  }


WAYS: dict[str, Way] = {'explicit': _explicit, 'slurm': _slurm, 'gke': _gke}


def free_port() -> int:
  """A port that nobody listens on now."""
  with socket.socket() as listener:
    listener.bind(('localhost', 0))
    return listener.getsockname()[1]


def start(
  flags: argparse.Namespace, arguments: Sequence[str]
) -> list[subprocess.Popen]:
  """Starts all processes."""
  port = free_port()
  verb, *rest = arguments
  processes = []
  for index in range(flags.processes):
    distributed, variables = WAYS[flags.way](port, flags.processes, index)
    processes.append(
      subprocess.Popen(
        [
          *(sys.executable, '-m', flags.module, verb),
          *(f'--distributed={distributed}', *rest),
        ],
        env={
          'JAX_PLATFORMS': 'cpu',
          **os.environ,
          'JAX_NUM_CPU_DEVICES': str(flags.devices),
          'PYTHONUNBUFFERED': '1',
          'PYTHONPATH': os.pathsep.join(
            [str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])]
          ),
          **variables,
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # A terminal's Ctrl-C comes to this program, which passes it on once.
        start_new_session=True,
      )
    )
  return processes


def copy_lines(index: int, process: subprocess.Popen) -> None:
  """Prints what a process prints, with its index before each line."""
  assert process.stdout is not None
  for line in process.stdout:
    whole = line if line.endswith(b'\n') else line + b'\n'
    # One write, so that lines of two processes do not mix.
    sys.stdout.buffer.write(f'[{index}] '.encode() + whole)
    sys.stdout.buffer.flush()


def send(processes: Sequence[subprocess.Popen], number: int) -> None:
  """A signal to all that live."""
  for process in processes:
    if process.poll() is None:
      process.send_signal(number)


def wait(
  processes: Sequence[subprocess.Popen], grace_seconds: float
) -> list[int]:
  """Until all have ended; exit codes. After an error, not for long."""
  deadline = None
  ending = iter((signal.SIGTERM, signal.SIGKILL))
  # All are asked each time: one that lives must not hide one that failed.
  while None in (codes := [process.poll() for process in processes]):
    if deadline is None and any(codes):
      deadline = time.monotonic() + grace_seconds
    if deadline is not None and time.monotonic() > deadline:
      send(processes, next(ending, signal.SIGKILL))
      deadline = time.monotonic() + grace_seconds
    time.sleep(_POLL)
  return [exits.of_process(process.returncode) for process in processes]


def main(argv: Sequence[str] | None = None) -> int:
  """Runs all to their end; one exit code."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add('--processes', type=int, default=2)
  add('--devices', type=int, default=1, help='of each process')
  add('--as', dest='way', choices=WAYS, default='explicit')
  add('--grace-seconds', type=float, default=120.0)
  add('--module', default='byol_jax', help='what `python -m` runs')
  words, arguments = jobs.split(sys.argv[1:] if argv is None else argv)
  flags = parser.parse_args(words)
  if not arguments or flags.processes < 1 or flags.devices < 1:
    parser.error('expected --processes and --devices from 1, then -- VERB ...')
  processes = start(flags, arguments)
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda got, frame: send(processes, got))
  copiers = [
    threading.Thread(target=copy_lines, args=pair)
    for pair in enumerate(processes)
  ]
  for copier in copiers:
    copier.start()
  codes = wait(processes, flags.grace_seconds)
  for copier in copiers:
    copier.join()
  code = exits.verdict(codes)
  if any(codes):
    print(f'local_pod: exit codes {codes}, so {code}', file=sys.stderr)
  return code


if __name__ == '__main__':
  sys.exit(main())

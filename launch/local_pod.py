"""Runs byol_jax as several processes on this machine, over loopback.

  python launch/local_pod.py --processes=2 --devices=2 \
      -- pretrain --config=shapes --workdir=runs/pod

Every process gets the same arguments and --devices CPU devices; its output
lines begin with its index. SIGTERM and Ctrl-C are forwarded to all, SIGHUP (a
closed terminal) as SIGTERM. If this program is killed, Linux kills them too. If
one process fails, the others get --grace-seconds to exit, then SIGTERM, then
SIGKILL. Exit code: a final one (1 to 4) of any process, since the others fail
because of it; otherwise the largest, 128 + N for signal N.
"""

import argparse
from collections.abc import Sequence
import contextlib
import ctypes
import os
import pathlib
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent(parent: int) -> None:
  """Has Linux kill this process when `parent`, which started it, has died."""
  if sys.platform == 'linux':
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
      os._exit(128 + signal.SIGKILL)


def start_processes(
  flags: argparse.Namespace, arguments: Sequence[str]
) -> list[subprocess.Popen]:
  """Starts all processes; returns them in the order of their indices."""
  with socket.socket() as listener:
    listener.bind(('localhost', 0))
    port = listener.getsockname()[1]
  verb, *rest = arguments
  address = f'--distributed=localhost:{port},{flags.processes}'
  environment = {
    'JAX_PLATFORMS': 'cpu',
    # Other programs of this machine cannot report to process 0.
    'BYOL_JAX_JOB_TOKEN': secrets.token_hex(),
    **os.environ,
    'JAX_NUM_CPU_DEVICES': str(flags.devices),
    'PYTHONUNBUFFERED': '1',
    'PYTHONPATH': f'{ROOT}{os.pathsep}{os.environ.get("PYTHONPATH", "")}',
  }
  program = (sys.executable, '-m', flags.module, verb)
  parent = os.getpid()
  return [
    subprocess.Popen(
      [*program, f'{address},{index}', *rest],
      env=environment,
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      # Ctrl-C of a terminal reaches this program only, which forwards it once.
      start_new_session=True,
      preexec_fn=lambda: end_with_parent(parent),
    )
    for index in range(flags.processes)
  ]


def copy_lines(index: int, process: subprocess.Popen) -> None:
  """Prints the output of a process, with its index before each line."""
  assert process.stdout is not None
  for line in process.stdout:
    # Keep reading if our output is closed: a full pipe would block the process.
    with contextlib.suppress(OSError):
      # One write a line: lines of two processes do not mix.
      sys.stdout.buffer.write(b'[%d] %s\n' % (index, line.rstrip(b'\n')))
      sys.stdout.buffer.flush()


def send_signal(processes: Sequence[subprocess.Popen], number: int) -> None:
  """Sends a signal to all processes that live."""
  for process in processes:
    if process.poll() is None:
      process.send_signal(number)


def wait_for_all(
  processes: Sequence[subprocess.Popen], grace_seconds: float
) -> list[int]:
  """Returns all exit codes; ends processes that outlive a failed one."""
  deadline = None
  number = signal.SIGTERM
  # A list: every process is polled, so that a failed one is seen.
  while None in (codes := [process.poll() for process in processes]):
    if deadline is None and any(codes):
      deadline = time.monotonic() + grace_seconds
    if deadline is not None and time.monotonic() > deadline:
      send_signal(processes, number)
      number = signal.SIGKILL
      deadline = time.monotonic() + grace_seconds
    time.sleep(0.05)
  return [128 - code if code < 0 else code for code in codes]


def combine_codes(codes: Sequence[int]) -> int:
  """Returns one exit code for all processes."""
  final = {code for code in codes if code not in (0, 42) and code < 128}
  for code in (2, 3, 4, 1, *sorted(final)):
    if code in final:
      return code
  return max(codes)


def main(argv: Sequence[str]) -> int:
  """Runs all processes; returns one exit code."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--processes', type=int, default=2)
  parser.add_argument('--devices', type=int, default=1, help='of each process')
  parser.add_argument('--grace-seconds', type=float, default=120.0)
  parser.add_argument('--module', default='byol_jax', help='for `python -m`')
  at = argv.index('--') if '--' in argv else len(argv)
  flags, arguments = parser.parse_args(argv[:at]), argv[at + 1 :]
  if not arguments or flags.processes < 1 or flags.devices < 1:
    parser.error('expected --processes and --devices from 1, then -- VERB ...')
  processes = start_processes(flags, arguments)
  for number, sent in {
    signal.SIGTERM: signal.SIGTERM,
    signal.SIGINT: signal.SIGINT,
    signal.SIGHUP: signal.SIGTERM,
  }.items():
    if signal.getsignal(number) != signal.SIG_IGN:  # as after nohup
      signal.signal(number, lambda *_, sent=sent: send_signal(processes, sent))
  copiers = [
    threading.Thread(target=copy_lines, args=pair)
    for pair in enumerate(processes)
  ]
  for copier in copiers:
    copier.start()
  codes = wait_for_all(processes, flags.grace_seconds)
  for copier in copiers:
    copier.join()
  code = combine_codes(codes)
  if any(codes):
    print(f'local_pod: exit codes {codes}, so {code}', file=sys.stderr)
  return code


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))

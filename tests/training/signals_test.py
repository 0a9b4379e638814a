"""Signals before the first step, in other verbs, and of a closed terminal."""

import fcntl
import os
import signal
import struct
import subprocess
import sys
import termios
import time

import numpy as np
import pytest

from byol_jax import api, errors
from byol_jax.training import signals
from tests.helpers import tiny_folder, tiny_run

SECONDS = 3  # the promise
RESUMES = ': what was saved before stays; the same command resumes\n'


def send_at(process, number, delay):
  """Sends a signal some time after all handlers are installed."""
  last = signals.NUMBERS[-1]
  while not caught_by(process) >> last - 1 & 1:
    assert process.poll() is None
    time.sleep(0.001)
  time.sleep(delay)
  process.send_signal(number)


def caught_by(process):
  """The mask of the signals that a process handles."""
  with open(f'/proc/{process.pid}/status') as lines:
    return next(int(x.split()[1], 16) for x in lines if x.startswith('SigCgt'))


def start_run(folder, workdir, *more, **environment):
  """The smallest run, by the command line."""
  return tiny_run.start_python(
    *('-m', 'byol_jax', 'pretrain', '--config=shapes', *tiny_folder.SMALLEST),
    *(f'--config.dataset={folder}', f'--workdir={workdir}', *more),
    **environment,
  )


@pytest.mark.parametrize('count', (3, pytest.param(30, marks=pytest.mark.jobs)))
def test_a_signal_in_the_first_two_seconds_is_one_line(
  labelled, tmp_path, count
):
  """Whatever is imported then; and it binds no workdir."""
  for moment, delay in enumerate(np.linspace(0, 2, count)):
    number = signals.NUMBERS[moment % len(signals.NUMBERS)]
    if moment % 3 != 2:
      seed = f'--config.seed={moment}'
      process = start_run(labelled[0], tmp_path / 'run', seed)
    else:
      arguments = ('-m', 'byol_jax', 'report', f'--workdir={labelled[1]}')
      process = tiny_run.start_python(*arguments)
    send_at(process, number, delay)
    began = time.monotonic()
    output = tiny_run.finish(process, code=42)
    assert time.monotonic() - began < SECONDS
    assert output == f'byol_jax: {number.name}{RESUMES}', delay


@pytest.mark.jobs
@pytest.mark.parametrize(
  'number, program',
  ((signal.SIGTERM, 'jit(init_fn)'), (signal.SIGHUP, 'jit(_fun)')),
)
def test_a_signal_while_xla_compiles_is_one_line(
  labelled, tmp_path, number, program
):
  """The initial state's program or the step's: seconds without a handler."""
  process = start_run(
    *(labelled[0], tmp_path, '--config.network.encoder=ResNet18'),
    JAX_LOG_COMPILES='1',
    **tiny_run.OPTIMIZED,
    JAX_ENABLE_COMPILATION_CACHE='0',
  )
  while f'Compiling {program}' not in (line := process.stdout.readline()):
    assert line
  time.sleep(0.5)
  process.send_signal(number)
  began = time.monotonic()
  output = tiny_run.finish(process, code=42)
  assert time.monotonic() - began < SECONDS
  assert output.endswith(f'byol_jax: {number.name}{RESUMES}')
  assert f'Finished XLA compilation of {program}' not in output


IN_A_VERB = """
import hashlib, os, pathlib, signal, sys
from byol_jax.training import signals
sys.argv = ['byol-jax', *sys.argv[1:]]
signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
signals._HANDLER_SECONDS = 0.3
signals.install('byol_jax.__main__')
verb, how, partial = sys.argv[1:]
stop = lambda: os.kill(os.getpid(), signal.SIGTERM)
if how == 'ignored':
  os.kill(os.getpid(), signal.SIGHUP)
  sys.exit(7)
if how in ('import', 'config'):
  pathlib.Path(partial, 'stops.py').write_text(
    'import os, signal\\nos.kill(os.getpid(), signal.SIGTERM)')
  sys.path.append(partial)
with signals.unwinding():
  pathlib.Path(partial, 'partial').touch()
  try:
    if how == 'import':
      try:
        import stops
      except BaseException:
        sys.exit('swallowed')  # as a module in C may do
    if how == 'config':
      from byol_jax import configuration
      configuration.load(f'{partial}/stops.py')
    if how == 'blocked':
      print('blocked', flush=True)
      # Lasts for minutes and lets other threads run, as compiling does.
      hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)
    stop()
  finally:
    if how == 'twice':
      stop()
    pathlib.Path(partial, 'partial').unlink()
"""


@pytest.mark.parametrize(
  'verb, how, code, is_left',
  (
    ('pretrain', 'once', 42, True),
    ('knn', 'blocked', 42, True),
    ('data', 'once', 143, False),
    ('data', 'twice', 143, True),
    ('data', 'blocked', 143, True),
    ('data', 'import', 143, True),
    ('plan', 'config', 143, True),
    ('data', 'ignored', 7, False),
  ),
)
def test_other_verbs_unwind_once_so_that_partial_files_go(
  tmp_path, verb, how, code, is_left
):
  process = tiny_run.start_python('-c', IN_A_VERB, verb, how, tmp_path)
  if how == 'blocked':
    assert process.stdout.readline() == 'blocked\n'
    time.sleep(0.2)  # the line comes just before the call
    process.send_signal(signal.SIGTERM)
  output = tiny_run.finish(process, seconds=60, code=code)
  text = 'byol_jax: SIGTERM' + (RESUMES if code == 42 else '\n')
  assert output == ('' if how == 'ignored' else text)
  assert (tmp_path / 'partial').exists() == is_left


def test_the_same_command_repeats_every_evaluation():
  verbs = {'pretrain', *api.PROTOCOLS, 'suite', 'report', 'watch'}
  assert verbs == {*signals.RESUMABLE_VERBS}
  handler = signals.SignalExit('transfer')
  assert handler._exit_code(signal.SIGTERM) == errors.Preempted.exit_code


IN_A_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def test_a_run_whose_terminal_closes_saves_its_step(labelled, tmp_path):
  """The terminal sends SIGHUP and takes no more output."""
  terminal, end = os.openpty()
  size = struct.pack('HHHH', 50, 200, 0, 0)
  fcntl.ioctl(terminal, termios.TIOCSWINSZ, size)
  process = subprocess.Popen(
    [
      *(sys.executable, '-c', IN_A_TERMINAL, '-m', 'byol_jax', 'pretrain'),
      *('--config=shapes', *tiny_folder.SMALLEST, f'--workdir={tmp_path}'),
      *(f'--config.dataset={labelled[0]}', '--config.epochs=5000'),
    ],
    cwd=tiny_run.ROOT,
    start_new_session=True,
    stdin=end,
    stdout=end,
    stderr=end,
  )
  os.close(end)
  output = b''
  while b'loss' not in output:
    output += os.read(terminal, 4096)
  os.close(terminal)
  assert process.wait(60) == 42
  (step,) = (tmp_path / 'checkpoints').iterdir()
  assert 1 <= int(step.name) < 20_000

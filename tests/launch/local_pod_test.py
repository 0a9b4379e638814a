"""Several processes on this machine: addresses, signals, exit codes."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from tests.helpers import pods

# What each process does is in its arguments, by index.
MODULE = """
import os, signal, sys, time
index = int(sys.argv[2].rpartition(',')[2])
what = sys.argv[3:][index]
if what == 'wait':
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(42))
  signal.signal(signal.SIGINT, lambda *_: sys.exit(42))
  print('ready')
  time.sleep(300)
elif what == 'deaf':
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
  print(os.getpid())
  time.sleep(300)
elif what == 'killed':
  os.kill(os.getpid(), signal.SIGKILL)
elif what == 'lines':
  for i in range(500):
    print(index, 'x' * 300)
else:
  sys.exit(int(what))
"""


def pod(folder, *what, module=MODULE, flags=()):
  (folder / 'member.py').write_text(module)
  return subprocess.Popen(
    [
      *(sys.executable, pods.LAUNCH / 'local_pod.py', '--module=member'),
      *(f'--processes={len(what)}', *flags, '--', 'verb', *what),
    ],
    env={**os.environ, 'PYTHONPATH': str(folder)},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(process):
  """(exit code, standard output, standard error)."""
  try:
    out, err = process.communicate(timeout=240)
  finally:
    process.terminate()  # goes on to its processes
  return process.returncode, out, err


@pytest.mark.parametrize(
  'what, code',
  [
    (('0', '0'), 0),
    (('42', '42'), 42),
    (('1', '3', '134'), 3),
    (('0', 'killed'), 137),
    (('42', '137', '0'), 137),
    (('134', '77'), 77),
  ],
)
def test_one_exit_code_for_all(tmp_path, what, code):
  assert finish(pod(tmp_path, *what))[0] == code


def test_lines_of_two_processes_do_not_mix(tmp_path):
  code, out, _ = finish(pod(tmp_path, 'lines', 'lines'))
  assert code == 0
  lines = out.splitlines()
  assert len(lines) == 1000
  for index in '01':
    assert lines.count(f'[{index}] {index} {"x" * 300}') == 500


@pytest.mark.parametrize(
  'number', [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
)
def test_a_signal_goes_to_all(tmp_path, number):
  process = pod(tmp_path, 'wait', 'wait')
  for _ in range(2):
    assert 'ready' in process.stdout.readline()
  process.send_signal(number)
  assert finish(process)[0] == 42


@pytest.mark.skipif(sys.platform != 'linux', reason='Linux kills them')
def test_killed_with_it_are_its_processes(tmp_path):
  process = pod(tmp_path, 'deaf', 'deaf')
  pids = [int(process.stdout.readline().split()[1]) for _ in range(2)]
  process.kill()
  process.wait()

  def is_gone(pid):
    try:
      status = pathlib.Path(f'/proc/{pid}/status').read_text()
    except OSError:
      return True
    return 'State:\tZ' in status  # where process 1 waits for nobody

  pods.wait_until(lambda: all(map(is_gone, pids)))


def test_after_an_error_the_others_have_a_grace_and_are_ended(tmp_path):
  code, _, err = finish(
    pod(tmp_path, 'wait', '3', 'deaf', flags=['--grace-seconds=1.5'])
  )
  assert code == 3
  assert 'exit codes [42, 3, 137], so 3' in err


JOIN = """
import sys
from byol_jax.distributed import processes
import jax
from jax.experimental import multihost_utils
_, line = processes.join_job(sys.argv[2].partition('=')[2], lambda: (None, {}))
print(jax.process_index(), jax.process_count(), jax.device_count())
total = multihost_utils.process_allgather(jax.numpy.ones(1)).sum()
print(f'\\n{total}')  # Gloo may have written a line without its end
"""


def test_two_processes_become_one_job(tmp_path):
  code, out, err = finish(
    pod(tmp_path, '', '', module=JOIN, flags=['--devices=3'])
  )
  assert code == 0, err
  for line in ('[0] 0 2 6', '[1] 1 2 6', '[0] 2.0', '[1] 2.0'):
    assert line in out.splitlines()
  assert 'BYOL_JAX_JOB_TOKEN is not set' not in out

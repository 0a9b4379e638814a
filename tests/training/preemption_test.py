"""Signals: a question for a loop, a tidy end for everything else."""

import os
import signal
import threading
import time

import jax
import pytest

from byol_jax import errors
from byol_jax.training import preemption
from tests.helpers import tiny_run

BOTH = (signal.SIGINT, signal.SIGTERM)


def send(number):
  """To this process, whose main thread handles it at once."""
  os.kill(os.getpid(), number)


@pytest.fixture
def stop():
  """Of a run whose first step was taken."""
  with preemption.StopRequest() as request:
    request.begun()
    yield request


@pytest.mark.parametrize('number', BOTH)
def test_a_signal_becomes_a_question(stop, number):
  assert stop.asked() is None
  send(number)
  assert stop.asked() == signal.Signals(number).name


def test_a_second_ctrl_c_interrupts_at_once(stop):
  send(signal.SIGINT)
  with pytest.raises(KeyboardInterrupt):
    send(signal.SIGINT)


def test_a_second_sigterm_still_waits(stop):
  """Schedulers repeat it; the state is to be saved."""
  send(signal.SIGTERM)
  send(signal.SIGTERM)
  assert stop.asked() == 'SIGTERM'


def test_a_wait_ends_at_a_signal_and_is_not_begun_after_one(stop):
  reached = []

  def wait(do):
    with stop.interruptible():
      do()
      reached.append(do)

  with pytest.raises(preemption.Stopped):
    wait(lambda: send(signal.SIGTERM))
  with pytest.raises(preemption.Stopped):
    wait(lambda: None)
  assert not reached


def test_a_signal_between_waits_interrupts_nothing(stop):
  with stop.interruptible():
    pass
  send(signal.SIGTERM)
  assert stop.asked() == 'SIGTERM'


@pytest.mark.parametrize('step', (None, 7))
def test_before_the_first_step_the_last_saved_one_stands(step):
  with preemption.StopRequest() as stop:
    stop.starts_from(step)
    with pytest.raises(errors.Preempted) as caught:
      send(signal.SIGTERM)
  text = 'nothing is saved yet' if step is None else 'step 7, saved before'
  assert text in str(caught.value) and caught.value.exit_code == 42


DEAF = """
import hashlib
from byol_jax.training import preemption
with preemption.StopRequest() as stop:
  stop.starts_from(12)
  print('waiting', flush=True)
  # A call that lasts for minutes and lets other threads run: a compilation.
  hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)
"""


def test_a_library_that_does_not_return_does_not_hold_the_process():
  process = tiny_run.start_python('-c', DEAF)
  while 'waiting' not in process.stdout.readline():
    assert process.poll() is None
  time.sleep(1)  # it says so just before the call
  process.send_signal(signal.SIGTERM)
  try:
    output, _ = process.communicate(timeout=60)
  finally:
    process.kill()
  assert process.returncode == 42, output
  assert 'step 12, saved before, stands' in output


@pytest.mark.parametrize('fails', (False, True))
def test_handlers_are_put_back(fails):
  before = [signal.getsignal(number) for number in BOTH]
  try:
    with preemption.StopRequest():
      assert [signal.getsignal(number) for number in BOTH] != before
      if fails:
        raise ValueError
  except ValueError:
    pass
  assert [signal.getsignal(number) for number in BOTH] == before
  assert signal.set_wakeup_fd(-1) == -1


def test_another_thread_leaves_signals_alone():
  before = [signal.getsignal(number) for number in BOTH]
  seen = []

  def work():
    with preemption.StopRequest(), preemption.unwinding():
      seen.append([signal.getsignal(number) for number in BOTH])

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert seen == [before]


def test_in_a_job_of_several_sigterm_stays_with_jax(monkeypatch):
  """Ctrl-C becomes what JAX listens to."""
  before = signal.getsignal(signal.SIGTERM)
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  heard = []
  previous = signal.signal(signal.SIGTERM, lambda *_: heard.append('SIGTERM'))
  try:
    ours = signal.getsignal(signal.SIGTERM)
    with preemption.StopRequest():
      assert signal.getsignal(signal.SIGTERM) is ours
      send(signal.SIGINT)
  finally:
    signal.signal(signal.SIGTERM, previous)
  assert heard == ['SIGTERM']
  assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize('resumable, code', ((False, 143), (True, 42)))
def test_sigterm_unwinds_so_that_half_a_file_is_removed(
  tmp_path, resumable, code
):
  half = tmp_path / 'half'
  before = signal.getsignal(signal.SIGTERM)

  def work():
    half.touch()
    try:
      send(signal.SIGTERM)
    finally:
      half.unlink()

  kinds = (SystemExit, errors.Preempted)
  with preemption.unwinding(resumable), pytest.raises(kinds) as caught:
    work()
  error = caught.value
  assert getattr(error, 'exit_code', getattr(error, 'code', None)) == code
  assert not half.exists()
  assert signal.getsignal(signal.SIGTERM) == before

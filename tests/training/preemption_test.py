"""Signals: a stop between steps for a loop, a clean end for other verbs."""

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


def handlers():
  return [signal.getsignal(number) for number in BOTH]


@pytest.fixture
def guard():
  """Of a run whose first step is done; puts back what it changes."""
  before = handlers()
  with preemption.PreemptionGuard() as guard:
    assert all(new != old for new, old in zip(handlers(), before))
    guard.first_step_done()
    yield guard
  assert handlers() == before
  assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize('number', BOTH)
def test_a_signal_becomes_a_request(guard, number):
  assert guard.requested() is None
  with guard.interruptible():
    pass
  send(number)  # between waits: interrupts nothing
  assert guard.requested() == signal.Signals(number).name
  # Schedulers repeat SIGTERM; the state is still to be saved.
  send(signal.SIGTERM)
  assert guard.requested() == 'SIGTERM'
  with pytest.raises(KeyboardInterrupt):
    send(signal.SIGINT)


def test_a_wait_ends_at_a_signal_and_does_not_begin_after_one(guard):
  reached = []

  def wait(work):
    with guard.interruptible():
      work()
      reached.append(work)

  with pytest.raises(preemption.WaitInterrupted):
    wait(lambda: send(signal.SIGTERM))
  with pytest.raises(preemption.WaitInterrupted):
    wait(lambda: None)
  assert not reached


@pytest.mark.parametrize('step', (None, 7))
def test_a_signal_before_the_first_step_leaves_the_last_checkpoint(step):
  before = handlers()
  with preemption.PreemptionGuard() as guard:
    guard.set_resume_step(step)
    with pytest.raises(errors.Preempted) as caught:
      send(signal.SIGTERM)
  text = 'nothing is saved yet' if step is None else 'step 7, saved before'
  assert text in str(caught.value) and caught.value.exit_code == 42
  assert handlers() == before


BLOCKED = """
import hashlib
from byol_jax.training import preemption
preemption._HANDLER_SECONDS = 0.3
with preemption.PreemptionGuard() as guard:
  guard.set_resume_step(12)
  print('waiting', flush=True)
  # A call that lasts for minutes and lets other threads run: a compilation.
  hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)
"""


def test_a_library_that_does_not_return_does_not_hold_the_process():
  process = tiny_run.start_python('-c', BLOCKED)
  while 'waiting' not in process.stdout.readline():
    assert process.poll() is None
  time.sleep(0.5)  # the line comes just before the call
  process.send_signal(signal.SIGTERM)
  output = tiny_run.finish(process, seconds=60, code=42)
  assert 'step 12, saved before' in output


def test_another_thread_leaves_signals_alone():
  before, seen = handlers(), []

  def work():
    with preemption.PreemptionGuard():
      seen.append(handlers())

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert seen == [before]


def test_in_a_job_of_several_processes_sigterm_stays_with_jax(monkeypatch):
  """Ctrl-C becomes the signal that JAX handles."""
  before = handlers()
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  received = []
  previous = signal.signal(signal.SIGTERM, lambda *_: received.append(1))
  try:
    of_jax = signal.getsignal(signal.SIGTERM)
    with preemption.PreemptionGuard():
      assert signal.getsignal(signal.SIGTERM) is of_jax
      send(signal.SIGINT)
  finally:
    signal.signal(signal.SIGTERM, previous)
  assert received == [1] and handlers() == before


@pytest.mark.parametrize('resumable, code', ((False, 143), (True, 42)))
def test_sigterm_unwinds_so_that_partial_files_are_removed(
  tmp_path, resumable, code
):
  partial, before = tmp_path / 'partial', handlers()

  def work():
    partial.touch()
    try:
      send(signal.SIGTERM)
    finally:
      partial.unlink()

  kinds = (SystemExit, errors.Preempted)
  with preemption.exit_on_sigterm(resumable), pytest.raises(kinds) as caught:
    work()
  error = caught.value
  assert getattr(error, 'exit_code', getattr(error, 'code', None)) == code
  assert not partial.exists() and handlers() == before

"""Signals once a step is done: a stop between steps."""

import os
import signal
import threading

import jax
import pytest

from byol_jax.training import preemption
from byol_jax.training.signals import NUMBERS


def send(number):
  """To this process, whose main thread handles it at once."""
  os.kill(os.getpid(), number)


def handlers():
  return [signal.getsignal(number) for number in NUMBERS]


@pytest.fixture
def guard():
  """Of a run whose first step is done; puts back what it changes."""
  before = handlers()
  with preemption.PreemptionGuard() as guard:
    assert handlers() == before  # until there is something to save
    guard.first_step_done()
    assert all(new != old for new, old in zip(handlers(), before))
    yield guard
  assert handlers() == before
  assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize('number', NUMBERS)
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


def test_another_thread_leaves_signals_alone():
  before, seen = handlers(), []

  def work():
    with preemption.PreemptionGuard() as guard:
      guard.first_step_done()
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
    with preemption.PreemptionGuard() as guard:
      guard.first_step_done()
      assert signal.getsignal(signal.SIGTERM) is of_jax
      send(signal.SIGINT)
  finally:
    signal.signal(signal.SIGTERM, previous)
  assert received == [1] and handlers() == before

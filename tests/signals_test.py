"""Signals: a question for a loop, a tidy end for everything else."""

import os
import signal
import threading

import jax
import pytest

from byol_jax import signals

BOTH = (signal.SIGINT, signal.SIGTERM)


def send(number):
  """To this process, whose main thread handles it at once."""
  os.kill(os.getpid(), number)


@pytest.mark.parametrize('number', BOTH)
def test_a_signal_becomes_a_question(number):
  with signals.StopRequest() as stop:
    assert stop.signal is None
    send(number)
    assert stop.signal == signal.Signals(number).name


def test_a_second_ctrl_c_interrupts_at_once():
  with signals.StopRequest():
    send(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
      send(signal.SIGINT)


def test_a_second_sigterm_still_waits():
  """Schedulers repeat it; the state is to be saved."""
  with signals.StopRequest() as stop:
    send(signal.SIGTERM)
    send(signal.SIGTERM)
    assert stop.signal == 'SIGTERM'


@pytest.mark.parametrize('fails', (False, True))
def test_handlers_are_put_back(fails):
  before = [signal.getsignal(number) for number in BOTH]
  try:
    with signals.StopRequest():
      assert [signal.getsignal(number) for number in BOTH] != before
      if fails:
        raise ValueError
  except ValueError:
    pass
  assert [signal.getsignal(number) for number in BOTH] == before


def test_another_thread_and_a_job_of_several_leave_signals_alone(monkeypatch):
  before = [signal.getsignal(number) for number in BOTH]
  seen = []

  def work():
    with signals.StopRequest(), signals.unwinding():
      seen.append([signal.getsignal(number) for number in BOTH])

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  with signals.StopRequest():
    seen.append([signal.getsignal(number) for number in BOTH])
  assert seen == [before, before]


def test_sigterm_unwinds_so_that_half_a_file_is_removed(tmp_path):
  half = tmp_path / 'half'
  before = signal.getsignal(signal.SIGTERM)

  def work():
    half.touch()
    try:
      send(signal.SIGTERM)
    finally:
      half.unlink()

  with signals.unwinding(), pytest.raises(SystemExit) as caught:
    work()
  assert caught.value.code == 143
  assert not half.exists()
  assert signal.getsignal(signal.SIGTERM) == before

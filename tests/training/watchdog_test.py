"""A run that no longer moves ends, with the stacks of its threads."""

import signal

import pytest

from byol_jax.training import watchdog
from tests.helpers import tiny_run

# Sleeps for minutes; Python runs meanwhile, or does not.
STILL = """
import ctypes, sys, threading, time
from byol_jax.training import watchdog
watchdog._MARGIN = 1.0
dog = watchdog.Watchdog(1.0)
def other_thread():
  time.sleep(300)
threading.Thread(target=other_thread, daemon=True).start()
dog.feed(41)
dog.feed(42)
print('hung', flush=True)
def hung_collective():
  if sys.argv[1] == 'deaf':
    ctypes.PyDLL(None).sleep(300)  # holds Python's lock
  time.sleep(300)
hung_collective()
"""


@pytest.mark.parametrize('how', ('hearing', 'deaf'))
def test_a_run_that_hangs_ends_with_all_stacks(how):
  process = tiny_run.start_python('-c', STILL, how)
  try:
    output, _ = process.communicate(timeout=60)
  finally:
    process.kill()
  assert 'hung' in output
  assert 'in hung_collective' in output and 'in other_thread' in output
  if how == 'hearing':
    assert process.returncode == watchdog.EXIT_CODE == 142
    assert 'no step for 1 s (faults.stall_seconds) after step 42' in output
  else:
    assert process.returncode == -signal.SIGALRM  # 142 to a shell


LIVELY = """
import time
from byol_jax.training import watchdog
watchdog._MARGIN = 0.5
dog = watchdog.Watchdog({seconds})
time.sleep(1.5)  # compiling: not yet armed
for step in range(15):
  dog.feed(step)
  time.sleep(0.2)
dog.close()
time.sleep(3)
print('alive')
"""


def test_a_run_that_moves_or_has_ended_is_left_alone():
  started = [
    tiny_run.start_python('-c', LIVELY.format(seconds=seconds))
    for seconds in (1.0, 0)
  ]
  assert [tiny_run.finish(run) for run in started] == ['alive\n', 'alive\n']

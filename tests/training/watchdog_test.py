"""A process without progress ends, with the stacks of its threads."""

import signal

from byol_jax.training import watchdog
from tests.helpers import tiny_run

# Sleeps for minutes; other threads run meanwhile, or none does.
HANGING = """
import ctypes, sys, threading, time
from byol_jax.training import watchdog
watchdog._MARGIN = 1.0
guard = watchdog.Watchdog(1.0)
def other_thread():
  time.sleep(300)
threading.Thread(target=other_thread, daemon=True).start()
guard.step_done(41)
guard.step_done(42)
with guard.paused():
  pass
print('hanging', flush=True)
def hanging_collective():
  if sys.argv[1] == 'locked':
    ctypes.PyDLL(None).sleep(300)  # holds Python's global lock
  time.sleep(300)
hanging_collective()
"""
MOVING = """
import time
from byol_jax.training import watchdog
watchdog._MARGIN = 0.5
guards = [watchdog.Watchdog(seconds) for seconds in (0, 1.0)]
guards[1].restart()
time.sleep(1.2)  # compiling: not yet armed
for i in range(16):
  for guard in guards:
    guard.step_done(i) if i < 8 else guard.restart()
  time.sleep(0.15)
with guards[0].paused(), guards[1].paused():  # an evaluation
  time.sleep(1.5)
guards[1].step_done(16)
for guard in guards:
  guard.close()
time.sleep(2.2)
print('alive')
"""


def test_a_process_ends_without_progress_only():
  free, locked, moving = (
    tiny_run.start_python('-c', code, how)
    for code, how in ((HANGING, 'free'), (HANGING, 'locked'), (MOVING, ''))
  )
  assert watchdog.EXIT_CODE == 142
  # An alarm ends the second one: 142 to a shell.
  for process, code in ((free, 142), (locked, -signal.SIGALRM)):
    output = tiny_run.finish(process, seconds=60, code=code)
    assert 'hanging\n' in output
    assert 'in hanging_collective' in output and 'in other_thread' in output
    said = 'no step for 1 s (faults.stall_seconds)' in output
    assert said == (process is free)
  assert tiny_run.finish(moving) == 'alive\n'

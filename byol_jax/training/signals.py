"""Ends the process at a signal while there is no step to save.

The first statement of `byol_jax.__main__` imports this, so it imports nothing
that takes time. Once a run has made its first step, `preemption` takes over.
"""

from collections.abc import Iterator
import contextlib
import os
import signal
import sys
import threading
import time
from types import FrameType

from byol_jax import errors

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# First words of the verbs whose same command continues, or repeats.
RESUMABLE_VERBS = (
  *('pretrain', 'knn', 'linear', 'online', 'finetune', 'semisup', 'report'),
  *('transfer', 'suite', 'watch'),
)
# Seconds after which a thread acts, where Python handles no signal: XLA
# compiles, or a file system does not answer.
_HANDLER_SECONDS = 2.0

_installed: 'SignalExit | None' = None


class SignalExit:
  """A signal handler that ends the process, with one line on standard error.

  Nothing is half-written then, or it is written under another name: so it
  ends at once, without the interpreter's cleanup, in which an import or a
  library may swallow an exception. Only within `unwinding` is an exception
  raised.
  """

  def __init__(self, verb: str):
    """Makes the handler for a verb, of which the first word counts."""
    self._is_resumable = verb in RESUMABLE_VERBS
    self._first = threading.Lock()  # held from the first signal on
    self._is_unwinding = False

  def __call__(self, number: int, frame: FrameType | None) -> None:
    """Handles a signal in the main thread.

    Raises:
      SystemExit: the first signal, within `unwinding` and outside of imports.
    """
    is_first = not self._first.locked()
    self._print_once(number)
    if is_first and self._is_unwinding and not _is_importing(frame):
      raise SystemExit(self._exit_code(number))
    os._exit(self._exit_code(number))

  @contextlib.contextmanager
  def unwinding(self) -> Iterator[None]:
    """Lets a signal unwind the block, so that its partial files go.

    Not for verbs that resume, whose files are whole at any time.
    """
    self._is_unwinding = not self._is_resumable
    try:
      yield
    finally:
      self._is_unwinding = False

  def exit_late(self, number: int) -> None:
    """Ends the process in a thread, unless the main thread has the signal."""
    time.sleep(_HANDLER_SECONDS)
    if not self._first.locked():
      self._print_once(number)
      os._exit(self._exit_code(number))

  def _exit_code(self, number: int) -> int:
    return errors.Preempted.exit_code if self._is_resumable else 128 + number

  def _print_once(self, number: int) -> None:
    if not self._first.acquire(blocking=False):
      return
    text = f'byol_jax: {signal.Signals(number).name}'
    if self._is_resumable:
      text += ': what was saved before stays; the same command resumes'
    with contextlib.suppress(OSError):  # the terminal may be gone
      os.write(2, f'{text}\n'.encode())


def install(name: str) -> None:
  """Makes signals end this program; those that it shall ignore stay so.

  Args:
    name: the `__name__` of a module that is the program, or is imported by the
      script `byol-jax`; in any other program nothing is installed.
  """
  global _installed
  if name != '__main__' and os.path.basename(sys.argv[0]) != 'byol-jax':
    return
  verb = sys.argv[1] if len(sys.argv) > 1 else ''
  _installed = handler = SignalExit(verb)
  for number in list_handled():
    signal.signal(number, handler)
  # Python's handler in C writes the number of each signal to a pipe at once.
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

  def watch() -> None:
    while octet := os.read(reader, 1):
      if octet[0] in NUMBERS:
        handler.exit_late(octet[0])

  threading.Thread(target=watch, name='signals', daemon=True).start()


def list_handled() -> list[signal.Signals]:
  """Returns the signals to handle: without those ignored, as `nohup` does."""
  return [n for n in NUMBERS if signal.getsignal(n) is not signal.SIG_IGN]


def unwinding() -> contextlib.AbstractContextManager[None]:
  """See `SignalExit.unwinding`; without an effect in other programs."""
  return _installed.unwinding() if _installed else contextlib.nullcontext()


def _is_importing(frame: FrameType | None) -> bool:
  """Returns whether a module is imported or a configuration's file runs."""
  while frame is not None:
    code = frame.f_code
    # An error of a configuration's file becomes one of ours.
    if code.co_filename == '<frozen importlib._bootstrap>' or (
      code.co_filename == '<frozen runpy>' and code.co_name == 'run_path'
    ):
      return True
    frame = frame.f_back
  return False

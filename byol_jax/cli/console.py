"""What a verb says on the terminal, besides its results."""

import logging
import os
import select
import sys

_SIGPIPE = 141  # as a shell reports it


class Once(logging.Filter):
  """Lets a message pass the first time: several splits may open a folder."""

  def __init__(self) -> None:
    super().__init__()
    self.seen: set[str] = set()

  def filter(self, record: logging.LogRecord) -> bool:
    """False for what was said before."""
    text = record.getMessage()
    new = text not in self.seen
    self.seen.add(text)
    return new


def start() -> None:
  """Warnings go to standard error, each once."""
  handler = logging.StreamHandler()
  handler.addFilter(Once())
  logging.basicConfig(format='%(message)s', handlers=[handler])


def has_reader() -> bool:
  """Whether standard output still leads somewhere."""
  poll = select.poll()
  poll.register(sys.stdout.fileno(), 0)
  return not any(event & select.POLLERR for _, event in poll.poll(0))


def part(code: int) -> None:
  """Ends one process of several at once, with this exit code.

  For an error of its own: JAX would have it wait for the others to end, while
  they wait for it in a sum over all devices.
  """
  jax = sys.modules.get('jax')
  if jax is not None and jax.distributed.is_initialized():
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def reader_left() -> int:
  """The exit code when whoever read our output has gone (`... | head`)."""
  # Python flushes at its end, into the same broken pipe.
  os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  return _SIGPIPE

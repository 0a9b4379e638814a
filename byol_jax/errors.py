"""Errors that a user can fix: one class for each exit code.

The message is one line: the key or file, what was expected, what was found and
what to do. The command line prints it without a traceback.
"""

from collections.abc import Iterator
import contextlib
import importlib.util
import os
import re

# TensorStore puts the system's error number at the end of a long line.
_OS_ERROR = re.compile(r"\[os_error_code='(\d+)'\]")


def first_line(error: BaseException) -> str:
  """Returns the type of an exception and the first line of its message.

  The operating system's message, where the text has only its number, comes
  first. Control characters are escaped; at most 300 characters are kept.
  """
  line = (str(error).splitlines() or [''])[0]
  code = _OS_ERROR.search(line)
  if code is not None:
    line = f'{os.strerror(int(code[1]))}: {line}'
  return f'{type(error).__name__}: {to_line(line)[:300]}'


def to_line(text: str) -> str:
  """Returns a text as one line that a terminal can show.

  Control characters are escaped; of more than 4,000 characters the middle is
  left out.
  """
  shown = (c if c.isprintable() else repr(c)[1:-1] for c in _cut(text))
  return _cut(''.join(shown))


def format_count(count: int, noun: str) -> str:
  """Returns e.g. '1 image', '1,000 images', '2 processes'."""
  plural = 'es' if noun.endswith('s') else 's'
  return f'{count:,} {noun}' + plural * (count != 1)


def _cut(text: str) -> str:
  return text if len(text) <= 4000 else f'{text[:3000]} ... {text[-900:]}'


def quote(text: object) -> str:
  """Returns `repr` of a text from outside, at most 200 characters.

  For file names, keys and values in messages: control characters are escaped,
  and what is cut off ends in '...'. A path is shown as its text.
  """
  shown = repr(os.fspath(text) if isinstance(text, os.PathLike) else text)
  return shown if len(shown) <= 200 else shown[:197] + '...'


class UserError(Exception):
  """An error that the user can fix; the process exits with `exit_code`.

  Its text is one line that a terminal can show, whatever it quotes.
  """

  exit_code = 1
  # In a job of several processes: whether all of them raise it at this point.
  is_everywhere = False

  def __str__(self) -> str:
    """Returns the message as one line; see `to_line`."""
    return to_line(super().__str__())


class CheckFailed(UserError):
  """A comparison was completed and did not hold."""

  exit_code = 1


class ConfigError(UserError):
  """A value of the configuration or the command line cannot be used."""

  exit_code = 2


class DataError(UserError):
  """Images, labels, a checkpoint or a working directory cannot be used."""

  exit_code = 3


@contextlib.contextmanager
def as_data_error(what: str, advice: str = '') -> Iterator[None]:
  """Makes a DataError of whatever a library raises, in one line.

  Args:
    what: the file, and what it is not; the library's reason follows.
    advice: what to do, at the end.

  Raises:
    DataError: something was raised; a UserError passes.
  """
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    raise DataError(f'{what}: {first_line(error)}{advice}') from error


class DivergedError(UserError):
  """Too many steps in a row were not finite."""

  exit_code = 4


class Preempted(UserError):
  """A signal stopped the run; its state is saved."""

  exit_code = 42


def require_package(name: str, *, extra: str) -> None:
  """Raises ConfigError if a package of an extra of setup.py is missing."""
  if importlib.util.find_spec(name) is None:
    raise ConfigError(
      f"{name} is not installed: pip install 'byol_jax[{extra}]'"
    )

"""What may go wrong in a user's hands, and the exit code that says so.

Each error is one line: the key or file, what was expected, what was found and
what to do. `__main__` prints it without a traceback.
"""

import os
import re

# TensorStore says at the end of a long line what the system said.
_CODE = re.compile(r"\[os_error_code='(\d+)'\]")


def first_line(error: BaseException) -> str:
  """Its type, the system's word if there is one, and the first line of it."""
  line = (str(error).splitlines() or [''])[0]
  code = _CODE.search(line)
  if code is not None:
    line = f'{os.strerror(int(code[1]))}: {line}'
  return f'{type(error).__name__}: {line[:300]}'


class UserError(Exception):
  """An error that the user can mend; `exit_code` is the process's."""

  exit_code = 1
  # In a job of several processes: whether all of them raise it here and now.
  is_everywhere = False


class CheckFailed(UserError):
  """A comparison ran to its end and did not hold."""

  exit_code = 1


class ConfigError(UserError):
  """A value of the configuration or the command line cannot be used."""

  exit_code = 2


class DataError(UserError):
  """Images, labels, a checkpoint or a working directory cannot be used."""

  exit_code = 3


class DivergedError(UserError):
  """Step after step was not finite."""

  exit_code = 4


class Preempted(UserError):
  """A signal asked the run to stop; its state is saved."""

  exit_code = 42

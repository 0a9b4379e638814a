"""What may go wrong in a user's hands, and the exit code that says so.

Each error is one line: the key or file, what was expected, what was found and
what to do. `__main__` prints it without a traceback.
"""


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

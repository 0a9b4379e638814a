"""`byol-jax VERB ...`: runs a verb of `cli/verbs.py`.

An error that a user can correct is one line on standard error and an exit code
of `byol_jax.errors`. A signal is one line too, from the first statement on.
"""

from byol_jax.training import signals

signals.install(__name__)

# ruff: noqa: E402
from collections.abc import Sequence
import gc
import os
import sys
from typing import NoReturn

from byol_jax import errors
from byol_jax.cli import compilation_cache, console, verbs

# Quiet before any import of TensorFlow or XLA.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a verb and returns the exit code."""
  # Imports and tracing make many objects that stay: Python's default of 700
  # looks through them a thousand times before the first step.
  gc.set_threshold(10_000)
  console.show_warnings()
  console.escape_output()
  try:
    argv = sys.argv[1:] if argv is None else argv
    verb, arguments = console.parse(argv, verbs.VERBS)
    compilation_cache.enable()
    with signals.unwinding():
      verb.run(**arguments)
  except errors.UserError as error:
    console.print_error(str(error))
    if not error.is_everywhere:
      console.exit_without_barrier(error.exit_code)
    return error.exit_code
  except KeyboardInterrupt:
    console.print_error('interrupted')
    return 130
  except BrokenPipeError:
    if console.has_reader():
      raise
    return console.broken_pipe_exit_code()
  return 0


def run() -> NoReturn:
  """Runs the command line of this process, and ends it."""
  console.end_process(main())


if __name__ == '__main__':
  run()

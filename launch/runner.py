"""The one door to the outside: every command passes a `Runner`."""

from collections.abc import Callable, Sequence
import os
import shlex
import subprocess
import sys
from typing import NamedTuple

TIMED_OUT = 124


class Result(NamedTuple):
  """Of a command."""

  code: int
  out: str = ''
  err: str = ''

  @property
  def reason(self) -> str:
    """The last lines of what it complained about."""
    lines = [line for line in self.err.splitlines() if line.strip()]
    return '; '.join(lines[-3:]) or f'exit code {self.code}'


class Runner:
  """Runs commands in the checkout's folder."""

  def __init__(self, folder: str) -> None:
    self.folder = folder

  def __call__(
    self,
    argv: Sequence[str],
    *,
    seconds: float = 600,
    text: str | None = None,
    shown: bool = False,
  ) -> Result:
    """Runs a command to its end.

    Args:
      argv: the program and its arguments; no shell is between.
      seconds: after which it is killed, with the code of `timeout`.
      text: for its standard input.
      shown: whether what it prints goes to the terminal.
    """
    pipe = None if shown else subprocess.PIPE
    try:
      done = subprocess.run(
        argv,
        cwd=self.folder,
        timeout=seconds,
        input=text,
        stdin=subprocess.DEVNULL if text is None else None,
        stdout=pipe,
        stderr=pipe,
        text=True,
        errors='replace',
        check=False,
      )
    except FileNotFoundError:
      return Result(127, err=f'{argv[0]}: not found on this machine')
    except subprocess.TimeoutExpired:
      return Result(TIMED_OUT, err=f'{argv[0]}: no end after {seconds:g} s')
    return Result(done.returncode, done.stdout or '', done.stderr or '')

  def make_folder(self, path: str) -> None:
    """Makes a folder below the checkout."""
    os.makedirs(os.path.join(self.folder, path), exist_ok=True)


class Rehearsal(Runner):
  """Prints each command and runs none.

  `answer` plays the other side, so that the same code goes on.
  """

  def __init__(self, answer: Callable[[Sequence[str]], Result]) -> None:
    super().__init__('.')
    self.answer = answer

  def __call__(
    self,
    argv: Sequence[str],
    *,
    seconds: float = 600,
    text: str | None = None,
    shown: bool = False,
  ) -> Result:
    """Prints a command as a shell takes it."""
    del seconds, shown
    print(shlex.join(argv), *([text] if text else []), sep='\n')
    sys.stdout.flush()
    return self.answer(argv)

  def make_folder(self, path: str) -> None:
    """Prints how."""
    print(shlex.join(['mkdir', '-p', path]))

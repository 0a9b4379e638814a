"""A fixture that runs the verb of a test module."""

import pytest

from byol_jax import __main__ as command


@pytest.fixture
def run(request, capsys):
  """run(*arguments) -> (exit code, standard output, standard error).

  Runs `data check` in check_test and `data prepare` in prepare_test.
  """
  verb = request.path.stem.removesuffix('_test')

  def call(*arguments):
    code = command.main(['data', verb, *map(str, arguments)])
    return code, *capsys.readouterr()

  return call

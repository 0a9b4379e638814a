"""Errors: their exit codes, and the one line that is shown of another's."""

import pytest

from byol_jax import errors


def test_each_error_has_its_exit_code():
  codes = {kind: kind.exit_code for kind in errors.UserError.__subclasses__()}
  assert codes == {
    errors.CheckFailed: 1,
    errors.ConfigError: 2,
    errors.DataError: 3,
    errors.DivergedError: 4,
    errors.Preempted: 42,
  }


@pytest.mark.parametrize(
  'text, line',
  [
    ('', 'OSError: '),
    ('first\nsecond', 'OSError: first'),
    ('x' * 400, 'OSError: ' + 'x' * 300),
    (
      "writing [os_error_code='28'] [source='file']",
      "OSError: No space left on device: writing [os_error_code='28']"
      " [source='file']",
    ),
  ],
)
def test_the_first_line_of_an_exception(text, line):
  assert errors.first_line(OSError(text)) == line

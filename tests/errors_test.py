"""The one line that is shown of an exception of another library."""

import pytest

from byol_jax import errors


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

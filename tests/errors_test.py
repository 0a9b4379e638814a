"""Foreign texts in messages: one line, escaped, cut."""

from pathlib import Path

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


@pytest.mark.parametrize(
  'text, shown',
  [
    ('a b', "'a b'"),
    ('é\n\x1b[2J\u202e\udcff', r"'é\n\x1b[2J\u202e\udcff'"),
    (Path('a\nb'), r"'a\nb'"),
    (b'\xff', r"b'\xff'"),
    ('x' * 198, repr('x' * 198)),
    ('x' * 10**6, "'" + 'x' * 196 + '...'),
    ('\x1b' * 10**3, "'" + r'\x1b' * 49 + '...'),
    ([1.5, None], '[1.5, None]'),
  ],
)
def test_foreign_text_in_a_message_is_escaped_and_cut(text, shown):
  assert errors.quote(text) == shown

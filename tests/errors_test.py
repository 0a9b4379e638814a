"""Foreign texts in messages: one line, escaped, cut."""

import logging
from pathlib import Path
import re

import numpy as np
import pytest

from byol_jax import __main__ as command, errors
from byol_jax.cli import console
from tests.helpers import tiny_folder


@pytest.mark.parametrize(
  'text, line',
  [
    ('', 'OSError: '),
    ('first\nsecond', 'OSError: first'),
    ('a\x1b[2J\tb', r'OSError: a\x1b[2J\tb'),
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


def test_one_is_written_in_the_singular():
  found = [errors.format_count(count, 'image') for count in (0, 1, 1000)]
  assert found == ['0 images', '1 image', '1,000 images']
  assert errors.format_count(2, 'process') == '2 processes'


HOSTILE = 'a\n\x1b[2J\u202e\x07.jpg'


@pytest.mark.parametrize(
  'code, arguments',
  [
    (1, ('data', 'check', 'set')),  # names a broken image
    (3, ('data', 'check', HOSTILE)),
    (1, ('conformance', 'vectors')),  # names a key
    (2, ('pretrain', '--config=' + HOSTILE)),
    (2, ('pretrain', '--config=shapes', '--config.dataset=' + HOSTILE * 10**5)),
    (2, ('pretrain', '--config=shapes', '--config.seed=' + '\x1b' * 10**6)),
    (2, ('pretrain', '--config=shapes', '--config.' + HOSTILE * 10**5 + '=1')),
    (2, (HOSTILE * 10**5,)),
    (3, ('knn', '--workdir=' + HOSTILE)),
  ],
)
def test_a_terminal_gets_short_lines_without_control_characters(
  tmp_path, monkeypatch, capfd, code, arguments
):
  monkeypatch.chdir(tmp_path)
  tiny_folder.write(tmp_path / 'set')
  (tmp_path / 'set' / 'ant' / HOSTILE).write_bytes(b'no image')
  (tmp_path / 'vectors').mkdir()
  np.savez(tmp_path / 'vectors' / 'primitives.npz', **{HOSTILE: np.zeros(2)})
  if arguments[0] == 'pretrain':
    arguments = (*arguments, '--workdir=run')
  assert command.main(arguments) == code
  output, error = capfd.readouterr()
  assert re.fullmatch(r'byol_jax: [\x20-\x7e]{1,5000}\n', error)
  assert re.fullmatch(r'([\x20-\x7e]{0,5000}\n)*', output)
  assert not (tmp_path / 'run').exists()


def test_a_warning_is_one_line(monkeypatch, capsys):
  monkeypatch.setattr(logging.root, 'handlers', [])
  console.show_warnings()
  logging.getLogger('any').warning('%s cannot be used', HOSTILE)
  shown = r'a\n\x1b[2J\u202e\x07.jpg cannot be used'
  assert capsys.readouterr().err == shown + '\n'

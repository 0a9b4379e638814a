import logging

from byol_jax.cli import console
from tests.helpers import tiny_run


def test_a_warning_is_given_once():
  once = console.Once()
  record = lambda text: logging.LogRecord('x', 30, 'x', 1, text, (), None)
  passed = [once.filter(record(text)) for text in ('a', 'b', 'a', 'a')]
  assert passed == [True, True, False, False]


def test_a_reader_that_leaves_is_no_traceback():
  """As in `python -m byol_jax --help | head -1`."""
  code = '''
import os, sys
from byol_jax import __main__ as command
reader, writer = os.pipe()
os.close(reader)
os.dup2(writer, 1)
def verb(arguments, rest):
  """Prints a lot."""
  print('x' * 100_000, flush=True)
command.VERBS = {**command.VERBS, 'conformance': verb}
print(command.main(['conformance', '.']), file=sys.stderr)
'''
  process = tiny_run.start_python('-c', code)
  output = tiny_run.finish(process)
  assert '141' in output and 'Traceback' not in output

"""Arguments, help, warnings and a reader that leaves."""

import logging

import pytest

from byol_jax import __main__ as command, errors
from byol_jax.cli import console, verbs
from tests.helpers import tiny_run


@pytest.mark.parametrize(
  'words, known',
  (
    ('', 'python -m byol_jax --help'),
    ('pretrian', "'pretrian' .*'pretrain', 'knn'"),
    ('knn', '--workdir; see python -m byol_jax knn --help'),
    ('pretrain --workdir=x', '--config'),
    ('knn --work=x', '--workdir'),
    ('report --workdir=x --frob', "unknown argument '--frob'"),
    ('conformance x y', "unknown argument 'y'"),
    ('data', 'VERB; see python -m byol_jax data --help'),
    ('data --split=x', 'VERB; see python -m byol_jax data --help'),
    ('data chek', "'chek' .*'prepare', 'check'"),
    ('prepare', "'prepare' .*'pretrain'"),
    ('data prepare x', 'OUTPUT; see .* data prepare --help'),
    ('knn --workdir=x --startup_seconds=0', "--startup_seconds: .*'0'"),
    ('bench input --config=shapes --rounds=x', "--rounds: .*'x'"),
  ),
)
def test_a_wrong_argument_is_named_with_what_is_known(words, known):
  with pytest.raises(errors.ConfigError, match=known) as caught:
    console.parse(words.split(), verbs.VERBS)
  assert '\n' not in str(caught.value)


def test_arguments_have_the_types_of_their_defaults():
  parse = lambda words: console.parse(words.split(), verbs.VERBS)[1]
  found = parse('data prepare in out --shorter_side=9 --max_bad_share=0.5')
  assert found == {
    **{'source': 'in', 'output': 'out', 'name': None, 'shorter_side': 9},
    **{'quality': 95, 'max_bad_share': 0.5, 'num_threads': 0},
  }
  found = parse('bench input --config=shapes --json --config.seed=3')
  overrides = ['--config.seed=3']
  assert found == {
    **{'spec': 'shapes', 'overrides': overrides, 'as_json': True},
    **{'rounds': 5, 'cores': 0},
  }
  found = parse('knn --workdir=x --heartbeat_seconds=7')
  assert found == {
    **{'spec': 'evals/knn', 'overrides': [], 'workdir': 'x'},
    **{'distributed': 'none', 'startup_seconds': 300, 'heartbeat_seconds': 7},
  }


@pytest.mark.parametrize('verb', ('', 'data', 'bench', *verbs.VERBS))
def test_help_explains(capsys, verb):
  with pytest.raises(SystemExit) as caught:
    command.main([*verb.split(), '--help'])
  assert caught.value.code == 0
  text = capsys.readouterr().out
  assert f'usage: python -m byol_jax {verb}'.rstrip() in text
  assert all(len(line) <= 80 for line in text.splitlines())
  if verb in verbs.VERBS:
    assert verbs.VERBS[verb].run.__doc__.splitlines()[0] in text
    keys = '--config.batch_size=' in text
    assert keys == (verbs.VERBS[verb].preset is not None)


def test_a_warning_is_given_once():
  once = console.WarnOnce()
  record = lambda text: logging.LogRecord('x', 30, 'x', 1, text, (), None)
  passed = [once.filter(record(text)) for text in ('a', 'b', 'a', 'a')]
  assert passed == [True, True, False, False]


def test_a_reader_that_leaves_is_no_traceback():
  """As in `python -m byol_jax --help | head -1`."""
  code = """
import os, sys
from byol_jax import __main__ as command
from byol_jax.cli import verbs
reader, writer = os.pipe()
os.close(reader)
os.dup2(writer, 1)
verb = verbs.VERBS['conformance']
run = lambda **unused: print('x' * 100_000, flush=True)
verbs.VERBS['conformance'] = verb._replace(run=run)
print(command.main(['conformance', '.']), file=sys.stderr)
"""
  output = tiny_run.finish(tiny_run.start_python('-c', code))
  assert '141' in output and 'Traceback' not in output

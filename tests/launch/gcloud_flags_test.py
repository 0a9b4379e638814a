"""Every flag of gcloud that is used is cited, and known to a real gcloud."""

import itertools
import os
import re
import shlex
import shutil
import subprocess

import pytest

from launch import gcloud
from tests.helpers import pods

GOLDEN = pods.ROOT / 'tests' / 'launch' / 'golden'
README = pods.ROOT / 'launch' / 'README.md'


def flags(words):
  return {word.partition('=')[0] for word in words if word.startswith('--')}


def used():
  """Verb -> flags of it in the stored dry runs."""
  found = {}
  for path in GOLDEN.glob('*.sh'):
    for line in path.read_text().splitlines():
      words = shlex.split(line, comments=True)
      if words[:1] == ['gcloud']:
        assert words[1:4] == ['compute', 'tpus', 'queued-resources']
        found.setdefault(words[4], set()).update(flags(words))
  return found


def test_each_flag_in_the_dry_runs_has_its_reference_page():
  found = used()
  assert found.keys() == gcloud.FLAGS.keys()
  for verb, names in found.items():
    assert names == gcloud.FLAGS[verb].keys(), verb
  for verb, pages in gcloud.FLAGS.items():
    for flag, page in pages.items():
      address = 'https://cloud.google.com/sdk/gcloud/reference'
      own = f'{address}/compute/tpus/queued-resources/{verb}#{flag}'
      assert page in (own, address)


def documented():
  """Commands of gcloud in the README, up to their first name -> flags."""
  text = README.read_text().replace('\\\n', ' ')
  found = {}
  for line in re.findall(r'^gcloud .*$', text, re.MULTILINE):
    words = shlex.split(line, comments=True)
    names = itertools.takewhile(re.compile('[a-z][-a-z]*$').match, words[1:])
    verbs = [*names]
    found.setdefault(tuple(verbs), set()).update(flags(words))
  return found


def help_text(folder, *words):
  """What the installed gcloud says of a command, on one line."""
  done = subprocess.run(
    ['gcloud', *words, '--help'],
    capture_output=True,
    text=True,
    timeout=300,
    env={
      **os.environ,
      'CLOUDSDK_CONFIG': str(folder),
      'CLOUDSDK_CORE_DISABLE_USAGE_REPORTING': '1',
    },
    check=False,
  )
  assert done.returncode == 0, (words, done.stderr)
  return re.sub(r'\x1b\[[0-9;]*m', '', done.stdout)


def assert_known(folder, verbs, names):
  text = help_text(folder, *verbs)
  known = {*re.findall(r'--[a-z][-a-z]*', text)}
  assert names <= known, (verbs, names - known)


REAL = pytest.mark.skipif(
  shutil.which('gcloud') is None, reason='no gcloud on this machine'
)


@REAL
@pytest.mark.parametrize('verb', gcloud.FLAGS)
def test_a_real_gcloud_knows_each_flag(tmp_path, verb):
  verbs = ('compute', 'tpus', 'queued-resources', verb)
  assert_known(tmp_path, verbs, {*gcloud.FLAGS[verb]})


@REAL
@pytest.mark.slow
def test_a_real_gcloud_knows_the_commands_of_the_readme(tmp_path):
  commands = documented()
  assert len(commands) >= 4
  for verbs, names in commands.items():
    if names:
      assert_known(tmp_path, verbs, names)

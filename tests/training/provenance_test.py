"""What a run is made of: every value, every package, every line of code."""

import os
import shutil
import subprocess
import sys

from byol_jax.training import provenance
from tests.helpers import tiny_run


def test_what_processes_must_share_is_every_value_the_packages_and_the_code():
  config = {'a': {'b': 1.0}, 'data_dir': '/x', 'c': (1, 2)}
  facts = provenance.facts(config)
  assert facts['config.a.b'] == '1.0' and facts['config.c'] == '[1, 2]'
  # Each host may have the data elsewhere, and another kernel.
  assert not {'config.data_dir', 'platform'} & facts.keys()
  assert facts['jax'] == provenance.versions()['jax']
  assert facts['code'] == provenance.code_digest()


def test_the_digest_of_the_code_sees_every_file(tmp_path):
  """As two hosts see it: the package, and a copy with one word changed."""
  root = tiny_run.ROOT / 'byol_jax'
  digests = set()
  for name, change in (('same', ''), ('other', '# a word')):
    copy = tmp_path / name / 'byol_jax'
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns('__pycache__'))
    with open(copy / 'data' / 'sampling' / 'crops.py', 'a') as file:
      file.write(change)
    found = subprocess.run(
      [
        *(sys.executable, '-c'),
        'from byol_jax.training import provenance;'
        ' print(provenance.code_digest())',
      ],
      cwd=tmp_path / name,
      env={**os.environ, 'PYTHONPATH': ''},
      capture_output=True,
      text=True,
      check=True,
    )
    digests.add(found.stdout.strip())
  assert len(digests) == 2 and provenance.code_digest() in digests

"""What a run is made of: each value, each package, each file of the code."""

import shutil

from byol_jax.training import provenance
from tests.helpers import tiny_run


def test_processes_must_share_each_value_the_packages_and_the_code():
  config = {'a': {'b': 1.0}, 'data_dir': '/x', 'c': (1, 2)}
  facts = provenance.describe_job(config)
  assert facts['config.a.b'] == '1.0' and facts['config.c'] == '[1, 2]'
  # Each host may have the data elsewhere, and another kernel.
  assert not {'config.data_dir', 'platform'} & facts.keys()
  assert facts['jax'] == provenance.list_versions()['jax']
  assert facts['code'] == provenance.digest_code()


def test_the_digest_of_the_code_depends_on_each_file(tmp_path, monkeypatch):
  """As another host would compute it: of a copy, and with one change."""
  expected = provenance.digest_code()
  root = tmp_path / 'byol_jax'
  shutil.copytree(
    tiny_run.ROOT / 'byol_jax',
    root,
    ignore=shutil.ignore_patterns('__pycache__'),
  )
  monkeypatch.setattr(
    provenance, '__file__', str(root / 'training' / 'provenance.py')
  )
  digest = provenance.digest_code.__wrapped__
  assert digest() == expected
  crops = root / 'data' / 'sampling' / 'crops.py'
  crops.write_text(crops.read_text() + '# a comment')
  assert digest() != expected

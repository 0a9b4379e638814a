"""What a run is made of: each value, each package, each file of the code."""

import os
import shutil
import subprocess

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


def test_the_commit_is_that_of_the_packages_own_repository(
  tmp_path, monkeypatch
):
  """Not of one around it, in which it may be installed."""
  root = tmp_path / 'clone'
  module = root / 'byol_jax' / 'training' / 'provenance.py'
  module.parent.mkdir(parents=True)
  module.write_text('')
  monkeypatch.setattr(provenance, '__file__', str(module))
  find = provenance.find_commit.__wrapped__
  for name in [name for name in os.environ if name.startswith('GIT_')]:
    monkeypatch.delenv(name)

  def git(folder, *words):
    identity = ('-c', 'user.name=a', '-c', 'user.email=a@b')
    subprocess.run(['git', '-C', folder, *identity, *words], check=True)

  for folder in (tmp_path, root):
    assert find() == {}
    git(folder, 'init', '-q')
    git(folder, 'add', 'byol_jax' if folder == root else '.')
    git(folder, 'commit', '-qm', 'x', '--no-gpg-sign')
  commit = find()['commit']
  assert len(commit) == 40
  module.write_text('changed')
  assert find() == {'commit': f'{commit}-dirty'}


def test_the_command_can_be_pasted_into_a_shell(tmp_path, monkeypatch):
  monkeypatch.setattr('sys.executable', '/a b/python')
  words = ['python', '-m', 'byol_jax', 'pretrain', '--config.x=(1, 2)']
  monkeypatch.setattr('sys.orig_argv', words)
  monkeypatch.chdir(tmp_path)
  assert provenance.describe_command() == (
    f"cd {tmp_path}\n'/a b/python' -m byol_jax pretrain '--config.x=(1, 2)'\n"
  )

"""The package as `pip install .` leaves it, used from another folder."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.helpers import tiny_folder, tiny_run

IGNORED = shutil.ignore_patterns('.*', '__pycache__', 'runs', 'tests', 'build')

# Folder -> pretrain -> knn -> linear -> embed -> load_encoder, in one process.
JOURNEY = """
import sys
import numpy as np
import byol_jax
from byol_jax import __main__ as command, configuration

assert byol_jax.__file__.startswith(sys.argv[1])
for name in configuration.list_presets():
  configuration.load(name)
  print(name)
run = '--workdir=runs/first'
for words in (
  ('pretrain', '--config=shapes', *sys.argv[2:], '--config.dataset=pictures',
   run),
  ('knn', run),
  ('linear', run, '--config=evals/linear:cpu'),
  ('embed', run, '--images=pictures', '--output=all.npz'),
):
  assert command.main(words) == 0
image = np.arange(20 * 30 * 3).reshape(20, 30, 3).astype(np.uint8)
np.save('one.npy', byol_jax.load_encoder('runs/first')(image))
"""


def left_by_a_build():
  """What a build leaves beside the sources."""
  return [*tiny_run.ROOT.glob('build'), *tiny_run.ROOT.glob('*.egg-info')]


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
  """A folder that holds the installed package and nothing else."""
  before = left_by_a_build()
  copy = tmp_path_factory.mktemp('copy') / 'tree'
  target = tmp_path_factory.mktemp('target')
  shutil.copytree(tiny_run.ROOT, copy, ignore=IGNORED)
  subprocess.run(
    [sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--no-index',
     '--no-build-isolation', '--disable-pip-version-check',
     f'--target={target}', str(copy)],
    check=True, capture_output=True, text=True,
  )  # fmt: skip
  assert left_by_a_build() == before
  return target


def run(target, folder, *arguments):
  """The output of another interpreter that sees only the installed package."""
  process = subprocess.run(
    [sys.executable, *map(str, arguments)],
    cwd=folder,
    env=os.environ | {'PYTHONPATH': str(target)},
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert process.returncode == 0, process.stderr[-3000:]
  return process.stdout


@pytest.mark.slow
def test_only_our_package_is_importable_and_has_a_command_line(
  installed, tmp_path
):
  """`configs` and `tests` could shadow the user's own packages."""
  tops = {path.name for path in installed.iterdir() if path.is_dir()}
  assert {top for top in tops if not top.endswith('.dist-info')} == {'byol_jax'}
  output = run(installed, tmp_path, '-m', 'byol_jax', 'pretrain', '--help')
  assert '--config.batch_size=4096' in output


@pytest.mark.slow
def test_the_whole_journey_from_another_folder(installed, tmp_path):
  tiny_folder.write(tmp_path / 'pictures')
  output = run(
    installed, tmp_path, '-c', JOURNEY, installed, *tiny_folder.SMALLEST
  )
  presets = {line for line in output.split() if line.startswith('configs/')}
  files = tiny_run.ROOT.glob('configs/**/*.py')
  assert presets == {f.relative_to(tiny_run.ROOT).as_posix() for f in files}
  for result in ('done: step 2', 'knn_k20: ', 'num_classes: 3', 'top1: '):
    assert result in output
  one, all_ = np.load(tmp_path / 'one.npy'), np.load(tmp_path / 'all.npz')
  assert one.dtype == all_['representations'].dtype == np.float32
  assert all_['representations'].shape == (36, one.shape[1])
  assert len(all_['names']) == 36

"""What `pip install .` leaves, used from another folder; the whole journey."""

import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.helpers import tiny_folder

ROOT = pathlib.Path(__file__).resolve().parent.parent
IGNORED = shutil.ignore_patterns('.*', '__pycache__', 'runs', 'tests', 'build')


def left_by_a_build():
  """Whether the sources have what a build leaves beside them."""
  return (ROOT / 'build').exists() or [*ROOT.glob('*.egg-info')] != []


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
  """A folder that holds the installed package and nothing else."""
  before = left_by_a_build()
  copy = tmp_path_factory.mktemp('copy') / 'tree'
  target = tmp_path_factory.mktemp('target')
  shutil.copytree(ROOT, copy, ignore=IGNORED)
  subprocess.run(
    [sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--no-index',
     '--no-build-isolation', '--disable-pip-version-check',
     f'--target={target}', str(copy)],
    check=True, capture_output=True, text=True,
  )  # fmt: skip
  assert left_by_a_build() == before
  return target


def python(target, folder, *arguments):
  """Another interpreter that sees the installed package only."""
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
def test_presets_travel_with_the_package(installed, tmp_path):
  code = (
    'import byol_jax; from byol_jax import configuration;'
    f'assert byol_jax.__file__.startswith({str(installed)!r});'
    '[configuration.load(name) for name in configuration.list_presets()];'
    "assert configuration.load('pretrain:300').epochs == 300;"
    "config = configuration.load('configs/small/imagenette.py:cpu');"
    'assert config.image_size == 48;'
    "print(*configuration.list_presets(), sep='\\n')"
  )
  names = python(installed, tmp_path, '-c', code).split()
  expected = {
    path.relative_to(ROOT).as_posix() for path in ROOT.glob('configs/**/*.py')
  }
  assert set(names) == {name for name in expected if '__init__' not in name}


@pytest.mark.slow
def test_nothing_else_of_the_project_is_importable(installed):
  """`configs` and `tests` would be in everybody's way."""
  tops = {path.name for path in installed.iterdir() if path.is_dir()}
  assert {top for top in tops if not top.endswith('.dist-info')} == {'byol_jax'}


@pytest.mark.slow
def test_the_whole_journey_from_another_folder(installed, tmp_path):
  """Folder -> pretrain -> knn -> linear -> embed -> load_encoder."""
  tiny_folder.write(tmp_path / 'pictures')
  byol = ('-m', 'byol_jax')
  assert 'usage' in python(installed, tmp_path, *byol, 'pretrain', '--help')
  output = python(
    installed, tmp_path, *byol, 'pretrain', '--config=shapes',
    *tiny_folder.SMALLEST, '--config.dataset=pictures', '--workdir=runs/first',
  )  # fmt: skip
  assert 'done: step 2' in output
  run = '--workdir=runs/first'
  output = python(installed, tmp_path, *byol, 'knn', run)
  assert 'knn_k20: ' in output and 'num_classes: 3' in output
  output = python(
    installed, tmp_path, *byol, 'linear', run, '--config=evals/linear:cpu'
  )
  assert 'top1: ' in output
  python(
    installed, tmp_path, *byol, 'embed', run, '--images=pictures',
    '--output=all.npz',
  )  # fmt: skip
  code = (
    'import byol_jax, numpy as np;'
    "encode = byol_jax.load_encoder('runs/first');"
    'image = np.arange(20 * 30 * 3).reshape(20, 30, 3).astype(np.uint8);'
    "np.save('one.npy', encode(image))"
  )
  python(installed, tmp_path, '-c', code)
  one, all_ = np.load(tmp_path / 'one.npy'), np.load(tmp_path / 'all.npz')
  assert one.dtype == all_['representations'].dtype == np.float32
  assert all_['representations'].shape == (36, one.shape[1])
  assert len(all_['names']) == 36


@pytest.mark.slow
def test_the_embedded_set_needs_no_file(installed, tmp_path):
  code = (
    'import byol_jax;'
    f'values = {tiny_folder.VALUES | {"epochs": 0.004}!r};'
    "last = byol_jax.pretrain('shapes', 'run', values);"
    "assert last['step'] == 2, last;"
    "print(byol_jax.load_encoder('run'))"
  )
  assert 'encode' in python(installed, tmp_path, '-c', code)

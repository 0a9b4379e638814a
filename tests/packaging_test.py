"""The package as pip leaves it, used from another folder, and the Makefile."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from byol_jax.tools import ablation_table
from tests.helpers import tiny_folder, tiny_run

IGNORED = shutil.ignore_patterns(
  *('.*', '__pycache__', 'runs', 'tests', 'build', 'dist', '*.egg-info')
)
SHIPPED = {
  'byol_jax/py.typed',
  'byol_jax/shipped/configs/ablations/table5b.py',
  'byol_jax/shipped/configs/pretrain.py',
  'byol_jax/shipped/configs/evals/linear.py',
  'byol_jax/shipped/configs/small/shapes.py',
}

# Folder -> pretrain -> knn -> linear -> embed -> load_encoder, in one process.
# `pip install byol_jax` brings no TensorFlow.
JOURNEY = """
import sys
import numpy as np
import byol_jax
from byol_jax import __main__ as command, configuration
from byol_jax.tools import ablation_table

assert byol_jax.__file__.startswith(sys.argv[1])
for name in configuration.list_presets():
  configuration.load(name)
  print(name)
for table, rows in ablation_table.list_tables().items():
  for row in rows:
    configuration.read_preset(f'ablations/{table}:{row}')
    print(f'row {table}:{row}')
run = '--workdir=runs/first'
shapes = ('--config=shapes', *sys.argv[2:], '--config.dataset=pictures')
resident = ('--config.data.resident=True', '--config.log.tensorboard=True')
words = ('pretrain', *shapes, *resident, '--workdir=runs/resident')
assert command.main(words) == 0
assert 'jax' in sys.modules and 'tensorflow' not in sys.modules
sys.modules['tensorflow'] = None  # as if it were not installed
for words in (
  ('pretrain', *shapes, run),
  ('knn', run),
  ('linear', run, '--config=evals/linear:cpu'),
  ('embed', run, '--images=pictures', '--output=all.npz'),
):
  assert command.main(words) == 0
for words in (
  ('pretrain', *shapes, '--config.data.decoding=crops', '--workdir=runs/crops'),
  ('data', 'prepare', 'pictures', 'prepared'),
  ('bench', 'input', *shapes),
):
  assert command.main(words) == 2
image = np.arange(20 * 30 * 3).reshape(20, 30, 3).astype(np.uint8)
np.save('one.npy', byol_jax.load_encoder('runs/first')(image))
"""


def copy_of_the_sources(factory):
  """A copy, since a build leaves files beside the sources."""
  copy = factory.mktemp('copy') / 'tree'
  return shutil.copytree(tiny_run.ROOT, copy, ignore=IGNORED)


def run(*command, folder, **environment):
  """Returns standard output and standard error of a command."""
  process = subprocess.run(
    [str(word) for word in command],
    cwd=folder,
    env={**os.environ, **environment},
    capture_output=True,
    text=True,
    timeout=600,
  )
  assert process.returncode == 0, process.stderr[-3000:]
  return process.stdout, process.stderr


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
  """A folder that holds the installed package and nothing else."""
  target = tmp_path_factory.mktemp('target')
  run(
    *(sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--no-index'),
    *('--no-build-isolation', '--disable-pip-version-check'),
    *(f'--target={target}', copy_of_the_sources(tmp_path_factory)),
    folder=target,
  )
  return target


@pytest.mark.slow
def test_only_our_package_is_importable_and_has_a_command(installed, tmp_path):
  """`configs` and `tests` could shadow the user's own packages."""
  tops = {path.name for path in installed.iterdir() if path.is_dir()}
  tops = {top for top in tops if not top.endswith('.dist-info')}
  assert tops == {'bin', 'byol_jax'}
  command = installed / 'bin/byol-jax'
  for verb in ('--help', 'pretrain --help', 'knn'):
    found = [
      subprocess.run(
        [*map(str, words), *verb.split()],
        cwd=tmp_path,
        env=os.environ | {'PYTHONPATH': str(installed)},
        capture_output=True,
        text=True,
      )
      for words in ((command,), (sys.executable, '-m', 'byol_jax'))
    ]
    answers = {(f.returncode, f.stdout, f.stderr) for f in found}
    assert len(answers) == 1, answers
    assert 'byol-jax' in ''.join(answers.pop()[1:])


@pytest.mark.slow
def test_the_whole_journey_from_another_folder(installed, tmp_path):
  tiny_folder.write(tmp_path / 'pictures')
  output, log = run(
    *(sys.executable, '-c', JOURNEY, installed, *tiny_folder.SMALLEST),
    folder=tmp_path,
    PYTHONPATH=str(installed),
  )
  presets = {line for line in output.split() if line.startswith('configs/')}
  files = tiny_run.ROOT.glob('configs/**/*.py')
  assert presets == {f.relative_to(tiny_run.ROOT).as_posix() for f in files}
  rows = {line for line in output.splitlines() if line.startswith('row ')}
  tables = ablation_table.list_tables().items()
  assert rows == {f'row {name}:{x}' for name, found in tables for x in found}
  assert output.count('done: step 2') == 2
  for result in ('\nknn k=20, T=0.1 ', '\nlinear top-1 '):
    assert result in output
  one, all_ = np.load(tmp_path / 'one.npy'), np.load(tmp_path / 'all.npz')
  assert one.dtype == all_['representations'].dtype == np.float32
  assert all_['representations'].shape == (36, one.shape[1])
  assert len(all_['names']) == 36
  refused = [line for line in log.splitlines() if 'not installed: pip' in line]
  assert len(refused) == 3 and 'Traceback' not in log


@pytest.mark.wheel
def test_the_wheel_pretrains_in_an_empty_environment(tmp_path_factory):
  """Built from the source distribution; what it needs in pinned versions."""
  folder = tmp_path_factory.mktemp('wheel')
  python = folder / 'environment/bin/python'
  run(
    *(sys.executable, '-m', 'build', f'--outdir={folder}'),
    folder=copy_of_the_sources(tmp_path_factory),
  )
  (wheel,) = folder.glob('*.whl')
  names = zipfile.ZipFile(wheel).namelist()
  licences = {name.rpartition('/')[2] for name in names if '/licenses/' in name}
  assert set(names) >= SHIPPED and licences == {'LICENSE', 'NOTICE'}
  pins = (tiny_run.ROOT / 'requirements.txt').read_text()
  # pip takes no extras in constraints.
  (folder / 'pins.txt').write_text(re.sub(r'\[\w+\]', '', pins))
  run(sys.executable, '-m', 'venv', 'environment', folder=folder)
  run(
    *(python, '-m', 'pip', 'install', '-q', '--disable-pip-version-check'),
    *('-c', 'pins.txt', wheel),
    folder=folder,
    PYTHONPATH='',
  )
  output, _ = run(
    *(python.with_name('byol-jax'), 'pretrain', '--config=shapes'),
    *(*tiny_folder.SMALLEST, '--config.epochs=0.004', '--workdir=run'),
    folder=folder,
    PYTHONPATH='',
  )
  assert 'done: step 2' in output
  output, _ = run(
    python.with_name('byol-jax'),
    'ablate',
    '--list',
    folder=folder,
    PYTHONPATH='',
  )
  assert output.splitlines() == ablation_table.list_lines(None)


@pytest.fixture
def make(tmp_path):
  """make(target, **programs) with these programs in PATH and few others."""
  for path in (
    *(tiny_run.ROOT / 'Makefile', tiny_run.ROOT / 'setup.py'),
    *tiny_run.ROOT.glob('requirements*.txt'),
  ):
    shutil.copy(path, tmp_path)
  binaries = tmp_path / 'bin'
  binaries.mkdir()
  for name in ('make', 'sh', 'touch'):
    (binaries / name).symlink_to(shutil.which(name))

  def call(target, **programs):
    for name, text in programs.items():
      path = binaries / name
      path.write_text(f'#!/bin/sh\n{text}\n')
      path.chmod(0o755)
    return subprocess.run(
      ['make', target],
      cwd=tmp_path,
      env={'PATH': str(binaries)},
      capture_output=True,
      text=True,
    )

  return call


def python(version):
  """A Python that makes no environment."""
  return f'[ "$1" = -m ] && echo "called $*" && exit 7; echo {version}'


# pyenv leaves commands of all versions in PATH, which may not run.
BROKEN = {f'python3.{minor}': 'exit 127' for minor in (11, 12, 13)}


@pytest.mark.parametrize(
  'found, programs',
  [
    ('python3 is 3.14', {'python3': python('3.14')}),
    ('python3 is 3.10', {'python3': python('3.10')}),
    ('python3 is not there', {}),
  ],
)
def test_make_refuses_an_unsuitable_python_in_one_line(make, found, programs):
  done = make('demo', **BROKEN, **programs)
  assert done.returncode == 2 and done.stdout == ''
  (line,) = done.stderr.splitlines()
  assert f'needs Python 3.11, 3.12 or 3.13, but {found}' in line


def test_make_takes_a_python_that_runs(make):
  done = make('demo', **BROKEN, python3=python('3.12'))
  assert 'called -m venv .venv' in done.stdout


def test_make_test_names_what_it_needs(make):
  (line,) = make('test').stderr.splitlines()
  assert 'make test needs gcc' in line
  (line,) = make('test', gcc='').stderr.splitlines()
  assert 'make test needs git' in line


def test_a_folder_called_as_the_package_does_not_hide_it(tmp_path):
  """A clone is such a folder; what `make` installs is seen from beside it."""
  files = importlib.metadata.files
  try:
    links = [x.name for x in files('byol_jax') or () if x.suffix == '.pth']
  except importlib.metadata.PackageNotFoundError:
    links = []
  if not links:
    pytest.skip('the package is not installed as a link: make .venv/runtime')
  (tmp_path / 'byol_jax').mkdir()
  code = 'import byol_jax; byol_jax.UserError'
  done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path)
  assert done.returncode == 0

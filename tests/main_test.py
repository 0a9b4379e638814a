"""The command line from end to end: exit codes, and what a mistake leaves."""

import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import byol_jax
from byol_jax import __main__ as command, errors
from byol_jax.checkpoints import checkpointer
from byol_jax.cli import verbs
from byol_jax.data import from_config
from tests.helpers import tiny_folder, tiny_run

pytestmark = pytest.mark.usefixtures('compiled_once')


@pytest.fixture(scope='module')
def unlabelled(tmp_path_factory):
  """A folder of images without labels."""
  folder = tmp_path_factory.mktemp('unlabelled')
  return tiny_folder.write(folder, labelled=False)


@pytest.fixture
def run(capsys):
  """run(*arguments) -> (exit code, standard output, standard error)."""

  def call(*arguments):
    code = command.main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()

  return call


@pytest.fixture
def refused(run):
  """refused(code, pattern, *arguments): one line that matches, no traceback."""

  def call(code, pattern, *arguments):
    found, _, error = run(*arguments)
    assert found == code, error
    assert error.count('\n') == 1 and error.startswith('byol_jax: '), error
    assert re.search(pattern, error), error

  return call


def pretrain(folder, workdir, *more):
  """The arguments of the smallest run."""
  paths = (f'--config.dataset={folder}', f'--workdir={workdir}')
  return ('pretrain', '--config=shapes', *tiny_folder.SMALLEST, *paths, *more)


def contents(folder):
  """{path: bytes} of all files but the lock, which holds nothing."""
  return {
    path: path.read_bytes()
    for path in sorted(pathlib.Path(folder).rglob('*'))
    if path.is_file() and path.name != '.lock'
  }


@pytest.mark.parametrize(
  'error, code',
  (
    *((errors.CheckFailed, 1), (errors.ConfigError, 2), (errors.DataError, 3)),
    *((errors.DivergedError, 4), (errors.Preempted, 42)),
    (KeyboardInterrupt, 130),
  ),
)
def test_an_error_is_one_line_and_an_exit_code(monkeypatch, run, error, code):
  def fail(**unused):
    raise error('interrupted')

  verb = verbs.VERBS['conformance']._replace(run=fail)
  monkeypatch.setitem(verbs.VERBS, 'conformance', verb)
  assert run('conformance', 'x') == (code, '', 'byol_jax: interrupted\n')


@pytest.mark.parametrize(
  'value, code, pattern',
  (
    ('epochs=0.1', 2, r'epochs: 0\.1 of 33 images make no step of batch_size'),
    # Refused before the set is read.
    ('input.cache_gib=1e-6', 2, r'input\.cache: .* allowed are .*cache_gib'),
    ('data.decoding=crops', 2, r'input\.cache: .*data\.decoding'),
    ('data.resident=True', 2, r'input\.cache: .* with data\.resident'),
    ('dataset=/no/such', 3, 'no such folder'),
  ),
)
def test_a_wrong_value_names_its_key_and_leaves_no_workdir(
  refused, labelled, tmp_path, value, code, pattern
):
  workdir = tmp_path / 'new'
  arguments = pretrain(labelled[0], workdir, '--config.input.cache=decoded')
  refused(code, pattern, *arguments, f'--config.{value}')
  assert not workdir.exists()


@pytest.mark.parametrize(
  'verb, value, code, pattern',
  (
    ('linear', 'dataset=/no/x', 3, '/no/x'),
    ('knn', 'ks=(90,)', 2, r'ks: \[90\] are all more than the \d+ images'),
    ('finetune', 'dataset={}', 3, 'have no labels'),
  ),
)
def test_a_wrong_value_of_an_evaluation(
  refused, labelled, unlabelled, verb, value, code, pattern
):
  before = contents(labelled[1])
  override = f'--config.{value.format(unlabelled)}'
  refused(code, pattern, verb, f'--workdir={labelled[1]}', override)
  assert contents(labelled[1]) == before


def test_a_set_that_cannot_be_a_test_leaves_nothing(
  refused, labelled, tmp_path
):
  generator = np.random.default_rng(0)
  images = generator.integers(0, 256, (28, 9, 9, 3)).astype(np.uint8)
  labels = np.arange(28) % 3
  np.savez(
    tmp_path / 'set.npz', images=images[:24], labels=labels[:24],
    test_images=images[:4], test_labels=labels[:4],
  )  # fmt: skip
  before = contents(labelled[1])
  arguments = (f'--config.dataset={tmp_path / "set.npz"}', *SHORT_GRID)
  pattern = r"\d images of split 'test' are in 'valid' too"
  refused(3, pattern, 'finetune', f'--workdir={labelled[1]}', *arguments)
  assert contents(labelled[1]) == before


SHORT_GRID = (
  *('--config.rates=(0.1,)', '--config.lengths=(2,)'),
  *('--config.length_unit=steps', '--config.batch_size=8'),
)


def test_an_encoder_is_fine_tuned_and_saved(run, refused, labelled, tmp_path):
  where = f'--workdir={labelled[1]}'
  save = f'--save={tmp_path / "tuned"}'
  code, output, _ = run('finetune', where, *SHORT_GRID, save, '--json')
  assert code == 0
  sentence = r'^fine-tuned top-1 [\d.]+ % on \d+ images \(\+-'
  assert re.search(sentence, output, re.M)
  found = json.loads(output.splitlines()[-1])
  assert found['steps'] == 2
  # What was saved gives the accuracy that was reported.
  tuned = byol_jax.load(tmp_path / 'tuned')
  test = from_config.make_image_set(tuned.config, 'test')
  hits, apply = [], jax.jit(tuned.apply)
  for batch in test.eval_batches(8):
    outputs, _ = apply(tuned.params, tuned.state, batch['images'][0])
    hit = np.argmax(outputs.logits, axis=-1) == batch['labels'][0]
    hits += hit[batch['mask'][0]].tolist()
  assert np.mean(hits) == pytest.approx(found['top1'])
  refused(3, 'missing or empty', 'finetune', where, f'--save={tmp_path}')


def test_a_workdir_that_holds_no_run(refused, tmp_path):
  workdir = tmp_path / 'none'
  words = (f'--workdir={workdir}', f'--images={tmp_path}', '--output=x.npz')
  refused(3, f"'{workdir}' holds no byol_jax run", 'embed', *words)
  assert not workdir.exists()


def test_a_run_that_has_not_saved_yet(refused, run, labelled, tmp_path):
  shutil.copy(labelled[1] / 'config.json', tmp_path)
  arguments = ('knn', f'--workdir={tmp_path}')
  refused(3, f"{tmp_path}/checkpoints' has no checkpoint yet", *arguments)
  few = '--config.calibration_batches=1'
  assert run(*arguments, '--config.weights=random_calibrated', few)[0] == 0


def start(arguments):
  """Returns a process of the command line."""
  return subprocess.Popen(
    [sys.executable, '-u', '-m', 'byol_jax', *map(str, arguments)],
    cwd=tiny_run.ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def read_until(process, beginning):
  """Returns what a process prints up to the first line with a beginning."""
  read = ''
  for line in process.stdout:
    read += line
    if line.startswith(beginning):
      break
  return read


@pytest.mark.slow
def test_a_stopped_process_resumes(refused, labelled, tmp_path):
  workdir = tmp_path / 'run'
  lines = ('--config.log.every_steps=1', '--config.log.every_seconds=0')
  # As in training/signals_test.py: one program.
  more = ('--config.epochs=5000', *lines)
  arguments = pretrain(labelled[0], workdir, *more)
  process = start(arguments)
  read_until(process, 'step 3/')
  refused(3, f"is in use by 'process {process.pid}", *arguments)
  process.send_signal(signal.SIGTERM)
  _, error = process.communicate(timeout=200)
  assert process.returncode == 42, error
  (step,) = re.findall(r'^byol_jax: SIGTERM: saved step (\d+) of \d+', error)
  assert error.count('\n') == 1, error  # TensorFlow and XLA print nothing
  assert checkpointer.list_steps(workdir / 'checkpoints')[-1] == int(step)

  process = start(arguments)
  read = read_until(process, 'step ')
  for _ in range(5):  # of an impatient user
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
  output, error = process.communicate(timeout=200)
  assert process.returncode == 42, error
  assert f'resumed after step {step} of' in read
  assert f'\nstep {int(step) + 1}/' in read
  assert error.count('\n') == 1 and error.startswith('byol_jax: SIGINT: ')
  assert 'Traceback' not in output

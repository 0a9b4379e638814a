"""The command line from end to end: exit codes, and what a mistake leaves."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
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
    ('sead=1', 2, r'--config\.sead: no such key; nearest: --config\.seed'),
    ('network.encoder=ResNet51', 2, r"network\.encoder: .*'ResNet51'"),
    ('network.stem=tiny', 2, r"network\.stem: expected .*'tiny'"),
    ('optimizer.name=adam', 2, r"optimizer\.name: expected .*'adam'"),
    ('epochs=0.1', 2, r'epochs: 0\.1 of 33 images make no step of batch_size'),
    ('data.heldout_share=1.5', 2, r'data\.heldout_share: expected a number'),
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


def test_a_broken_file_is_replaced_in_training_and_left_out_of_knn(
  run, labelled, tmp_path
):
  folder, workdir = tmp_path / 'images', tmp_path / 'new'
  shutil.copytree(labelled[0], folder)
  next(folder.glob('ant/*.png')).write_text('no image')
  code, output, _ = run(*pretrain(folder, workdir))
  assert code == 0 and re.search(r'^done: step 2, byol_loss \d', output, re.M)
  code, output, _ = run('knn', f'--workdir={workdir}', '--json')
  assert code == 0
  results = json.loads(output.splitlines()[-1])
  assert results['bank'] + results['queries'] == 35
  sentence = rf'^knn k=1, T=0\.1 \d+\.\d % on {results["queries"]} images \(\+-'
  assert re.search(sentence, output, re.M)


def test_transfer_measures_what_is_there_and_names_the_rest(
  run, refused, labelled, tmp_path
):
  folder, workdir = labelled
  arguments = (
    *('transfer', f'--workdir={workdir}', f'--config.data_dir={tmp_path}'),
    *('--config.num_lambdas=2', '--config.batch_size=12'),
  )
  names = f'{folder},dtd,birdsnap'
  code, output, _ = run(*arguments, f'--config.datasets={names}', '--json')
  assert code == 0
  results = json.loads(output.splitlines()[-1])
  (found,) = results['sets'].values()
  assert 0 <= found['value'] <= 1 and found['num_classes'] == 3
  assert found['fit'] + found['valid'] + found['test'] == 36
  assert 'tfds build dtd --data_dir' in results['missing']['dtd']
  assert re.search(r'birdsnap is left out: .* put its images into', output)
  sentence = rf'^transfer {folder.name} top-1 \d+\.\d % on {found["test"]} '
  assert re.search(sentence, output, re.M)
  before = contents(workdir)
  refused(3, 'none of 1 sets.* tfds build', *arguments, '--config.datasets=dtd')
  assert contents(workdir) == before


def test_a_finished_run_is_left_alone_and_another_is_refused(
  run, refused, labelled, unlabelled
):
  folder, workdir = labelled
  code, output, _ = run(*pretrain(folder, workdir))
  assert code == 0 and 'done before: step 2' in output
  before = contents(workdir)
  for more, pattern in (
    ('--config.seed=5', r'seed: saved 0, now 5.* --config\.init\.checkpoint'),
    (f'--config.dataset={unlabelled}', r'is of another run: dataset: saved'),
  ):
    refused(3, pattern, *pretrain(folder, workdir, more))
  assert contents(workdir) == before


@pytest.mark.parametrize(
  'verb, value, code, pattern',
  (
    ('knn', 'batch_size=0', 2, 'batch_size'),
    ('linear', 'sead=1', 2, 'sead'),
    ('linear', 'dataset=/no/x', 3, '/no/x'),
    ('knn', 'ks=(90,)', 2, r'ks: \[90\] are all more than the \d+ images'),
    ('knn', 'weights=best', 2, "weights: expected one of .* found 'best'"),
    ('knn', 'dataset={}', 3, 'have no labels'),
    ('linear', 'dataset={}', 3, 'have no labels'),
    ('finetune', 'dataset={}', 3, 'have no labels'),
    ('semisup', 'dataset={}', 3, 'no labels, which a part'),
    ('semisup', 'fractions=(0.1,1.1)', 2, r'fractions: expected .* \(0, 1\]'),
  ),
)
def test_a_wrong_value_of_an_evaluation(
  refused, labelled, unlabelled, verb, value, code, pattern
):
  before = contents(labelled[1])
  override = f'--config.{value.format(unlabelled)}'
  refused(code, pattern, verb, f'--workdir={labelled[1]}', override)
  assert contents(labelled[1]) == before


@pytest.mark.parametrize(
  'verb, change, pattern',
  (
    ('knn', 'overlap', r"4 images of split 'test' are in 'train' too"),
    ('linear', 'overlap', r"\d images of split 'test' are in '\w+' too"),
    ('finetune', 'overlap', r"\d images of split 'test' are in 'valid' too"),
    ('online', 'classes', r'has 3 classes, .* has 4; use the set of the pre'),
  ),
)
def test_a_set_that_cannot_be_a_test_leaves_nothing(
  refused, labelled, tmp_path, verb, change, pattern
):
  generator = np.random.default_rng(0)
  images = generator.integers(0, 256, (28, 9, 9, 3)).astype(np.uint8)
  labels = np.arange(28) % (4 if change == 'classes' else 3)
  test = slice(24, 28) if change == 'classes' else slice(0, 4)
  np.savez(
    tmp_path / 'set.npz', images=images[:24], labels=labels[:24],
    test_images=images[test], test_labels=labels[test],
  )  # fmt: skip
  before = contents(labelled[1])
  arguments = [f'--config.dataset={tmp_path / "set.npz"}']
  if verb == 'linear':
    arguments.insert(0, '--config=evals/linear:cpu')
  if verb == 'finetune':
    arguments += [*SHORT_GRID, '--config.batch_size=8']
  refused(3, pattern, verb, f'--workdir={labelled[1]}', *arguments)
  assert contents(labelled[1]) == before


SHORT_GRID = (
  *('--config.rates=(0.1,)', '--config.lengths=(2,)'),
  '--config.length_unit=steps',
)


def test_an_encoder_is_fine_tuned_on_all_and_on_few_labels(
  run, refused, labelled, tmp_path
):
  more = (*SHORT_GRID, '--config.batch_size=8')
  found = []
  for verb, name in (
    ('finetune', 'fine-tuned top-1'),
    ('semisup', 'semi-supervised 50 % top-1'),
  ):
    own = '--config.fractions=(0.5,)'
    if verb == 'finetune':
      own = f'--save={tmp_path / "tuned"}'
    where = f'--workdir={labelled[1]}'
    code, output, _ = run(verb, where, *more, own, '--json')
    assert code == 0
    assert re.search(rf'^{name} [\d.]+ % on \d+ images \(\+-', output, re.M)
    found.append(json.loads(output.splitlines()[-1]))
  (part,) = found[1]['fractions']
  assert part['images'] == round(found[0]['fit'] / 2) == sum(part['per_class'])
  assert f'digest {part["digest"]}' in output
  assert part['steps'] == found[0]['steps'] == 2
  # What was saved gives the accuracy that was reported.
  tuned = byol_jax.load(tmp_path / 'tuned')
  test = from_config.make_image_set(tuned.config, 'test')
  hits, apply = [], jax.jit(tuned.apply)
  for batch in test.eval_batches(8):
    outputs, _ = apply(tuned.params, tuned.state, batch['images'][0])
    hit = np.argmax(outputs.logits, axis=-1) == batch['labels'][0]
    hits += hit[batch['mask'][0]].tolist()
  assert np.mean(hits) == pytest.approx(found[0]['top1'])
  where = f'--workdir={labelled[1]}'
  refused(3, 'missing or empty', 'finetune', where, f'--save={tmp_path}')


@pytest.mark.parametrize('verb', ('knn', 'linear', 'report', 'embed'))
def test_a_workdir_that_holds_no_run(refused, tmp_path, verb):
  more = [f'--images={tmp_path}', '--output=x.npz'] if verb == 'embed' else []
  workdir = tmp_path / 'none'
  pattern = f"'{workdir}' holds no byol_jax run"
  refused(3, pattern, verb, f'--workdir={workdir}', *more)
  assert not workdir.exists()


def test_a_run_that_has_not_saved_yet(refused, run, labelled, tmp_path):
  shutil.copy(labelled[1] / 'config.json', tmp_path)
  arguments = ('knn', f'--workdir={tmp_path}')
  refused(3, f"{tmp_path}/checkpoints' has no checkpoint yet", *arguments)
  assert run(*arguments, '--config.weights=random')[0] == 0


@pytest.mark.slow
def test_a_stopped_process_resumes(run, refused, labelled, tmp_path):
  workdir = tmp_path / 'run'
  lines = ('--config.log.every_steps=1', '--config.log.every_seconds=0')
  # As in training/signals_test.py: one program.
  more = ('--config.epochs=5000', *lines)
  arguments = pretrain(labelled[0], workdir, *more)
  process = subprocess.Popen(
    [sys.executable, '-u', '-m', 'byol_jax', *map(str, arguments)],
    cwd=tiny_run.ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  for line in process.stdout:
    if line.startswith('step 3/'):
      break
  refused(3, f"is in use by 'process {process.pid}", *arguments)
  process.send_signal(signal.SIGTERM)
  _, error = process.communicate(timeout=200)
  assert process.returncode == 42, error
  (step,) = re.findall(r'^byol_jax: SIGTERM: saved step (\d+) of \d+', error)
  assert error.count('\n') == 1, error  # TensorFlow and XLA print nothing
  assert checkpointer.list_steps(workdir / 'checkpoints')[-1] == int(step)

  scalars = workdir / 'scalars.jsonl'
  size = scalars.stat().st_size

  def interrupt():
    while scalars.stat().st_size <= size:
      time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)

  threading.Thread(target=interrupt, daemon=True).start()
  code, output, _ = run(*arguments)
  assert code == 42
  assert f'resumed after step {step} of' in output
  assert re.search(r'^step (\d+)/', output, re.M)[1] == str(int(step) + 1)

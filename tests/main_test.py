"""The command line: what a user's mistake says, and what it leaves alone."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from byol_jax import __main__ as command
from byol_jax.checkpoints import checkpointer
from byol_jax.training import workdir as workdirs
from tests.helpers import tiny_folder

pytestmark = pytest.mark.usefixtures('compiled_once')

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope='module')
def labelled(tmp_path_factory):
  """(folder, workdir) of a run on a labelled folder."""
  return tiny_folder.pretrained(tmp_path_factory.getbasetemp())


@pytest.fixture(scope='module')
def flat(tmp_path_factory):
  """(folder, workdir) of a run on an unlabelled folder."""
  return tiny_folder.pretrained(tmp_path_factory.getbasetemp(), labelled=False)


@pytest.fixture
def run(capsys):
  """run(*arguments) -> (exit code, standard output, standard error)."""

  def call(*arguments):
    code = command.main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()

  return call


@pytest.fixture
def refused(run):
  """refused(code, words, *arguments): one line that says them, no traceback."""

  def call(code, words, *arguments):
    found, _, error = run(*arguments)
    assert found == code, error
    assert error.count('\n') == 1 and error.startswith('byol_jax: '), error
    assert re.search(words, error), error
    return error

  return call


def pretrain(folder, workdir, *more):
  """The arguments of the smallest run."""
  return (
    'pretrain',
    '--config=shapes',
    *tiny_folder.SMALLEST,
    f'--config.dataset={folder}',
    f'--workdir={workdir}',
    *more,
  )


def contents(folder):
  """{path: bytes} of all files; the lock, which holds nothing, aside."""
  return {
    path: path.read_bytes()
    for path in sorted(pathlib.Path(folder).rglob('*'))
    if path.is_file() and path.name != '.lock'
  }


@pytest.mark.parametrize(
  'arguments, words',
  (
    ((), 'no verb: expected one of pretrain, knn, linear, embed'),
    (('pretrian',), "unknown verb 'pretrian': expected one of pretrain"),
    (('knn',), 'required: --workdir; see python -m byol_jax knn --help'),
    (('pretrain', '--workdir=x'), 'required: --config; see'),
    (('report', '--workdir=x', '--frob'), "unknown argument '--frob'"),
    (('conformance', 'x', 'y'), "unknown argument 'y'"),
    (('data',), "'data' is half a verb: expected one of data prepare, data"),
    (('data', '--split=x'), "'data' is half a verb: expected one of data"),
    (('data', 'chek'), "unknown verb 'data chek': expected one of data prep"),
    (('data', 'chek'), 'data check; see python -m byol_jax data --help'),
    (('date',), "unknown verb 'date': expected one of pretrain"),
    (('prepare',), "unknown verb 'prepare': expected one of pretrain"),
    (('data', 'prepare', 'x'), 'required: OUTPUT; see .* data prepare --help'),
    (('data', 'check', 'x', '--frob'), "unknown argument '--frob'"),
    (('knn', '--workdir=x', '--frob'), "unknown argument '--frob'"),
    (('knn', '--workdir=x', '--config.seed', '3'), r"'--config\.seed': expec"),
  ),
)
def test_a_command_line_that_says_nothing(refused, arguments, words):
  refused(2, words, *arguments)


@pytest.mark.parametrize(
  'value, words',
  (
    ('sead=1', r'--config\.sead: no such key; nearest: --config\.seed'),
    ('network.encoder=ResNet51', r"network\.encoder: expected .*'ResNet51'"),
    ('network.stem=tiny', r"network\.stem: expected .*'tiny'"),
    ('optimizer.name=adam', r"optimizer\.name: expected .*'adam'"),
    ('objective.name=infonce', r"objective\.name: expected .*'infonce'"),
    ('epochs=0.1', r'epochs: 0\.1 of 33 images make no step of batch_size 8'),
    (
      'data.eval_crop=middle',
      r"data\.eval_crop: expected one of .* found 'middle'",
    ),
    ('data.heldout_share=1.5', r'data\.heldout_share: 1\.5 is not in'),
  ),
)
def test_a_wrong_value_names_its_key(refused, labelled, tmp_path, value, words):
  workdir = tmp_path / 'new'
  arguments = pretrain(labelled[0], workdir, f'--config.{value}')
  refused(2, words, *arguments)
  assert not workdir.exists()


def test_a_batch_that_the_devices_do_not_divide(
  refused, labelled, tmp_path, monkeypatch
):
  monkeypatch.setattr(jax, 'device_count', lambda: 3)
  workdir = tmp_path / 'new'
  words = 'batch_size: expected a positive multiple of the 3 devices, found 8'
  refused(2, words, *pretrain(labelled[0], workdir))
  assert not workdir.exists()
  refused(2, words.replace('8', '256'), 'knn', f'--workdir={labelled[1]}')


def test_a_folder_without_images(refused, tmp_path):
  empty = tmp_path / 'empty'
  empty.mkdir()
  refused(3, f'{empty}: 0 image files', *pretrain(empty, tmp_path / 'new'))
  (empty / 'notes.txt').write_text('no image')
  refused(3, f'{empty}: 0 image files', *pretrain(empty, tmp_path / 'new'))
  refused(3, 'no such folder', *pretrain('/no/such', tmp_path / 'new'))
  assert not (tmp_path / 'new').exists()


def test_a_data_set_that_tfds_has_not_prepared(refused, tmp_path):
  workdir = tmp_path / 'new'
  where = f'--config.data_dir={tmp_path}'
  refused(
    3,
    f'prepare it with: tfds build cifar10 --data_dir={tmp_path}',
    *pretrain('cifar10', workdir, where),
  )
  assert not workdir.exists()


def test_a_broken_file_is_named_and_replaced(run, labelled, tmp_path):
  folder, workdir = tmp_path / 'images', tmp_path / 'new'
  shutil.copytree(labelled[0], folder)
  (folder / 'ant' / '99.png').write_text('no image')
  code, _, error = run(*pretrain(folder, workdir))
  assert code == 0
  assert error.count('ant/99.png') <= 1  # pytest may take the log instead
  # A kNN opens two splits of the folder; the file is left out of both.
  code, output, error = run('knn', f'--workdir={workdir}')
  assert code == 0
  counts = dict(re.findall(r'^(bank|queries): (\d+)$', output, re.MULTILINE))
  assert sum(map(int, counts.values())) == 36


@pytest.mark.parametrize('place', ('a file', 'below a file', '/proc/byol_jax'))
def test_a_workdir_that_cannot_be_written(refused, labelled, tmp_path, place):
  """Ways that stop root too."""
  file = tmp_path / 'file'
  file.write_text('mine')
  workdir = {'a file': file, 'below a file': file / 'run'}.get(place, place)
  refused(3, f'workdir {workdir}: expected a writable folder',
          *pretrain(labelled[0], workdir))  # fmt: skip
  assert file.read_text() == 'mine'


def test_a_workdir_in_use(refused, labelled):
  folder, workdir = labelled
  before = contents(workdir)
  with workdirs.open_workdir(workdir):
    words = f'{workdir} is in use by process {os.getpid()}'
    refused(3, words, *pretrain(folder, workdir))
  assert contents(workdir) == before


def test_a_workdir_of_another_run(refused, labelled, flat):
  folder, workdir = labelled
  before = contents(workdir)
  for more, words in (
    (['--config.seed=5'], r'holds another run: seed: saved 0, now 5'),
    ([f'--config.dataset={flat[0]}'], r'holds another run: dataset: saved'),
  ):
    refused(3, words, *pretrain(folder, workdir, *more))
  assert contents(workdir) == before


def test_a_finished_run_is_left_alone(run, labelled):
  folder, workdir = labelled
  code, output, _ = run(*pretrain(folder, workdir))
  assert code == 0
  assert 'done before: step 2' in output


@pytest.mark.parametrize(
  'value, words',
  (
    ('input.cache_gib=1e-6', r'input\.cache: .* allowed are .*cache_gib'),
    ('data.decoding=crops', r"data\.decoding must be 'once'"),
    ('data.resident=True', r'input\.cache: .* with data\.resident'),
  ),
)
def test_a_cache_that_cannot_be(refused, labelled, tmp_path, value, words):
  """Refused before the set is read, and nothing is written."""
  workdir = tmp_path / 'new'
  refused(
    2,
    words,
    *pretrain(labelled[0], workdir, '--config.input.cache=decoded'),
    f'--config.{value}',
  )
  assert not workdir.exists()


def test_a_cached_run_is_the_same_run(run, labelled, tmp_path):
  for kind in ('none', 'encoded', 'decoded'):
    arguments = pretrain(
      labelled[0], tmp_path / kind, f'--config.input.cache={kind}'
    )
    assert run(*arguments)[0] == 0
  losses = {
    json.loads(
      (tmp_path / kind / 'scalars.jsonl').read_text().splitlines()[-1]
    )['loss']
    for kind in ('none', 'encoded', 'decoded')
  }
  assert len(losses) == 1


@pytest.mark.parametrize('verb', ('knn', 'linear', 'report'))
def test_labels_that_are_needed_but_absent(refused, flat, verb):
  before = contents(flat[1])
  refused(3, 'has no labels', verb, f'--workdir={flat[1]}')
  assert contents(flat[1]) == before


def test_steps_that_are_not_finite(refused, labelled, tmp_path):
  workdir = tmp_path / 'new'
  more = (
    '--config.schedule.base_rate=1e25',
    '--config.checkpoint.every_steps=1',
    '--config.faults.max_skips=0',
    '--config.faults.max_rollbacks=0',
  )
  words = (
    r'steps \d to \d were not finite.*; (checkpoint \d stays|no checkpoint)'
  )
  refused(4, words, *pretrain(labelled[0], workdir, '--config.epochs=4', *more))
  arrays, _ = checkpointer.read(workdir / 'checkpoints')
  assert all(np.isfinite(array).all() for array in arrays.values())
  # And nothing that is not finite was logged.
  for line in (workdir / 'scalars.jsonl').read_text().splitlines():
    assert np.isfinite(json.loads(line).get('loss', 0))


@pytest.mark.parametrize('verb', ('knn', 'linear', 'report', 'embed'))
def test_a_workdir_that_holds_no_run(refused, tmp_path, verb):
  more = [f'--images={tmp_path}', '--output=x.npz'] if verb == 'embed' else []
  workdir = tmp_path / 'none'
  refused(3, f'{workdir} holds no byol_jax run', verb, f'--workdir={workdir}',
          *more)  # fmt: skip
  assert not workdir.exists()


def test_a_run_that_has_not_saved_yet(refused, run, labelled, tmp_path):
  workdir = tmp_path / 'begun'
  workdir.mkdir()
  shutil.copy(labelled[1] / 'config.json', workdir)
  refused(
    3,
    f'{workdir}/checkpoints has no checkpoint yet',
    'knn',
    f'--workdir={workdir}',
  )
  code, *_ = run('knn', f'--workdir={workdir}', '--config.weights=random')
  assert code == 0


def test_unknown_weights(refused, labelled, tmp_path):
  words = "weights: expected one of .*'online'.* found 'best'"
  refused(2, words, 'knn', f'--workdir={labelled[1]}', '--config.weights=best')
  output = tmp_path / 'x.npz'
  refused(2, words, 'embed', f'--workdir={labelled[1]}', '--weights=best',
          f'--images={labelled[0]}', f'--output={output}')  # fmt: skip
  assert not output.exists()


@pytest.mark.parametrize('verb', ('knn', 'linear'))
@pytest.mark.parametrize('value', ('batch_size=0', 'sead=1', 'dataset=/no/x'))
def test_a_wrong_value_of_an_evaluation(refused, labelled, verb, value):
  code = 3 if 'dataset' in value else 2
  words = value.split('=')[code == 3]
  refused(code, words, verb, f'--workdir={labelled[1]}', f'--config.{value}')


def test_an_output_that_cannot_be_written(refused, labelled, tmp_path):
  folder, workdir = labelled
  (tmp_path / 'file').write_text('mine')
  output = tmp_path / 'file' / 'x.npz'
  refused(3, f'--output={output}: cannot be written', 'embed',
          f'--workdir={workdir}', f'--images={folder}',
          f'--output={output}')  # fmt: skip


@pytest.mark.parametrize('verb', ('', *command.VERBS))
def test_help_explains(capsys, verb):
  with pytest.raises(SystemExit) as caught:
    command.main([*verb.split(), '--help'])
  assert caught.value.code == 0
  text = capsys.readouterr().out
  assert 'usage: python -m byol_jax' in text
  assert all(len(line) <= 80 for line in text.splitlines())
  if verb in ('pretrain', 'knn', 'linear'):
    assert '--config.batch_size=' in text
  if verb not in ('', 'conformance'):
    assert 'example' in text


def test_help_of_half_a_verb_lists_the_other_halves(capsys):
  with pytest.raises(SystemExit) as caught:
    command.main(['data', '--help'])
  assert caught.value.code == 0
  text = capsys.readouterr().out
  assert 'usage: python -m byol_jax data' in text
  assert re.search(r'^ +prepare ', text, re.M)
  assert re.search(r'^ +check ', text, re.M)


def test_ctrl_c_outside_of_training_is_one_line(monkeypatch, run):
  def interrupted(*unused):
    """A verb."""
    raise KeyboardInterrupt

  monkeypatch.setitem(command.VERBS, 'conformance', interrupted)
  assert run('conformance', 'x') == (130, '', 'byol_jax: interrupted\n')


@pytest.mark.parametrize('verb', ('knn', 'linear', 'report'))
def test_sigterm_ends_an_evaluation_that_can_begin_again(
  monkeypatch, refused, labelled, verb
):
  def terminated(*unused, **unused_options):
    os.kill(os.getpid(), signal.SIGTERM)
    raise AssertionError('the signal came first')

  from byol_jax import pretrained

  monkeypatch.setattr(pretrained, 'open_encoder', terminated)
  words = 'SIGTERM: what was saved before stays; the same command resumes'
  refused(42, words, verb, f'--workdir={labelled[1]}')


def start(*arguments):
  """The command in a process of its own, as a user starts it."""
  return subprocess.Popen(
    [sys.executable, '-u', '-m', 'byol_jax', *map(str, arguments)],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


@pytest.mark.slow
def test_a_stopped_process_resumes_and_exits_with_the_codes(labelled, tmp_path):
  workdir = tmp_path / 'run'
  long = pretrain(
    labelled[0], workdir, '--config.epochs=400', '--config.log.every_steps=1'
  )
  process = start(*long)
  for line in process.stdout:
    if line.startswith('step 3/'):
      break
  # Meanwhile nobody else gets in.
  other = start(*long)
  _, error = other.communicate(timeout=200)
  assert other.returncode == 3 and 'is in use by process' in error
  assert error.count('\n') == 1, error  # no word of TensorFlow or XLA
  process.send_signal(signal.SIGTERM)
  _, error = process.communicate(timeout=200)
  assert process.returncode == 42, error
  (step,) = re.findall(r'^byol_jax: SIGTERM: saved step (\d+) of \d+', error)
  assert error.count('\n') == 1, error
  assert checkpointer.latest_step(workdir / 'checkpoints') == int(step)
  again = start(*long)
  lines = []
  for line in again.stdout:
    lines.append(line)
    if line.startswith('step '):
      break
  again.send_signal(signal.SIGINT)
  again.communicate(timeout=200)
  assert again.returncode == 42
  assert any(line.startswith(f'resumed after step {step} of') for line in lines)
  assert lines[-1].startswith(f'step {int(step) + 1}/')

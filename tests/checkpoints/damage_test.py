"""What is damaged is named, never read as values, and stepped back from."""

import hashlib
import pathlib
import shutil

import numpy as np
import pytest

from byol_jax import errors
from byol_jax.checkpoints import (
  checkpointer,
  format as checkpoint_format,
  manifest as checkpoint_manifest,
  reading,
  saving,
)
from tests.helpers.tiny_checkpoint import (
  DAMAGES,
  assert_same_bits,
  flip,
  halve,
  largest,
  manifest,
  names,
  restore,
  resume,
  save,
  states,
  zero,
)


def warnings(caplog):
  """What checkpoints said, and nobody else did."""
  ours = (reading.__name__, saving.__name__)
  assert all(record.name in ours for record in caplog.records)
  return [record.getMessage() for record in caplog.records]


def sha256(path):
  return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize('damage', DAMAGES)
def test_a_run_goes_on_from_the_newest_step_that_verifies(
  tmp_path, caplog, damage
):
  """Each damage has one warning: step, file, digests, and what follows."""
  folder = tmp_path / 'checkpoints'
  saved = states(3)
  for step, state in saved.items():
    save(folder, step, state, {'step': step})
  act, named = DAMAGES[damage]
  files = {step: named(folder / str(step)) for step in (2, 3)}
  before = {step: sha256(file) for step, file in files.items()}
  for step in (2, 3):
    act(folder / str(step))
  step, tree, meta = resume(folder, {'w': np.zeros(999)})
  assert step == 1 and meta == {'step': 1} and names(folder) == ['1']
  assert_same_bits(tree, saved[1])
  aside = tmp_path / 'checkpoints.damaged'
  assert names(aside) == ['2', '3']  # Not lost.
  said = warnings(caplog)
  assert len(said) == 2
  for bad in (2, 3):
    (line,) = (line for line in said if f'checkpoint {bad} is damaged' in line)
    assert 'going on from step 1' in line and str(aside / str(bad)) in line
    assert '\n' not in line
    file = files[bad]
    assert file.relative_to(folder / str(bad)).as_posix() in line
    now = aside / file.relative_to(folder)
    if damage in ('flipped', 'page zeroed', 'cut'):
      assert before[bad] in line and sha256(now) in line
    if damage == 'gone':
      assert before[bad] in line and 'found no file' in line
  # Out of the way of the same steps when they come again.
  assert save(folder, 2, saved[2], keep=1)
  assert resume(folder, saved[1], keep=1)[0] == 2
  flip(largest(folder / '2'))
  save(folder, 3, saved[3], keep=2)
  flip(largest(folder / '3'))
  with pytest.raises(errors.DataError):
    resume(folder, saved[1])


def test_a_step_set_aside_again_has_a_name_of_its_own(tmp_path):
  folder = tmp_path / 'checkpoints'
  saved = states(2)
  save(folder, 1, saved[1])
  for _ in range(3):
    save(folder, 2, saved[2])
    flip(largest(folder / '2'))
    assert resume(folder, saved[1])[0] == 1
  assert names(tmp_path / 'checkpoints.damaged') == ['2', '2+', '2++']


@pytest.mark.parametrize('damage', [flip, halve, zero, pathlib.Path.unlink])
def test_damage_is_never_read_as_values(tmp_path, damage):
  """Each file in turn is missed: the digests are of all of them."""
  good = tmp_path / 'good'
  for step, state in states(2).items():
    save(good, step, state)
  files = [p.relative_to(good) for p in good.glob('2/**/*') if p.is_file()]
  assert len(files) > 5
  for file in files:
    folder = tmp_path / 'bad'
    shutil.copytree(good, folder)
    damage(folder / file)
    with pytest.raises(checkpointer.Damaged) as caught:
      checkpointer.read(folder, 2)
    assert str(folder / '2') in str(caught.value)
    assert file.relative_to('2').as_posix() in str(caught.value)
    assert '\n' not in str(caught.value)
    shutil.rmtree(folder)


def test_two_hundred_flipped_bits_are_all_noticed(tmp_path):
  save(tmp_path, 1, states(1)[1])
  files = [p for p in (tmp_path / '1').rglob('*') if p.is_file()]
  generator = np.random.default_rng(0)
  for _ in range(200):
    file = files[generator.integers(len(files))]
    intact = file.read_bytes()
    flip(file, generator.random(), int(generator.integers(8)))
    with pytest.raises(checkpointer.Damaged, match=file.name):
      checkpointer.read(tmp_path)
    file.write_bytes(intact)
  assert_same_bits(checkpointer.read(tmp_path)[0], states(1)[1])


def test_an_array_that_is_not_what_the_manifest_says_is_refused(tmp_path):
  """As if Orbax had read intact files wrongly."""
  saved = states(2)
  save(tmp_path, 1, saved[1])
  save(tmp_path, 2, saved[2])
  path = tmp_path / '1'
  entries = checkpoint_manifest.read(path)
  entries['arrays'] = checkpoint_manifest.read(tmp_path / '2')['arrays']
  checkpoint_manifest.write(path, entries)
  with pytest.raises(checkpointer.Damaged, match=r"'w' is not .* sha256"):
    checkpointer.read(tmp_path, 1)


def test_a_changed_value_of_meta_is_noticed(tmp_path):
  save(tmp_path, 1, {'w': np.ones(1)}, {'note': 'before'})
  file = manifest(tmp_path / '1')
  file.write_text(file.read_text().replace('before', 'after'))
  with pytest.raises(errors.DataError, match=r'json: expected sha256 .* found'):
    checkpointer.read(tmp_path)


def test_a_step_without_a_manifest_is_not_the_latest(tmp_path, caplog):
  """A reader says that it reads an older one; it moves nothing."""
  save(tmp_path, 1, {'w': np.ones(1)})
  (tmp_path / '2').mkdir()
  assert checkpointer.latest_step(tmp_path) == 1
  assert checkpointer.read(tmp_path)[0]['w'] == 1
  (line,) = warnings(caplog)
  assert 'step 2 is unfinished or damaged' in line and 'reading step 1' in line
  with pytest.raises(
    checkpointer.Damaged, match=r'2 .*manifest\.json is missing'
  ):
    restore(tmp_path, {'w': np.ones(1)}, step=2)
  assert names(tmp_path) == ['1', '2']
  # The same step comes again: what lay there is set aside, and said.
  assert save(tmp_path, 2, {'w': np.zeros(1)})
  assert 'checkpoint 2 is damaged' in warnings(caplog)[1]
  assert checkpointer.read(tmp_path, 2)[0]['w'] == 0


@pytest.mark.parametrize('damage', ['flipped', 'empty', 'manifest gone'])
def test_when_all_are_damaged_a_run_does_not_start_afresh(tmp_path, damage):
  folder = tmp_path / 'checkpoints'
  for step, state in states(2).items():
    save(folder, step, state)
  for step in (1, 2):
    DAMAGES[damage][0](folder / str(step))
  with pytest.raises(errors.DataError, match=r'steps \[1, 2\]') as caught:
    resume(folder, states(1)[1])
  assert caught.value.exit_code == 3
  assert '\n' not in str(caught.value) and 'afresh' in str(caught.value)
  assert names(folder) == ['1', '2']  # nothing was moved
  assert not (tmp_path / 'checkpoints.damaged').exists()


@pytest.mark.parametrize(
  'error', [PermissionError('not now'), MemoryError('not now'),
            OSError(24, 'not now')]
)  # fmt: skip
def test_what_cannot_be_read_now_is_not_called_damaged(
  tmp_path, monkeypatch, error
):
  folder = tmp_path / 'checkpoints'
  saved = states(2)
  for step, state in saved.items():
    save(folder, step, state)

  def load(path):
    raise error

  monkeypatch.setattr(checkpoint_format, 'load', load)
  with pytest.raises(errors.DataError, match=r'2 cannot be read: .* not now'):
    resume(folder, saved[1])
  monkeypatch.undo()
  assert resume(folder, saved[1])[0] == 2


def test_without_a_step_there_is_nothing_to_resume(tmp_path):
  assert resume(tmp_path / 'new', states(1)[1]) is None


def test_stale_folders_of_a_killed_save_go_when_a_run_starts(tmp_path):
  save(tmp_path, 1, states(1)[1])
  stale = ['.2.saving', '.0.deleted', '2.orbax-checkpoint-tmp-7', '.note', 'x']
  for name in stale:
    (tmp_path / name / 'arrays').mkdir(parents=True)
  assert checkpointer.latest_step(tmp_path) == 1
  assert names(tmp_path) == sorted([*stale, '1'])  # A reader removes nothing.
  assert resume(tmp_path, states(1)[1])[0] == 1
  assert names(tmp_path) == ['.note', '1', 'x']  # Not ours.

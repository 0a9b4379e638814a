"""So many skipped steps in a row, so many rollbacks, and the end."""

import pytest

from byol_jax import errors
from byol_jax.training import recovery


def steps_of(flags, start=0):
  """'..x' -> (the skipped steps, all steps)."""
  steps = range(start, start + len(flags))
  return [s for s, flag in zip(steps, flags) if flag == 'x'], steps


def look(patient, flags, start=0):
  patient.look(*steps_of(flags, start))


@pytest.mark.parametrize('flags', ('....', 'xx.xx.xx', '.xx.', 'x.x.x.x.x'))
def test_few_in_a_row_are_borne(flags):
  look(recovery.Patience(2, 1), flags)


@pytest.mark.parametrize('flags', ('xxx', '..xxx..', 'xx.xxx'))
def test_more_in_a_row_roll_back(flags):
  patient = recovery.Patience(2, 1)
  with pytest.raises(recovery.RolledBack, match='not finite') as caught:
    look(patient, flags)
  assert caught.value.step == len(flags)


def test_a_row_goes_on_from_one_log_line_to_the_next():
  patient = recovery.Patience(2, 1)
  look(patient, '...xx')
  with pytest.raises(recovery.RolledBack, match='steps 3 to 5'):
    look(patient, 'x...', start=5)


def test_after_so_many_rollbacks_it_ends():
  patient = recovery.Patience(2, 2)
  for _ in range(2):
    with pytest.raises(recovery.RolledBack):
      look(patient, 'xxx')
  with pytest.raises(errors.DivergedError, match='after 2 rollbacks') as caught:
    look(patient, 'xxx')
  assert caught.value.exit_code == 4


def test_a_checkpoint_in_between_forgives():
  patient = recovery.Patience(0, 1)
  for _ in range(5):
    with pytest.raises(recovery.RolledBack):
      look(patient, '..x')
    patient.saved()


def test_a_checkpoint_of_a_run_that_stands_still_forgives_nothing():
  """Saved at every step, a state that no step changes is no progress."""
  patient = recovery.Patience(1, 1)
  with pytest.raises(recovery.RolledBack):
    look(patient, '.xx')
  look(patient, 'x')
  patient.saved()
  with pytest.raises(errors.DivergedError, match='after 1 rollbacks'):
    look(patient, 'x', start=1)


def test_without_patience_the_first_one_ends_it():
  with pytest.raises(errors.DivergedError, match='steps 1 to 1'):
    look(recovery.Patience(0, 0), '.x')

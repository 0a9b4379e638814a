"""Skipped steps in a row, rollbacks, and the end of a run."""

import numpy as np
import pytest

from byol_jax import errors
from byol_jax.training import recovery


def observe(policy, flags, start=0):
  """'..x': two steps, then one that was skipped."""
  steps = range(start, start + len(flags))
  policy.observe([s for s, flag in zip(steps, flags) if flag == 'x'], steps)


def test_few_skips_in_a_row_are_allowed_and_more_roll_back():
  for flags in ('....', 'xx.xx.xx', '.xx.', 'x.x.x.x.x'):
    observe(recovery.SkipPolicy(2, 1), flags)
  for flags in ('xxx', '..xxx..', 'xx.xxx'):
    with pytest.raises(recovery.RollbackRequired, match='not finite') as caught:
      observe(recovery.SkipPolicy(2, 1), flags)
    assert caught.value.step == len(flags)


def test_a_row_continues_from_one_log_line_to_the_next():
  policy = recovery.SkipPolicy(2, 1)
  observe(policy, '...xx')
  with pytest.raises(recovery.RollbackRequired, match='steps 4 to 6'):
    observe(policy, 'x...', start=5)


def test_after_max_rollbacks_the_run_ends():
  policy = recovery.SkipPolicy(2, 2)
  for _ in range(2):
    with pytest.raises(recovery.RollbackRequired):
      observe(policy, 'xxx')
  with pytest.raises(errors.DivergedError, match='after 2 rollbacks') as caught:
    observe(policy, 'xxx')
  assert caught.value.exit_code == 4
  with pytest.raises(errors.DivergedError, match='finite: step 2 '):
    observe(recovery.SkipPolicy(0, 0), '.x')


def test_a_new_checkpoint_resets_the_rollbacks():
  policy = recovery.SkipPolicy(0, 1)
  for _ in range(5):
    with pytest.raises(recovery.RollbackRequired):
      observe(policy, '..x')
    policy.checkpoint_saved()


def test_a_checkpoint_after_a_skipped_step_resets_nothing():
  """Saved at every step, a state that no step changes is no progress."""
  policy = recovery.SkipPolicy(1, 1)
  with pytest.raises(recovery.RollbackRequired):
    observe(policy, '.xx')
  observe(policy, 'x')
  policy.checkpoint_saved()
  with pytest.raises(errors.DivergedError, match='after 1 rollbacks'):
    observe(policy, 'x', start=1)


class Saver:
  """Restores a step beyond the last."""

  def restore_newest(self, template):
    return 11, {'w': np.ones(2)}, {}


def test_a_step_beyond_the_last_one_is_refused():
  """Where another version makes fewer steps of the same configuration."""
  restore = lambda num_steps: recovery.restore_or_init(
    Saver(), num_steps, {'w': np.ones(2)}, init_on_host=dict
  )
  assert restore(11).step == 11
  pattern = 'checkpoint 11 is beyond the last step of this run, 10'
  with pytest.raises(errors.DataError, match=pattern):
    restore(10)

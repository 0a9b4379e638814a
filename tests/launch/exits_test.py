"""Exit codes of a job: which are restarted, and one for many processes."""

import itertools
import signal
import subprocess

import pytest

from byol_jax import errors
from launch import exits


def test_what_the_user_must_mend_is_never_restarted():
  final = {0} | {kind.exit_code for kind in errors.UserError.__subclasses__()}
  final.remove(errors.Preempted.exit_code)
  assert final == {0, 1, 2, 3, 4}
  assert not any(map(exits.restarts, final))
  assert errors.Preempted.exit_code == exits.PREEMPTED


def test_preempted_killed_and_crashed_is_restarted_and_nothing_else():
  restarted = {code for code in range(256) if exits.restarts(code)}
  assert restarted == {42} | {*range(127, 256)}


@pytest.mark.parametrize(
  'codes, code',
  [
    ([0, 0], 0),
    ([42, 42], 42),
    ([42, 0], 42),
    ([0, 137], 137),
    ([42, 137], 137),
    ([134, 137, 42], 137),
    ([134, 3, 137], 3),
    ([42, 2, 42], 2),
    ([1, 3, 4], 3),
    ([1, 2, 3], 2),
    ([134, 1], 1),
    ([77, 5, 134], 5),
  ],
)
def test_one_code_for_all_processes_whatever_their_order(codes, code):
  for order in itertools.permutations(codes):
    assert exits.verdict(order) == code


def test_a_signal_is_counted_as_a_shell_does():
  process = subprocess.Popen(['sleep', '60'])
  process.send_signal(signal.SIGKILL)
  assert exits.of_process(process.wait()) == 137
  assert exits.of_process(42) == 42

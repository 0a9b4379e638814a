"""Several processes: the first one saves, and waits for nobody."""

import socket

import pytest

from tests.helpers import tiny_run

WORKER = tiny_run.ROOT / 'tests' / 'helpers' / 'checkpoint_worker.py'


@pytest.mark.slow
def test_one_process_of_two_saves_and_restores_while_the_other_goes_on(
  tmp_path,
):
  """Twice: while the other one sleeps, and while both sum over devices."""
  with socket.socket() as listener:
    listener.bind(('localhost', 0))
    address = f'localhost:{listener.getsockname()[1]}'
  workers = [
    tiny_run.start_python(
      WORKER, tmp_path, address, index, JAX_NUM_CPU_DEVICES='2'
    )
    for index in (0, 1)
  ]
  first, second = (tiny_run.finish(worker) for worker in workers)
  assert 'all restored' in first and 'processes 2 True' in first
  # It need not even have Orbax.
  assert 'processes 2 False' in second

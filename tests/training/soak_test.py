"""Twenty random kills, stops and damages; `make soak` does two hundred."""

import re

import pytest

from tests.helpers import tiny_run


@pytest.mark.jobs
def test_twenty_random_faults_end_in_the_state_of_an_undisturbed_run(tmp_path):
  output = tiny_run.finish(
    tiny_run.start_python(
      tiny_run.ROOT / 'tests' / 'helpers' / 'soak.py',
      *(tmp_path / 'soak', '--events=20'),
    ),
    seconds=900,  # 150 on two free cores
  )
  counts = {kind: int(n) for n, kind in re.findall(r'(\d+) ([a-z]+)', output)}
  assert counts['kill'] + counts['term'] + counts['damage'] >= 20
  assert min(counts['kill'], counts['term'], counts['damage']) >= 2
  assert 'the same end' in output

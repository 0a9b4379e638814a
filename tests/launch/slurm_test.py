"""slurm.sbatch with a fake srun and scontrol."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.helpers import pods


@pytest.mark.parametrize(
  'code, starts, limit, requeued',
  [
    *((code, 1, 3, False) for code in (0, 1, 2, 3, 4, 77)),
    *((code, 2, 3, True) for code in (42, 134, 137, 143)),
    (42, 3, 3, False),
  ],
)
def test_exit_codes_and_attempts_decide(
  tmp_path, code, starts, limit, requeued
):
  (tmp_path / 'record.py').write_text(
    'import json, os, sys\n'
    f'json.dump(sys.argv[1:], open("{tmp_path}/argv", "w"))\n'
    f'open("{tmp_path}/token", "w").write(os.environ["BYOL_JAX_JOB_TOKEN"])\n'
  )
  record = f'{sys.executable} {tmp_path}/record.py "$@"'
  pods.write_program(tmp_path / 'srun', f'{record}; exit {code}')
  pods.write_program(tmp_path / 'scontrol', f'echo "$@" >{tmp_path}/requeued')
  arguments = (*pods.ARGUMENTS, *pods.HOSTILE)
  done = subprocess.run(
    ['bash', pods.LAUNCH / 'slurm.sbatch', *arguments],
    env={
      **{'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'SLURM_JOB_ID': '99'},
      **{'SLURM_RESTART_COUNT': str(starts - 1), 'MAX_ATTEMPTS': str(limit)},
    },
    check=False,
  )
  assert done.returncode == code
  path = tmp_path / 'requeued'
  assert (path.read_text() if path.exists() else '') == (
    'requeue 99\n' if requeued else ''
  )
  argv = json.loads((tmp_path / 'argv').read_text())
  at = argv.index('.venv/bin/python')
  verb, *rest = arguments
  assert argv[at + 1 :] == [
    *('-m', 'byol_jax', verb, '--distributed=slurm', *rest)
  ]
  assert re.fullmatch('[0-9a-f]{32}', (tmp_path / 'token').read_text())
  # Process 0 may be saving when another one has exited.
  assert '--kill-on-bad-exit=0' in argv[:at]

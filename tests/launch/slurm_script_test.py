"""The script of SLURM: checked, and run with an srun that plays."""

import json
import os
import re
import subprocess
import sys

import pytest

from launch import exits, slurm
from tests.helpers import pods

ARGUMENTS = ('pretrain', '--config=pretrain:300', '--workdir=/shared/a run')


def render(capsys, topology='4x8', *more, arguments=ARGUMENTS):
  words = ['--name=byol', f'--topology={topology}', *more, '--dry-run']
  assert slurm.main([*words, '--', *arguments]) == 0
  return capsys.readouterr().out


def options(script):
  """Option -> value, as sbatch reads them."""
  head = script.partition('\nset -euo pipefail\n')[0]
  return dict(re.findall(r'^#SBATCH --([-a-z]+)=?(.*)$', head, re.MULTILINE))


def test_one_process_for_each_gpu(capsys):
  found = options(render(capsys))
  assert found['nodes'] == '4'
  assert found['ntasks-per-node'] == found['gpus-per-node'] == '8'


def test_one_process_for_each_host_of_a_slice(capsys):
  found = options(render(capsys, 'v3-32'))
  assert (found['nodes'], found['ntasks-per-node']) == ('4', '1')
  assert 'gpus-per-node' not in found


def test_time_signal_and_further_options(capsys):
  found = options(
    render(
      capsys,
      '4x8',
      *('--max-hours=30.5', '--grace-seconds=90', '--sbatch=--account=me'),
    )
  )
  assert found['time'] == '30:30:00'
  # Without `B:` the steps are told, not the script.
  assert found['signal'] == 'TERM@90'
  assert found['account'] == 'me'
  assert {'requeue', 'open-mode'} <= found.keys()


def run(script, folder, code, restarts):
  """Runs it; (exit code, what was requeued, arguments of the program)."""
  program = folder / 'record.py'
  program.write_text(
    f'import json, sys\njson.dump(sys.argv[1:], open("{folder}/argv", "w"))\n'
  )
  pods.program(folder / 'srun', f'{sys.executable} {program} "$@"; exit {code}')
  pods.program(folder / 'scontrol', f'echo "$@" >{folder}/requeued')
  done = subprocess.run(
    ['bash', '-c', script],
    env={
      **{'PATH': f'{folder}:{os.environ["PATH"]}', 'SLURM_JOB_ID': '99'},
      **({'SLURM_RESTART_COUNT': str(restarts)} if restarts else {}),
    },
    capture_output=True,
    text=True,
    check=False,
  )
  requeued = folder / 'requeued'
  what = requeued.read_text().strip() if requeued.exists() else None
  return done.returncode, what, json.loads((folder / 'argv').read_text())


@pytest.mark.parametrize('code', [0, 1, 2, 3, 4, 42, 77, 127, 134, 137, 143])
def test_exit_codes_decide_as_everywhere(capsys, tmp_path, code):
  script = render(capsys, '2x1', '--max-attempts=3')
  left, requeued, _ = run(script, tmp_path, code, restarts=0)
  assert left == code
  assert requeued == ('requeue 99' if exits.restarts(code) else None)


def test_it_gives_up_after_so_many_attempts(capsys, tmp_path):
  script = render(capsys, '2x1', '--max-attempts=3')
  assert run(script, tmp_path, 42, restarts=1)[1] == 'requeue 99'
  (tmp_path / 'requeued').unlink()
  assert run(script, tmp_path, 42, restarts=2)[:2] == (42, None)


def test_arguments_are_what_they_were(capsys, tmp_path):
  odd = ("--a=it's", '--b="$HOME" `id` \\', '--c=a\nb', '--d=Größe ☃', '--e=')
  script = render(capsys, arguments=(*ARGUMENTS, *odd))
  argv = run(script, tmp_path, 0, restarts=0)[2]
  at = argv.index('.venv/bin/python')
  verb, *rest = ARGUMENTS
  assert argv[at + 1 :] == [
    *('-m', 'byol_jax', verb, '--distributed=slurm', *rest, *odd)
  ]
  # Process 0 may be saving when another has left.
  assert '--kill-on-bad-exit=0' in argv[:at]


def test_sbatch_gets_the_script(capfd, tmp_path, monkeypatch):
  pods.program(tmp_path / 'sbatch', f'cat >{tmp_path}/got')
  monkeypatch.setenv('PATH', f'{tmp_path}:/usr/bin:/bin')
  words = ['--name=byol', '--topology=4x8', '--', *ARGUMENTS]
  assert slurm.main(words) == 0
  assert (tmp_path / 'got').read_text() == render(capfd)


def test_an_option_is_one_line(capsys):
  words = ['--name=byol', '--topology=4x8', '--sbatch=--a\nrm -rf /']
  assert slurm.main([*words, '--dry-run', '--', *ARGUMENTS]) == 2
  assert '--sbatch' in capsys.readouterr().err

"""The launch script, with programs that only write down their arguments."""

import json
import os
import subprocess
import sys

import pytest
import tiny_run

SCRIPT = tiny_run.ROOT / 'launch' / 'tpu_pod.sh'
RECORD = (
  '#!{python}\nimport json, sys\njson.dump(sys.argv[1:], open({out!r}, "w"))\n'
)


def program(path, out):
  """An executable that writes its arguments to `out` as JSON."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(RECORD.format(python=sys.executable, out=str(out)))
  path.chmod(0o755)


@pytest.mark.parametrize(
  'value', ('plain', 'two words', "it's", '"quoted"', '$HOME', 'a\nb', '*;&|')
)
def test_arguments_reach_the_hosts_as_they_were(tmp_path, value):
  program(tmp_path / 'bin' / 'gcloud', tmp_path / 'gcloud.json')
  path = f'{tmp_path / "bin"}:{os.environ["PATH"]}'
  arguments = ['--config=pretrain:1000', f'--config.data_dir={value}']
  subprocess.run(
    [SCRIPT, 'pod', 'zone-a', *arguments],
    check=True,
    env={**os.environ, 'PATH': path},
  )
  sent = json.loads((tmp_path / 'gcloud.json').read_text())
  assert sent[:7] == [
    *('compute', 'tpus', 'tpu-vm', 'ssh', 'pod', '--zone=zone-a'),
    '--worker=all',
  ]
  # What the shell of a host makes of it.
  home = tmp_path / 'home'
  program(home / 'byol_jax/.venv/bin/python', tmp_path / 'python.json')
  remote = sent[7].removeprefix('--command=')
  subprocess.run(
    ['bash', '-c', remote], check=True, env={**os.environ, 'HOME': str(home)}
  )
  assert json.loads((tmp_path / 'python.json').read_text()) == [
    *('-m', 'byol_jax', 'pretrain', '--distributed=auto'),
    *arguments,
  ]


def test_without_a_slice_it_says_how_to_call_it():
  result = subprocess.run([SCRIPT], capture_output=True, text=True)
  assert result.returncode == 2
  assert 'launch/tpu_pod.sh NAME ZONE' in result.stderr


def test_a_dry_run_starts_nothing(tmp_path):
  result = subprocess.run(
    [SCRIPT, 'pod', 'zone-a', '--workdir=/mnt/run'],
    capture_output=True,
    text=True,
    check=True,
    env={**os.environ, 'DRY_RUN': '1', 'PATH': '/usr/bin:/bin'},
  )
  assert result.stdout.startswith('gcloud compute tpus tpu-vm ssh pod')

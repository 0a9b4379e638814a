"""Dry runs of every launcher, byte for byte as stored.

After a change that is meant, `python tests/launch/pod_golden_test.py` writes
tests/launch/golden/ again; read its difference.
"""

import contextlib
import io
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
if __name__ == '__main__':
  sys.path.insert(0, str(ROOT))

import pytest  # noqa: E402

from launch import gke, slurm, tpu_pod  # noqa: E402
from tests.helpers import pods  # noqa: E402

GOLDEN = pods.ROOT / 'tests' / 'launch' / 'golden'
# Slices, each with a capacity, so that every one is there.
SLICES = {
  'v3-8': 'on-demand',
  'v3-32': 'spot',
  'v3-512': 'reserved',
  'v4-512': 'on-demand',
  'v5litepod-256': 'spot',
  'v6e-256': 'reserved',
}
ARGUMENTS = (
  *pods.ARGUMENTS,
  # Keys take any text, and this one must arrive as it is.
  '--config.data_dir=/mnt/it\'s "my" $DATA; é',
)
IMAGE = 'registry/byol@sha256:0123'


def pod(topology):
  """All verbs of tpu_pod."""
  for verb in tpu_pod.VERBS:
    yield f'# tpu_pod.py {verb}\n'
    yield printed(
      tpu_pod,
      pods.flags(
        *(verb, f'--commit={pods.COMMIT}', '--dry-run'),
        topology=topology,
        capacity=SLICES[topology],
        arguments=ARGUMENTS,
      ),
    )


def flags(topology, *more):
  capacity = SLICES.get(topology, 'on-demand')
  return [
    *('--name=byol', f'--topology={topology}', f'--capacity={capacity}'),
    *('--dry-run', *more, '--', *ARGUMENTS),
  ]


def printed(module, argv):
  """What a launcher prints."""
  out = io.StringIO()
  with contextlib.redirect_stdout(out):
    assert module.main(argv) == 0
  return out.getvalue()


def render():
  """File name -> text."""
  files = {f'{name}.sh': ''.join(pod(name)) for name in SLICES}
  for name in SLICES:
    files[f'{name}.yaml'] = printed(gke, flags(name, f'--image={IMAGE}'))
  for name in (*SLICES, '4x8'):
    more = ('--sbatch=--partition=gpu',) if name == '4x8' else ()
    files[f'{name}.sbatch'] = printed(slurm, flags(name, *more))
  return files


@pytest.fixture(scope='module')
def rendered():
  return render()


@pytest.mark.parametrize(
  'name',
  [
    *(f'{name}.{kind}' for name in SLICES for kind in ('sh', 'yaml', 'sbatch')),
    '4x8.sbatch',
  ],
)
def test_a_dry_run_prints_what_is_stored(rendered, name):
  assert rendered[name] == (GOLDEN / name).read_text()


def test_nothing_else_is_stored(rendered):
  assert {path.name for path in GOLDEN.iterdir()} == {*rendered}


SEALED = """
import runpy, socket, subprocess, sys
def refuse(*args, **kwargs):
  raise AssertionError('a dry run reached out')
socket.socket.connect = socket.getaddrinfo = subprocess.Popen.__init__ = refuse
import os
os.system = os.posix_spawn = refuse
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


@pytest.mark.parametrize('verb', tpu_pod.VERBS)
def test_a_dry_run_needs_no_gcloud_no_network_and_no_process(tmp_path, verb):
  done = subprocess.run(
    [
      *(sys.executable, '-c', SEALED, ROOT / 'launch' / 'tpu_pod.py'),
      *pods.flags(verb, '--dry-run', topology='v3-512'),
    ],
    env={'PATH': str(tmp_path), 'HOME': str(tmp_path)},
    cwd=tmp_path,
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert done.returncode == 0, done.stderr
  assert 'gcloud compute tpus queued-resources' in done.stdout
  assert not os.listdir(tmp_path)


def test_all_hosts_are_spoken_to_at_once(rendered):
  lines = [
    line
    for name in SLICES
    for line in rendered[f'{name}.sh'].splitlines()
    if '--worker=' in line
  ]
  assert len(lines) > 50
  assert all('--batch-size=all' in line for line in lines)


if __name__ == '__main__':
  GOLDEN.mkdir(exist_ok=True)
  for stored in GOLDEN.iterdir():
    stored.unlink()
  for file_name, text in render().items():
    (GOLDEN / file_name).write_text(text)

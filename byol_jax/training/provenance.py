"""Identifies what a run is made of: code, packages and configuration."""

from collections.abc import Collection
import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from typing import Any

PACKAGES = (
  *('byol_jax', 'jax', 'jaxlib', 'dm-haiku', 'optax', 'chex', 'numpy'),
  *('ml_collections', 'orbax-checkpoint', 'tensorflow', 'tensorflow-cpu'),
  'tensorflow-datasets',
)


@functools.cache
def digest_code() -> str:
  """Returns the SHA-256 of all Python files of this package, in hexadecimal."""
  root = pathlib.Path(__file__).parents[1]
  digest = hashlib.sha256()
  for path in sorted(root.rglob('*.py')):
    digest.update(f'{path.relative_to(root)}\0'.encode())
    digest.update(path.read_bytes())
  return digest.hexdigest()


def list_versions() -> dict[str, str]:
  """Returns the versions of Python, the platform, this code and packages."""
  found = {
    'python': platform.python_version(),
    'platform': platform.platform(),
    'code': digest_code(),
  }
  for name in PACKAGES:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      found[name] = importlib.metadata.version(name)
  return found


@functools.cache
def find_commit() -> dict[str, str]:
  """Returns {'commit': ...} if this package lies in its git repository.

  It ends in '-dirty' if tracked files were changed.
  """
  root = pathlib.Path(__file__).parents[2]
  if not (root / '.git').exists():  # else that of a folder above, if any
    return {}
  command = ['git', '--no-optional-locks', '-C', str(root)]
  command += ['describe', '--always', '--dirty', '--abbrev=40', '--exclude=*']
  try:
    found = subprocess.run(
      command, capture_output=True, text=True, timeout=10, check=True
    )
  except (OSError, subprocess.SubprocessError):
    return {}
  return {'commit': found.stdout.strip()}


def describe_command() -> str:
  """Returns the command of this process, for a shell, with its folder."""
  # As in sys.orig_argv, but with the whole path of Python.
  words = [sys.executable, *sys.orig_argv[1:]]
  return f'cd {shlex.quote(os.getcwd())}\n{shlex.join(words)}\n'


def describe_job(config: dict[str, Any]) -> dict[str, str]:
  """Returns what all processes of a job must have in common, {what: value}.

  Not `data_dir`, which may differ between hosts.
  """
  found = list_versions()
  del found['platform']  # kernels may differ
  values = flatten_config(config, ignored={'data_dir'})
  return found | {f'config.{key}': repr(value) for key, value in values.items()}


def flatten_config(
  config: dict[str, Any], ignored: Collection[str] = ()
) -> dict[str, Any]:
  """Returns {'section.key': value}, with JSON's types.

  Args:
    config: a plain configuration.
    ignored: top-level keys that are left out.
  """
  flat: dict[str, Any] = {}
  for key, value in json.loads(json.dumps(config)).items():
    if key in ignored:
      continue
    inner = flatten_config(value) if isinstance(value, dict) else {}
    flat |= {f'{key}.{name}': x for name, x in inner.items()} or {key: value}
  return flat

"""What a run is made of: its code, packages and configuration, in words."""

import functools
import hashlib
import importlib.metadata
import json
import pathlib
import platform
from typing import Any

PACKAGES = (
  'byol_jax',
  'jax',
  'jaxlib',
  'dm-haiku',
  'optax',
  'chex',
  'numpy',
  'ml_collections',
  'orbax-checkpoint',
  'tensorflow',
  'tensorflow-cpu',
  'tensorflow-datasets',
)


@functools.cache
def code_digest() -> str:
  """SHA-256 of the files of this package, in hexadecimal."""
  root = pathlib.Path(__file__).parent.parent
  digest = hashlib.sha256()
  for path in sorted(root.rglob('*.py')):
    digest.update(f'{path.relative_to(root)}\0'.encode())
    digest.update(path.read_bytes())
  return digest.hexdigest()


def config_digest(config: dict[str, Any]) -> str:
  """SHA-256 of a plain configuration, in hexadecimal."""
  return hashlib.sha256(json.dumps(config).encode()).hexdigest()


def versions() -> dict[str, str]:
  """Python, platform, this code and the packages, with versions."""
  found = {
    'python': platform.python_version(),
    'platform': platform.platform(),
    'code': code_digest(),
  }
  for name in PACKAGES:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


def facts(config: dict[str, Any]) -> dict[str, str]:
  """What the processes of one job must have in common, in words.

  Every value of the configuration but `data_dir`, which each host may have
  elsewhere; Python, the packages and this code.
  """
  found = versions()
  del found['platform']  # kernels may differ
  values = flat(config, free={'data_dir'})
  return found | {f'config.{key}': repr(value) for key, value in values.items()}


def flat(config: dict[str, Any], free: set[str]) -> dict[str, Any]:
  """{'section.key': value}, as JSON has it, without the `free` sections."""
  plain = json.loads(json.dumps(config))
  flat: dict[str, Any] = {}

  def visit(prefix: str, value: Any) -> None:
    if isinstance(value, dict) and value:
      for key, inner in value.items():
        visit(f'{prefix}.{key}', inner)
    else:
      flat[prefix] = value

  for key, value in plain.items():
    if key not in free:
      visit(key, value)
  return flat

"""Runs on each host before a training: what is here, and do the devices work.

preflight.py HOST WORKDIR [CLUSTER] prints two lines: versions and the code's
revision, then, once all hosts have joined, devices, a sum over them, and
whether WORKDIR can be written. CLUSTER is JAX's name of the way to find the
other hosts, 'gcetpu' unless given; 'none' looks at this host alone.
"""

from importlib import metadata
import json
import os
import platform
import sys


def say(host: str, **facts: object) -> None:
  """A line that launch/hosts.py reads."""
  print('byol_jax:', json.dumps({'host': host, **facts}), flush=True)


def version(package: str) -> str:
  """Of an installed package."""
  try:
    return metadata.version(package)
  except metadata.PackageNotFoundError:
    return 'missing'


def versions() -> dict[str, object]:
  """What can be told without touching a device."""
  packages = ('jax', 'jaxlib', 'libtpu')
  return {
    'python': platform.python_version(),
    **{name: version(name) for name in packages},
    'code': os.environ.get('BYOL_JAX_REVISION', 'unknown'),
    'cpus': os.cpu_count(),
  }


def devices(cluster: str) -> dict[str, object]:
  """Joins the other hosts, counts the devices and adds one from each host."""
  import jax
  from jax.experimental import multihost_utils
  import numpy as np

  if cluster != 'none':
    jax.distributed.initialize(cluster_detection_method=cluster)
  ones = multihost_utils.process_allgather(np.ones(1, np.int32))
  if ones.sum() != jax.process_count():
    raise RuntimeError(f'a sum over hosts gave {ones.sum()}')
  return {
    'devices': jax.device_count(),
    'local_devices': jax.local_device_count(),
  }


def writable(workdir: str, host: str) -> str:
  """'writable', or why not."""
  from etils import epath

  path = epath.Path(workdir) / f'.preflight.{host}'
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(host)
    path.unlink()
  except Exception as error:  # of a bucket's library, whatever it raises
    return f'{type(error).__name__}: {error}'
  return 'writable'


def main(host: str, workdir: str, cluster: str = 'gcetpu') -> int:
  """Returns the exit code: 1 if the devices do not work."""
  say(host, **versions())
  try:
    found = devices(cluster)
  except Exception as error:  # of a driver, whatever it raises
    say(host, devices=f'{type(error).__name__}: {error}'.splitlines()[0])
    return 1
  say(host, **found, workdir=writable(workdir, host))
  return 0


if __name__ == '__main__':
  sys.exit(main(*sys.argv[1:]))

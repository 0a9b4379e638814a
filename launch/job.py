"""The description of a job, from which every back end is rendered.

Flags of a launcher stand before `--`, a verb of byol_jax and its arguments
behind: `tpu_pod.py run --name=byol --topology=v3-512 ... -- pretrain
--config=pretrain:1000 --workdir=gs://BUCKET/run`.
"""

import argparse
from collections.abc import Sequence
import dataclasses
import re
from typing import Any

from byol_jax import errors
from byol_jax.planning import topologies

CAPACITIES = ('on-demand', 'spot', 'reserved')
# Of a Kubernetes label, a host name and a queued resource, with room for what
# they append.
_NAME = re.compile(r'[a-z]([-a-z0-9]{0,38}[a-z0-9])?')
_NODES = re.compile(r'([1-9][0-9]*)x([1-9][0-9]*)')


@dataclasses.dataclass(frozen=True)
class Job:
  """What to run, on what, and for how long.

  Attributes:
    name: of the job, and of all that is made for it.
    arguments: of `python -m byol_jax`: a verb, then flags with --workdir.
    hosts: machines.
    devices_per_host: that JAX sees on each.
    slice: the TPU slice; None where the hosts have GPUs.
    capacity: one of CAPACITIES.
    max_attempts: starts of the training, and of slices that never came.
    max_hours: from the first start; a restart of SLURM or GKE counts anew.
    grace_seconds: that a host gets to save its state.
    project, zone: of Google Cloud; empty elsewhere.
  """

  name: str
  arguments: tuple[str, ...]
  hosts: int
  devices_per_host: int
  slice: topologies.Topology | None = None
  capacity: str = 'on-demand'
  max_attempts: int = 50
  max_hours: float = 48.0
  grace_seconds: int = 120
  project: str = ''
  zone: str = ''

  @property
  def workdir(self) -> str:
    """Where the run is saved, as all hosts see it."""
    return next(
      argument.removeprefix('--workdir=')
      for argument in self.arguments
      if argument.startswith('--workdir=')
    )

  @property
  def devices(self) -> int:
    """Of all hosts."""
    return self.hosts * self.devices_per_host

  def program(self, distributed: str) -> list[str]:
    """The arguments of Python, the same on every host."""
    verb, *flags = self.arguments
    return ['-m', 'byol_jax', verb, f'--distributed={distributed}', *flags]


def add_flags(parser: argparse.ArgumentParser) -> None:
  """The flags that every back end has."""
  parser.add_argument('--name', required=True, help='a-z, 0-9 and -')
  parser.add_argument(
    '--topology',
    required=True,
    help='a slice such as v3-512; for SLURM also NODESxGPUS such as 4x8',
  )
  parser.add_argument('--capacity', choices=CAPACITIES, default='on-demand')
  parser.add_argument('--max-attempts', type=int, default=50)
  parser.add_argument('--max-hours', type=float, default=48.0)
  parser.add_argument(
    '--grace-seconds', type=int, default=120, help='for saving the state'
  )
  parser.add_argument(
    '--dry-run', action='store_true', help='print what would be done; no more'
  )


def split(argv: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
  """What stands before the first `--` and what behind."""
  argv = list(argv)
  at = argv.index('--') if '--' in argv else len(argv)
  return argv[:at], tuple(argv[at + 1 :])


def from_flags(
  flags: argparse.Namespace, arguments: Sequence[str], **more: Any
) -> Job:
  """A job that can be run, as far as this machine can tell.

  Raises:
    ConfigError: a flag has no such value; names it.
  """
  if not _NAME.fullmatch(flags.name):
    raise errors.ConfigError(
      '--name: expected at most 40 of a-z, 0-9 and -, beginning with a letter'
      f' and not ending with -, found {flags.name!r}'
    )
  for flag in ('max_attempts', 'max_hours', 'grace_seconds'):
    if getattr(flags, flag) <= 0:
      raise errors.ConfigError(
        f'--{flag.replace("_", "-")}: expected more than 0, found'
        f' {getattr(flags, flag)}'
      )
  _check(arguments)
  found, (hosts, devices) = _machines(flags.topology)
  return Job(
    name=flags.name,
    arguments=tuple(arguments),
    hosts=hosts,
    devices_per_host=devices,
    slice=found,
    capacity=flags.capacity,
    max_attempts=flags.max_attempts,
    max_hours=flags.max_hours,
    grace_seconds=flags.grace_seconds,
    **more,
  )


def _machines(
  topology: str,
) -> tuple[topologies.Topology | None, tuple[int, int]]:
  """The slice, if it is one, and (hosts, devices of each)."""
  nodes = _NODES.fullmatch(topology)
  if nodes:
    return None, (int(nodes[1]), int(nodes[2]))
  found = topologies.find_topology(topology)
  return found, (found.hosts, found.devices_per_host)


def _check(arguments: Sequence[str]) -> None:
  """Refuses what cannot be a verb of byol_jax on several hosts."""
  if not arguments or arguments[0].startswith('-'):
    raise errors.ConfigError(
      'expected -- VERB ARGUMENTS of byol_jax at the end, such as -- pretrain'
      ' --config=pretrain:1000 --workdir=gs://BUCKET/run'
    )
  if not any(argument.startswith('--workdir=') for argument in arguments):
    raise errors.ConfigError('expected --workdir=DIR behind the --')
  if any(argument.startswith('--distributed') for argument in arguments):
    raise errors.ConfigError(
      '--distributed: the launcher says it; leave it out'
    )


def need_slice(job: Job) -> topologies.Topology:
  """The job's slice.

  Raises:
    ConfigError: it has none, or a folder that its hosts do not share.
  """
  if job.slice is None:
    raise errors.ConfigError(
      '--topology: expected a TPU slice such as v3-512, found'
      f' {job.hosts}x{job.devices_per_host}'
    )
  if not job.workdir.startswith(('gs://', '/')):
    raise errors.ConfigError(
      '--workdir: expected gs://BUCKET/... or the full path of a mounted'
      f' folder, which outlives the hosts, found {job.workdir!r}'
    )
  return job.slice

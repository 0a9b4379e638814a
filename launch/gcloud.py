"""Queued resources of Cloud TPU: the commands of gcloud for one job's slice.

Read against the pages in FLAGS and gcloud 528.0.0, whose ssh retries ten
times where the connection fails: what runs on a host must bear to be run
twice. `ssh --worker=all` starts as many at a time as --batch-size says; a
blocking training would wait for hosts that are never started.
"""

from collections.abc import Sequence
import json
from typing import NamedTuple

from byol_jax import errors
from launch import job as jobs, runner as runners

LABEL = 'byol-jax-launch'  # its value is the job's name

_PAGE = 'https://cloud.google.com/sdk/gcloud/reference'
_QUEUED = f'{_PAGE}/compute/tpus/queued-resources'
_WIDE = {'--project': _PAGE, '--quiet': _PAGE}


def _cite(verb: str, *flags: str) -> dict[str, str]:
  return {f'--{flag}': f'{_QUEUED}/{verb}#--{flag}' for flag in flags}


# Verb of `gcloud compute tpus queued-resources` -> flag -> its reference.
FLAGS = {
  'create': _WIDE
  | _cite(
    'create',
    *('zone', 'node-id', 'accelerator-type', 'runtime-version', 'labels'),
    *('spot', 'reserved'),
  ),
  'describe': _WIDE | {'--format': _PAGE} | _cite('describe', 'zone'),
  'delete': _WIDE | _cite('delete', 'zone', 'force'),
  'ssh': _WIDE | _cite('ssh', 'zone', 'worker', 'batch-size', 'command'),
  'scp': _WIDE | _cite('scp', 'zone', 'worker', 'batch-size'),
}

_CAPACITY = {'on-demand': (), 'spot': ('--spot',), 'reserved': ('--reserved',)}


class Found(NamedTuple):
  """What Google Cloud says of the slice."""

  state: str  # ACTIVE, ...
  label: str | None  # of the launcher that made it
  accelerator_type: str
  error: str = ''


class CloudError(Exception):
  """A command of gcloud failed."""


class Slice:
  """The slice of a job: made, described, deleted, and its hosts."""

  def __init__(
    self,
    job: jobs.Job,
    runner: runners.Runner,
    create_flags: Sequence[str] = (),
    ssh_flags: Sequence[str] = (),
  ) -> None:
    self.job, self.runner = job, runner
    self.topology = jobs.need_slice(job)
    self._create_flags, self._ssh_flags = create_flags, ssh_flags

  def create(self) -> None:
    """Asks for the slice; returns once the request is in the queue."""
    result = self.runner(
      self._command(
        'create',
        f'--node-id={self.job.name}',
        f'--accelerator-type={self.topology.accelerator_type}',
        f'--runtime-version={self.topology.runtime_version}',
        f'--labels={LABEL}={self.job.name}',
        *_CAPACITY[self.job.capacity],
        *self._create_flags,
      )
    )
    if result.code:
      raise CloudError(f'not created: {result.reason}')

  def find(self) -> Found | None:
    """The slice of the job's name, or None if there is none."""
    result = self.runner(
      self._command('describe', '--format=json'), seconds=120
    )
    if result.code:
      if 'NOT_FOUND' in result.err:
        return None
      raise CloudError(f'no answer about the slice: {result.reason}')
    return _read(result.out)

  def find_own(self) -> Found | None:
    """As `find`.

    Raises:
      ConfigError: there is one of this name that is not this job's.
    """
    found = self.find()
    if found is None:
      return None
    if found.label != self.job.name:
      raise errors.ConfigError(
        f'--name: {self.job.name} exists in {self.job.zone} without the label'
        f' {LABEL}={self.job.name}, so it is not of this launcher and is left'
        ' alone; take another name'
      )
    if found.accelerator_type != self.topology.accelerator_type:
      raise errors.ConfigError(
        f'--topology: {self.job.name} is a {found.accelerator_type}, expected'
        f' {self.topology.accelerator_type}; delete it or take another name'
      )
    return found

  def delete(self) -> bool:
    """Deletes the slice and its hosts; whether there was one.

    Raises:
      ConfigError: it is not this job's.
    """
    if self.find_own() is None:
      return False
    result = self.runner(
      # Without --force only a request without hosts can be deleted.
      self._command('delete', '--force'),
      seconds=1800,
    )
    if result.code and 'NOT_FOUND' not in result.err:
      raise CloudError(f'not deleted: {result.reason}')
    return True

  def ssh(
    self,
    command: str,
    *,
    worker: str = 'all',
    seconds: float = 600,
    shown: bool = False,
  ) -> runners.Result:
    """Runs a line of shell on the hosts, all at once."""
    return self.runner(
      self._command(
        'ssh',
        f'--worker={worker}',
        '--batch-size=all',
        f'--command={command}',
        *self._ssh_flags,
      ),
      seconds=seconds,
      shown=shown,
    )

  def copy(self, path: str) -> runners.Result:
    """Copies a file to the home folder on each host."""
    return self.runner(
      self._command(
        'scp',
        *('--worker=all', '--batch-size=all', *self._ssh_flags),
        names=(path, f'{self.job.name}:'),
      )
    )

  def _command(
    self, verb: str, *flags: str, names: Sequence[str] = ()
  ) -> list[str]:
    return [
      *('gcloud', 'compute', 'tpus', 'queued-resources', verb),
      *(names or (self.job.name,)),
      f'--project={self.job.project}',
      f'--zone={self.job.zone}',
      '--quiet',
      *flags,
    ]


def _read(text: str) -> Found:
  """Reads what `describe --format=json` prints."""
  described = json.loads(text)
  state = described.get('state', {})
  nodes = described.get('tpu', {}).get('nodeSpec', [{}])
  node = nodes[0].get('node', {})
  failed = state.get('failedData', {}).get('error', {})
  return Found(
    state=state.get('state', 'STATE_UNSPECIFIED'),
    label=node.get('labels', {}).get(LABEL),
    accelerator_type=node.get('acceleratorType', ''),
    error=failed.get('message', ''),
  )

"""The hosts of a slice: code, environment, preflight, training, over ssh.

Each host answers in lines `byol_jax: {...}`; gcloud mixes those of all hosts.
Nothing here waits for a training: it is started detached and asked about.
"""

from collections import Counter
from collections.abc import Sequence
import json
import shlex
from typing import Any, NamedTuple

from byol_jax import errors
from launch import gcloud, runner as runners

Report = dict[str, Any]

MARK = 'byol_jax: '
HOME = 'byol_jax'  # in the home folder of a host; on_host.sh says it too
_ON_HOST = f'{HOME}/current/launch/on_host.sh'
_VERSIONS = ('python', 'jax', 'jaxlib', 'libtpu')


class HostsFailed(Exception):
  """A command did not succeed on all hosts."""


class PreflightFailed(errors.CheckFailed):
  """Hosts that are not as they should be; exit code 1."""


class Code(NamedTuple):
  """A tree of the code: a commit, and the archive that holds it."""

  commit: str
  archive: str


def pack(commit: str, allow_dirty: bool, runner: runners.Runner) -> Code:
  """Archives a commit of this checkout.

  What is not committed is never sent, so the commit's name says what runs.

  Raises:
    ConfigError: no such commit, or changes that are not committed.
  """
  dirty = runner(['git', 'status', '--porcelain'])
  if dirty.out and not allow_dirty:
    raise errors.ConfigError(
      'the checkout has changes that are not committed, which the hosts would'
      f' not get: {dirty.out.splitlines()[0].strip()}, ...; commit them, or'
      f' send {commit} as it is with --allow-dirty'
    )
  parsed = runner(['git', 'rev-parse', '--verify', f'{commit}^{{commit}}'])
  if parsed.code:
    raise errors.ConfigError(f'--commit: no commit {commit!r} in this checkout')
  name = parsed.out.strip()
  path = f'runs/launch/{name}.tar.gz'
  runner.make_folder('runs/launch')
  packed = runner(
    ['git', 'archive', '--format=tar.gz', f'--output={path}', name]
  )
  if packed.code:
    raise errors.ConfigError(f'git archive: {packed.reason}')
  return Code(name, path)


class Hosts:
  """All hosts of a slice."""

  def __init__(self, tpu: gcloud.Slice) -> None:
    self.slice, self.job = tpu, tpu.job

  def ship(self, code: Code) -> None:
    """Unpacks the tree beside earlier ones, whole or not at all."""
    self._demand('copying the code', self.slice.copy(code.archive))
    unpack = (
      f'code={code.commit}; mkdir -p {HOME} && cd {HOME} && {{ test -d $code ||'
      ' { rm -rf $code.part && mkdir $code.part && tar -xzf ~/$code.tar.gz'
      ' -C $code.part && mv -T $code.part $code; }; }'
      ' && ln -sfn $code current && rm -f ~/$code.tar.gz'
    )
    # A second time, after a lost connection, finds no archive and needs none.
    self._demand('unpacking the code', self.slice.ssh(unpack))

  def set_up(self) -> None:
    """Python and the pinned packages; nothing where they are there."""
    command = f'bash {HOME}/current/launch/setup_vm.sh'
    self._demand('setting up', self.slice.ssh(command, seconds=1800))

  def preflight(self, code: Code) -> None:
    """Asks every host what it is.

    Raises:
      PreflightFailed: names each host that is not like the others, and why.
      HostsFailed: too few answered.
    """
    command = _line('preflight', self.job.workdir)
    result = self.slice.ssh(command, seconds=900)
    reports: dict[str, Report] = {}
    for report in parse(result.out):
      reports.setdefault(report['host'], {}).update(report)
    if not reports:
      raise HostsFailed(f'preflight: no host answered: {result.reason}')
    odd = compare(
      list(reports.values()),
      hosts=self.job.hosts,
      expected={
        'code': code.commit,
        'devices': self.job.devices,
        'local_devices': self.job.devices_per_host,
        'workdir': 'writable',
      },
    )
    if odd:
      raise PreflightFailed('preflight: ' + '; '.join(odd))

  def start(self, token: int) -> None:
    """Starts the training on every host, detached.

    A second start with the same token does nothing; another token ends what
    runs under the job's name first.
    """
    self._demand(
      'starting',
      self.slice.ssh(
        _line(
          'start',
          self.job.name,
          str(token),
          str(self.job.grace_seconds),
          *self.job.program('gce'),
        )
      ),
    )

  def status(self) -> list[Report]:
    """What each host says of the training: host, token, state, code."""
    result = self.slice.ssh(_line('status', self.job.name), seconds=120)
    return list({r['host']: r for r in parse(result.out)}.values())

  def stop(self) -> None:
    """Asks the training to save and end, on every host; then ends it."""
    grace = self.job.grace_seconds
    command = _line('stop', self.job.name, str(grace))
    self._demand('stopping', self.slice.ssh(command, seconds=grace + 120))

  def log(self, lines: int, worker: str, follow: bool) -> int:
    """Shows the end of the training's log; the exit code."""
    command = _line(
      'log', self.job.name, str(lines), *(['follow'] if follow else [])
    )
    seconds = 7 * 24 * 3600 if follow else 120
    result = self.slice.ssh(command, worker=worker, seconds=seconds, shown=True)
    return result.code

  def _demand(self, what: str, result: runners.Result) -> None:
    if result.code:
      raise HostsFailed(f'{what} failed on a host: {result.reason}')


def parse(text: str) -> list[Report]:
  """The reports among the lines that hosts and gcloud print."""
  return [
    json.loads(line.removeprefix(MARK))
    for line in text.splitlines()
    if line.startswith(MARK)
  ]


def by_state(reports: Sequence[Report]) -> dict[str, list[str]]:
  """'running', 'exited 42', ... -> the hosts of which that is true."""
  states: dict[str, list[str]] = {}
  for report in sorted(reports, key=lambda r: r['host']):
    code = report['code'] if report['state'] in ('exited', 'stopped') else ''
    states.setdefault(f'{report["state"]} {code}'.rstrip(), []).append(
      report['host']
    )
  return states


def compare(
  reports: Sequence[Report], *, hosts: int, expected: Report
) -> list[str]:
  """One line for each thing that is not as it should be.

  Args:
    reports: one of each host that answered.
    hosts: that there should be.
    expected: values that are known; versions are those of the majority.
  """
  odd = []
  if len(reports) != hosts:
    odd.append(f'{len(reports)} of {hosts} hosts answered')
  wanted = dict(expected)
  for key in _VERSIONS:
    values = Counter(report.get(key) for report in reports)
    wanted[key] = values.most_common(1)[0][0]
  for report in sorted(reports, key=lambda r: r['host']):
    odd += [
      f'{report["host"]}: {key} {report.get(key, "not answered")}, expected'
      f' {value}'
      for key, value in wanted.items()
      if report.get(key) != value
    ]
  return odd


def _line(*words: str) -> str:
  """A line for the shell of a host."""
  return shlex.join([_ON_HOST, *words])

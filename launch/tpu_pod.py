"""Runs byol_jax on a Cloud TPU slice, by queued resources.

  python launch/tpu_pod.py VERB FLAGS [-- VERB OF BYOL_JAX AND ITS ARGUMENTS]

  create     ask for the slice
  preflight  send the code, set up the hosts, say which are not like the others
  run        all of it: create, preflight, train, restart, until it is done
  status     of the slice and of the training on each host
  logs       of the training
  stop       let the training save and end; the slice stays
  delete     the slice, if this launcher made it

README.md has every command for ImageNet on v3-512. Needs Python 3.10 and
gcloud; --dry-run needs neither gcloud nor a network.
"""

import argparse
from collections.abc import Sequence
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from byol_jax import errors  # noqa: E402
from launch import (  # noqa: E402
  clock as clocks,
  gcloud,
  hosts as on_hosts,
  job as jobs,
  rehearsal,
  runner as runners,
  supervise,
)

VERBS = ('create', 'preflight', 'run', 'status', 'logs', 'stop', 'delete')
# Those that start something say what; the others only need the name.
_NEED_ARGUMENTS = ('preflight', 'run')
_ANY_ARGUMENTS = ('pretrain', '--workdir=/')


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, jobs.Job]:
  """The flags, and the job they describe."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add('verb', choices=VERBS)
  jobs.add_flags(parser)
  add('--project', required=True)
  add('--zone', required=True)
  add('--commit', default='HEAD', help='of this checkout, for the hosts')
  add(
    '--allow-dirty', action='store_true', help='leave uncommitted changes out'
  )
  add('--at-end', choices=('keep', 'delete'), default='keep', help='the slice')
  add('--wait-seconds', type=float, default=30.0, help='between questions')
  add('--lines', type=int, default=50, help='of the log')
  add('--follow', action='store_true', help='the log')
  add('--worker', default='0', help="whose log; or 'all'")
  add(
    '--create-flag',
    action='append',
    default=[],
    metavar='FLAG',
    help="one more for gcloud's create, such as --create-flag=--internal-ips",
  )
  add(
    '--ssh-flag',
    action='append',
    default=[],
    metavar='FLAG',
    help='and for its ssh and scp, such as --ssh-flag=--tunnel-through-iap',
  )
  words, arguments = jobs.split(argv)
  flags = parser.parse_args(words)
  if not arguments and flags.verb not in _NEED_ARGUMENTS:
    arguments = _ANY_ARGUMENTS
  job = jobs.from_flags(
    flags, arguments, project=flags.project, zone=flags.zone
  )
  return flags, job


class Pod:
  """The verbs, for one job."""

  def __init__(self, flags: argparse.Namespace, job: jobs.Job) -> None:
    self.flags, self.job = flags, job
    self.runner = runners.Runner(str(ROOT))
    self.say = lambda text: print(text, flush=True)
    if flags.dry_run:
      made = flags.verb not in ('create', 'run')
      self.runner = runners.Rehearsal(rehearsal.Answers(job, is_made=made))
      # What the answers would lead to has not happened.
      self.say = lambda text: None
    self.slice = gcloud.Slice(
      job, self.runner, flags.create_flag, flags.ssh_flag
    )
    self.hosts = on_hosts.Hosts(self.slice)

  def create(self) -> int:
    """Asks for the slice unless it is there."""
    found = self.slice.find_own()
    if found is None:
      self.slice.create()
    self.say(f'{self.job.name}: {found.state if found else "in the queue"}')
    return 0

  def _code(self) -> on_hosts.Code:
    return on_hosts.pack(self.flags.commit, self.flags.allow_dirty, self.runner)

  def preflight(self) -> int:
    """Sends the code and looks at the hosts."""
    code = self._code()
    self._demand_active()
    self.hosts.ship(code)
    self.hosts.set_up()
    self.hosts.preflight(code)
    self.say(f'{self.job.hosts} hosts, {self.job.devices} devices, all alike')
    return 0

  def run(self) -> int:
    """Everything, until the training is done or given up."""
    supervisor = supervise.Supervisor(
      self.slice,
      self.hosts,
      self._code(),
      clocks.Clock(
        self.job.max_hours,
        0 if self.flags.dry_run else self.flags.wait_seconds,
      ),
      self.say,
    )
    code = supervisor.run()
    if self.flags.at_end == 'delete':
      self.slice.delete()
    else:
      self.say(f'{self.job.name} stays, and costs: see the verb delete')
    return code

  def status(self) -> int:
    """A line for the slice, one for each state of the training."""
    found = self.slice.find_own()
    self.say(f'{self.job.name}: {found.state if found else "not found"}')
    if found is None or found.state != 'ACTIVE':
      return 0
    reports = self.hosts.status()
    for state, names in on_hosts.by_state(reports).items():
      count = f'{len(names)} hosts: ' if len(names) > 1 else ''
      more = ', ...' if len(names) > 8 else ''
      self.say(f'  {state}: {count}{", ".join(names[:8])}{more}')
    self.say(f'{len(reports)} of {self.job.hosts} hosts answered')
    return 0

  def logs(self) -> int:
    """The end of the training's log."""
    return self.hosts.log(
      self.flags.lines, self.flags.worker, self.flags.follow
    )

  def stop(self) -> int:
    """Ends the training; `run` does not start it again."""
    self._demand_active()
    self.hosts.stop()
    return 0

  def delete(self) -> int:
    """Deletes the slice."""
    was_there = self.slice.delete()
    self.say(f'{self.job.name}: {"deleted" if was_there else "not found"}')
    return 0

  def _demand_active(self) -> None:
    found = self.slice.find_own()
    if found is None or found.state != 'ACTIVE':
      raise errors.CheckFailed(
        f'{self.job.name}: expected an ACTIVE slice, found'
        f' {found.state if found else "none"}; see create and status'
      )


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a verb; returns the exit code."""
  try:
    flags, job = parse(sys.argv[1:] if argv is None else argv)
    return getattr(Pod(flags, job), flags.verb)()
  except errors.UserError as error:
    print(f'tpu_pod: {error}', file=sys.stderr)
    return error.exit_code
  except (gcloud.CloudError, on_hosts.HostsFailed) as error:
    print(f'tpu_pod: {error}', file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    print(
      'tpu_pod: interrupted; what runs on the hosts goes on', file=sys.stderr
    )
    return 130


if __name__ == '__main__':
  sys.exit(main())

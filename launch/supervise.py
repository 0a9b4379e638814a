"""Keeps a job running on slices that come and go.

One attempt: get the slice, send the code, look at the hosts, start the
training on all of them, ask until it ended. What the exit codes say, or the
loss of the slice, decides whether there is another. The training is detached:
if this program ends, it goes on, and the same command finds it again.

  state of the slice                     what is done
  not found                              create
  WAITING_FOR_RESOURCES, PROVISIONING,
  ACCEPTED, CREATING, DELETING,
  SUSPENDING                             wait
  ACTIVE                                 train
  SUSPENDED, FAILED                      delete, the next attempt creates
"""

from collections.abc import Callable, Sequence

from launch import clock as clocks, exits, gcloud, hosts as on_hosts

_GONE = ('SUSPENDED', 'FAILED')
# Questions to the hosts: without an answer, until the slice is given up;
# after the first host ended, until the others are ended too.
SILENT = 5
LINGERING = 10


class Lost(Exception):
  """An attempt ended without an exit code; the next may do better."""


class Stopped(Exception):
  """A hand ended the training; nobody restarts it."""


class Supervisor:
  """Runs a job to its end.

  Args:
    tpu: the slice.
    hosts: of it.
    code: the tree that they get.
    clock: pauses and the end.
    say: prints a line.
  """

  def __init__(
    self,
    tpu: gcloud.Slice,
    hosts: on_hosts.Hosts,
    code: on_hosts.Code,
    clock: clocks.Clock,
    say: Callable[[str], None] = print,
  ) -> None:
    self.slice, self.hosts, self.code = tpu, hosts, code
    self.clock, self.say = clock, say
    self.job = tpu.job
    self._is_training = False

  def run(self) -> int:
    """Attempts until one is final; the exit code."""
    try:
      for attempt in range(1, self.job.max_attempts + 1):
        code = self._attempt(attempt)
        if code is not None:
          return code
        if attempt < self.job.max_attempts:
          self.clock.pause(growing=True)
      self.say(f'given up after {self.job.max_attempts} attempts')
    except clocks.TimeIsUp:
      self.say(f'given up after {self.job.max_hours:g} hours')
      if self._is_training:
        self.hosts.stop()
    except Stopped:
      self.say('stopped by hand; the same command goes on from what is saved')
      return exits.PREEMPTED
    return exits.GAVE_UP

  def _attempt(self, attempt: int) -> int | None:
    """An exit code that is final, or None."""
    about = f'attempt {attempt} of {self.job.max_attempts}'
    self._is_training = False
    try:
      self._obtain()
      code = exits.verdict(self._train())
    except (Lost, gcloud.CloudError, on_hosts.HostsFailed) as error:
      self.say(f'{about}: {error}')
      return None
    self.say(f'{about}: the training ended with exit code {code}')
    return None if exits.restarts(code) else code

  def _obtain(self) -> None:
    """Returns once the slice is there."""
    last = ''
    while True:
      found = self.slice.find_own()
      state = found.state if found else 'not found'
      if state != last:
        self.say(f'{self.job.name}: {state}')
      if found is None:
        self.slice.create()
      elif state == 'ACTIVE':
        return
      elif state in _GONE:
        self._replace(f'the slice is {state}: {found.error or "no reason"}')
      else:
        self.clock.pause(growing=state == last)
      last = state

  def _replace(self, why: str) -> None:
    """Deletes the slice, which the next attempt creates again."""
    self.slice.delete()
    raise Lost(why)

  def _train(self) -> list[int]:
    """Starts the training, or joins the one that runs; exit codes of hosts."""
    reports = self.hosts.status()
    token = max((report['token'] for report in reports), default=0)
    if self._is_one_job(reports):
      self.say(f'start {token} of the training runs; joining it')
    else:
      token += 1
      self.hosts.ship(self.code)
      self.hosts.set_up()
      self.hosts.preflight(self.code)
      self.hosts.start(token)
      self.say(f'start {token} of the training, on {self.job.hosts} hosts')
    self._is_training = True
    return self._wait(token)

  def _is_one_job(self, reports: Sequence[on_hosts.Report]) -> bool:
    tokens = {report['token'] for report in reports}
    running = [report for report in reports if report['state'] == 'running']
    return len(running) == self.job.hosts and len(tokens) == 1

  def _wait(self, token: int) -> list[int]:
    """Asks until the training ended everywhere; the exit codes."""
    silent = lingering = 0
    while True:
      self.clock.pause()
      found = self.slice.find_own()
      if found is None or found.state != 'ACTIVE':
        raise Lost(f'the slice is {found.state if found else "gone"}')
      reports = [r for r in self.hosts.status() if r['token'] == token]
      if any(report['state'] == 'stopped' for report in reports):
        raise Stopped
      if len(reports) < self.job.hosts:
        silent += 1
        if silent >= SILENT:
          self._replace(
            f'{len(reports)} of {self.job.hosts} hosts answer, asked'
            f' {SILENT} times'
          )
        continue
      silent = 0
      ended = [r for r in reports if r['state'] == 'exited']
      if len(ended) == self.job.hosts:
        return [report['code'] for report in reports]
      lingering += bool(ended)
      if lingering >= LINGERING:
        return self._end_others(ended)

  def _end_others(self, ended: Sequence[on_hosts.Report]) -> list[int]:
    """Ends the hosts that did not notice that others ended."""
    first = ended[0]
    self.say(
      f'{first["host"]} ended with exit code {first["code"]}, and'
      f' {self.job.hosts - len(ended)} hosts run on; ending them'
    )
    self.hosts.stop()
    # Theirs say only that they were ended.
    return [report['code'] for report in ended] + [exits.KILLED]

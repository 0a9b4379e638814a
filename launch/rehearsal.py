"""What gcloud, the hosts and git would answer if all went well.

With it, --dry-run goes through the code that a real run goes through.
"""

from collections.abc import Sequence
import json

from launch import gcloud, hosts, job as jobs, runner as runners


class Answers:
  """Of one job: the slice comes at once, and the training succeeds.

  Args:
    is_made: whether the slice is there before.
  """

  def __init__(self, job: jobs.Job, *, is_made: bool) -> None:
    self.job, self.is_made = job, is_made
    self._token = 0
    self._commit = ''

  def __call__(self, argv: Sequence[str]) -> runners.Result:
    """The answer to a command."""
    if argv[0] == 'git':
      return self._git(argv[1:])
    verb = argv[4]
    if verb == 'create':
      self.is_made = True
    elif verb == 'describe':
      return self._describe()
    elif verb == 'ssh':
      return runners.Result(0, self._host(argv))
    return runners.Result(0)

  def _git(self, words: Sequence[str]) -> runners.Result:
    if words[0] != 'rev-parse':
      return runners.Result(0)
    # Nobody is asked: a dry run goes on with what --commit says.
    self._commit = words[-1].removesuffix('^{commit}')
    return runners.Result(0, self._commit)

  def _describe(self) -> runners.Result:
    if not self.is_made:
      return runners.Result(1, err='NOT_FOUND')
    tpu = jobs.need_slice(self.job)
    node = {
      'labels': {gcloud.LABEL: self.job.name},
      'acceleratorType': tpu.accelerator_type,
    }
    described = {
      'state': {'state': 'ACTIVE'},
      'tpu': {'nodeSpec': [{'node': node}]},
    }
    return runners.Result(0, json.dumps(described))

  def _host(self, argv: Sequence[str]) -> str:
    command = next(word for word in argv if word.startswith('--command='))
    words = command.split()
    if 'preflight' in words:
      return self._say(
        devices=self.job.devices,
        local_devices=self.job.devices_per_host,
        workdir='writable',
        code=self._commit,
      )
    if 'start' in words:
      self._token = 1
    state = 'exited' if self._token else 'absent'
    return self._say(token=self._token, state=state, code=0)

  def _say(self, **facts: object) -> str:
    return '\n'.join(
      hosts.MARK + json.dumps({'host': f'w-{i}', **facts})
      for i in range(self.job.hosts)
    )

"""The supervisor against a fake gcloud: what comes back, what is deleted."""

import dataclasses

import pytest

from launch import clock as clocks, hosts, supervise, tpu_pod
from tests.helpers import pods
from tests.helpers.pods import RUNNING

PREPARED = ['scp', 'unpack', 'set up', 'preflight', 'start']
LOST = ['ACTIVE', 'ACTIVE', 'ACTIVE', 'SUSPENDING', 'SUSPENDED']


def test_a_slice_that_is_lost_comes_back_and_the_run_is_done(world, capsys):
  world.play(
    lives=[
      ['WAITING_FOR_RESOURCES', 'WAITING_FOR_RESOURCES', 'PROVISIONING', *LOST],
      ['ACCEPTED', 'CREATING', 'PROVISIONING', 'ACTIVE'],
    ],
    starts=[[RUNNING], [RUNNING, RUNNING, [0] * 4]],
  )
  assert world.run(capacity='spot') == 0
  assert world.verbs() == [
    *('create', *PREPARED, 'delete'),
    *('create', *PREPARED),
  ]
  said = capsys.readouterr().out
  for state in ('WAITING_FOR_RESOURCES', 'PROVISIONING', 'SUSPENDED', 'ACTIVE'):
    assert f'byol: {state}\n' in said


def test_the_same_name_is_made_again_and_deleted_with_its_hosts(world):
  world.play(lives=[['SUSPENDED'], ['ACTIVE']])
  assert world.run() == 0
  creates = [argv for argv in world.calls() if argv[3] == 'create']
  assert len(creates) == 2 and creates[0] == creates[1]
  (delete,) = (argv for argv in world.calls() if argv[3] == 'delete')
  assert delete[4] == 'byol' and '--force' in delete and '--quiet' in delete


@pytest.mark.parametrize(
  'capacity, flag',
  [('on-demand', None), ('spot', '--spot'), ('reserved', '--reserved')],
)
def test_each_capacity_asks_for_its_own(world, capacity, flag):
  assert world.run('create', capacity=capacity) == 0
  (create,) = (argv for argv in world.calls() if argv[3] == 'create')
  assert {'--spot', '--reserved'} & {*create} == ({flag} if flag else set())


@pytest.mark.parametrize('code', [2, 3, 4, 77])
def test_what_would_end_the_same_again_ends_the_job_with_its_code(world, code):
  # The peers of the host that failed died of it.
  world.play(starts=[[RUNNING, [134, code, 137, 134]]])
  assert world.run() == code
  assert world.verbs().count('start') == 1


@pytest.mark.parametrize('code', [42, 137])
def test_what_was_preempted_or_killed_starts_again_on_the_same_slice(
  world, code
):
  world.play(starts=[[[code] * 4], [RUNNING, [0] * 4]])
  assert world.run() == 0
  assert world.verbs() == ['create', *PREPARED, *PREPARED]


def test_each_start_has_a_number_of_its_own(world):
  world.play(starts=[[[42] * 4], [[137] * 4], [[0] * 4]])
  assert world.run() == 0
  starts = [a for a in world.calls() if world.name(a) == 'start']
  tokens = [argv[-1].split()[3] for argv in starts]
  assert tokens == ['1', '2', '3']


def test_hosts_that_do_not_notice_the_end_of_another_are_ended(world, capsys):
  stuck = [RUNNING, [RUNNING, 3, RUNNING, RUNNING]]
  world.play(starts=[stuck])
  assert world.run() == 3
  assert world.verbs()[-2:] == ['start', 'stop']
  assert 'w-1 ended with exit code 3, and 3 hosts run on' in (
    capsys.readouterr().out
  )


def test_hosts_that_stay_silent_cost_the_slice(world, capsys):
  gone = [RUNNING, RUNNING, 'silent', RUNNING]
  world.play(starts=[[RUNNING, gone], [[0] * 4]])
  assert world.run() == 0
  assert world.verbs() == ['create', *PREPARED, 'delete', 'create', *PREPARED]
  asked = [a for a in world.calls() if world.name(a) == 'status']
  assert len(asked) == 1 + 1 + supervise.SILENT + 2
  assert '3 of 4 hosts answer' in capsys.readouterr().out


def test_a_host_may_miss_a_question(world):
  gone = [RUNNING, RUNNING, 'silent', RUNNING]
  world.play(starts=[[gone, gone, RUNNING, gone, gone, gone, RUNNING, [0] * 4]])
  assert world.run() == 0
  assert 'delete' not in world.verbs()


def test_a_training_that_runs_is_joined_and_not_started_again(world, capsys):
  world.play(starts=[[RUNNING, [2] * 4]])
  world.train()
  assert world.run() == 2
  assert world.verbs() == []
  assert 'joining it' in capsys.readouterr().out


def test_what_a_hand_stopped_stays_stopped(world, capsys):
  world.play(starts=[[RUNNING, ['stopped'] * 4]])
  assert world.run() == 42
  assert world.verbs().count('start') == 1
  assert 'stopped by hand' in capsys.readouterr().out


def test_it_gives_up_after_so_many_attempts(world, capsys):
  world.play(starts=[[[137] * 4]] * 9)
  assert world.run('run', '--max-attempts=3') == 1
  assert world.verbs().count('start') == 3
  assert 'given up after 3 attempts' in capsys.readouterr().out


def test_slices_that_never_come_are_attempts_too(world, capsys):
  world.play(lives=[['PROVISIONING', 'FAILED']] * 9)
  assert world.run('run', '--max-attempts=3') == 1
  assert world.verbs() == ['create', 'delete'] * 3
  assert 'the slice is FAILED: no quota' in capsys.readouterr().out


def test_a_cloud_that_answers_nothing_is_given_up_too(world, capsys):
  world.play(failing={'describe': 1})
  assert world.run('run', '--max-attempts=2') == 1
  assert world.verbs() == []
  assert 'no luck' in capsys.readouterr().out


def supervise_for(hours, said):
  """The exit code of `run` by a clock that only pauses move."""
  pod = tpu_pod.Pod(*tpu_pod.parse(pods.flags('run')))
  now = [0.0]

  def sleep(seconds):
    now[0] += seconds

  clock = clocks.Clock(hours, 60, sleep, lambda: now[0])
  code = hosts.Code(pods.COMMIT, f'runs/launch/{pods.COMMIT}.tar.gz')
  job = dataclasses.replace(pod.job, max_hours=hours)
  pod.slice.job = job
  supervisor = supervise.Supervisor(
    pod.slice, pod.hosts, code, clock, said.append
  )
  return supervisor.run(), now[0] / 3600


def test_it_gives_up_after_so_many_hours_and_lets_the_training_save(world):
  world.play(starts=[[RUNNING]])
  said = []
  assert supervise_for(0.1, said) == (1, 0.1)
  assert world.verbs() == ['create', *PREPARED, 'stop']
  assert said[-1] == 'given up after 0.1 hours'


def test_it_waits_for_a_slice_no_longer_than_its_hours(world):
  world.play(lives=[['WAITING_FOR_RESOURCES']])
  assert supervise_for(3, []) == (1, 3)
  assert world.verbs() == ['create']
  # Pauses grow to ten minutes.
  assert 18 < len(world.calls()) < 30


def test_the_slice_stays_unless_told(world, capsys):
  assert world.run() == 0
  assert 'delete' not in world.verbs()
  assert 'byol stays, and costs' in capsys.readouterr().out
  world.play()
  assert world.run('run', '--at-end=delete') == 0
  assert world.verbs()[-1] == 'delete'


@pytest.mark.parametrize(
  'verb, labels',
  [
    *((verb, {}) for verb in ('run', 'create', 'delete', 'stop', 'status')),
    ('delete', {'byol-jax-launch': 'another'}),
  ],
)
def test_what_it_did_not_make_is_left_alone(world, capsys, verb, labels):
  world.play(
    existing={'labels': labels, 'type': 'v3-32', 'states': ['SUSPENDED']}
  )
  assert world.run(verb) == 2
  assert world.verbs() == []
  assert 'without the label byol-jax-launch=byol' in capsys.readouterr().err


def test_a_slice_of_another_size_is_left_alone(world, capsys):
  world.play(existing={'labels': {'byol-jax-launch': 'byol'}, 'type': 'v3-8'})
  assert world.run() == 2
  assert world.verbs() == []
  assert 'byol is a v3-8, expected v3-32' in capsys.readouterr().err


def test_deleting_nothing_is_no_error(world):
  assert world.run('delete') == 0
  assert world.verbs() == []


def test_hosts_that_differ_are_named(world, capsys):
  world.play(
    preflight={
      'w-1': {'jax': '0.10.1'},
      'w-2': {'code': 'f' * 40},
      'w-3': {'devices': 24, 'workdir': 'PermissionError: no'},
    }
  )
  assert world.run() == 1
  assert world.verbs()[-1] == 'preflight'
  said = capsys.readouterr().err
  assert 'w-0' not in said
  for part in (
    'w-1: jax 0.10.1, expected 0.10.2',
    f'w-2: code {"f" * 40}, expected {pods.COMMIT}',
    'w-3: devices 24, expected 32',
    'w-3: workdir PermissionError: no, expected writable',
  ):
    assert part in said


def test_a_host_without_an_answer_fails_the_preflight(world, capsys):
  world.play(hosts=3)
  assert world.run('create') == 0
  assert world.run('preflight') == 1
  assert '3 of 4 hosts answered' in capsys.readouterr().err


def test_a_step_that_fails_on_a_host_is_an_attempt(world, capsys):
  world.play(failing={'bash': 1})
  assert world.run('run', '--max-attempts=2') == 1
  assert world.verbs() == ['create', *PREPARED[:3], *PREPARED[:3]]
  assert 'setting up failed on a host' in capsys.readouterr().out


def test_changes_that_are_not_committed_are_not_sent(world, capsys):
  (world.folder / 'dirty').write_text(' M byol_jax/byol.py\n')
  assert world.run() == 2
  assert world.calls() == []
  assert 'byol_jax/byol.py' in capsys.readouterr().err
  assert world.run('run', '--allow-dirty') == 0
  (copy,) = (argv for argv in world.calls() if argv[3] == 'scp')
  assert copy[4].endswith(f'{pods.COMMIT}.tar.gz')


def test_status_and_logs_ask_the_hosts_once(world, capsys):
  world.play(starts=[[['running', 42, 'running', 'silent']]])
  world.train()
  capsys.readouterr()
  assert world.run('status') == 0
  assert capsys.readouterr().out == (
    'byol: ACTIVE\n  running: 2 hosts: w-0, w-2\n  exited 42: w-1\n'
    '3 of 4 hosts answered\n'
  )
  assert [argv[3] for argv in world.calls()] == ['describe', 'ssh']
  assert world.run('logs', '--worker=2', '--lines=7') == 0
  (logs,) = world.calls()[2:]
  assert '--worker=2' in logs and logs[-1].endswith('log byol 7')

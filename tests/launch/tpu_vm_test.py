"""tpu_vm.sh and setup_vm.sh against a fake gcloud and hosts that are folders.

After an intended change, WRITE_GOLDEN=1 writes golden/* again; read the
difference.
"""

import collections
import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.helpers import pods

# Each with another capacity; the third, on demand, is the default.
SLICES = {'v3-512': 'reserved', 'v6e-256': 'spot'}
VERBS = ('create', 'setup', 'run', 'status', 'logs', 'stop', 'delete')
STARTED = ['scp', 'install', 'start']


@pytest.mark.parametrize('topology', SLICES)
def test_a_dry_run_prints_the_stored_commands(tmp_path, topology):
  """Runs all verbs with no gcloud or git on the PATH."""
  for name in ('bash', 'dirname', 'env', 'sed', 'sort', 'tail'):
    (tmp_path / name).symlink_to(shutil.which(name))
  pods.write_program(tmp_path / 'python3', f'exec {sys.executable} "$@"')
  text = ''
  for verb in VERBS:
    done = subprocess.run(
      [
        *(pods.LAUNCH / 'tpu_vm.sh', verb, '--name=byol', '--zone=my-zone'),
        *('--project=my-project', f'--topology={topology}', '--dry-run'),
        *(f'--capacity={SLICES[topology]}', f'--commit={pods.COMMIT}'),
        *('--', *pods.ARGUMENTS, '--config.data_dir=/it\'s "my" $DATA; é'),
      ],
      env={'PATH': str(tmp_path)},
      capture_output=True,
      text=True,
      check=False,
    )
    assert (done.returncode, done.stderr) == (0, '')
    text += f'# tpu_vm.sh {verb}\n{done.stdout}'
  pods.check_golden(f'{topology}.sh', text)


def test_a_preempted_slice_is_created_again_and_the_run_completes(pod):
  pod.play(
    lives=[
      [
        *('WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE', 'ACTIVE', 'ERROR'),
        *('ACTIVE', 'ACTIVE', 'SUSPENDING', 'SUSPENDED', 'ERROR', 'SUSPENDED'),
      ],
      ['CREATING', 'ACTIVE'],
    ],
    starts=[['train', 'train'], [42, 42], [0, 0]],
  )
  arguments = (*pods.ARGUMENTS, *pods.HOSTILE)
  code, _, err = pod.run(
    'run', '--capacity=spot', '--max-attempts=3', arguments=arguments
  )
  assert code == 0, err
  assert pod.verbs() == [
    *('create', *STARTED, 'delete', 'create', *STARTED, *STARTED)
  ]
  first, second = (argv for verb, argv in pod.actions() if verb == 'create')
  assert first == second
  assert {'--labels=byol-jax-launch=byol', '--spot'} <= {*first}
  for index in range(2):
    verb, *rest = arguments
    training = ['-m', 'byol_jax', verb, '--distributed=gce', *rest]
    assert pod.trainings(index) == [training] * 3
  # One token for all hosts, another one for each start.
  tokens = collections.Counter((pod.folder / 'tokens').read_text().split())
  assert [*tokens.values()] == [2, 2, 2]
  assert all(re.fullmatch('[0-9a-f]{32}', token) for token in tokens)
  log = (pod.folder / 'home-0/byol_jax/jobs/byol/log').read_text()
  assert 'training 2 tpu,cpu' in log  # never the CPU in silence


# A process that fails ends the others, and its exit code explains theirs.
@pytest.mark.parametrize(
  'codes, expected', [((1, 2), 2), ((134, 3), 3), ((0, 77), 77)]
)
def test_a_final_exit_code_ends_the_run(pod, codes, expected):
  pod.play(starts=[codes])
  assert pod.run('run', '--delete-at-end')[0] == expected
  assert pod.verbs() == ['create', *STARTED, 'delete']
  create = dict(pod.actions())['create']
  assert {'--spot', '--reserved'}.isdisjoint(create)  # on demand


@pytest.mark.parametrize(
  'lives, starts, poll_seconds, actions, reason',
  [
    ([['ACTIVE']], [[137, 137], [42, 0]], 1, [*STARTED, *STARTED], 'attempts'),
    ([['CREATING', 'FAILED']] * 2, [], 9, ['delete', 'create', 'delete'], 27),
    ([['ACTIVE']], [['train'] * 2], 1800, [*STARTED, 'stop'], 3600),
    ([['WAITING_FOR_RESOURCES']], [], 600, [], 3600),
  ],
)
def test_attempts_and_hours_are_limited(
  pod, lives, starts, poll_seconds, actions, reason
):
  pod.play(lives=lives, starts=starts)
  code, _, err = pod.run(
    *('run', '--max-attempts=2', '--max-hours=1'),
    f'--poll-seconds={poll_seconds}',
  )
  assert code == 1
  limit = '1 hours' if reason == 3600 else '2 attempts'
  assert f'gave up after {limit}' in err
  assert pod.verbs() == ['create', *actions]
  if reason != 'attempts':
    assert (pod.folder / 'clock').read_text().strip() == str(reason)


def test_a_host_that_does_not_answer_costs_the_slice(pod):
  pod.play(starts=[['lost', 'train'], [0, 0]])
  code, _, err = pod.run('run')
  assert code == 0, err
  assert pod.verbs() == ['create', *STARTED, 'delete', 'create', *STARTED]


def test_a_training_outlives_the_script_and_ends_on_request(pod):
  pod.play(starts=[['train', 'train']])
  first = pod.start('run')
  pods.wait_until(pod.is_ready)
  first.kill()
  first.communicate()
  assert pod.run('status')[1] == 'w-0 running\nw-1 running\n'
  second = pod.start('run')
  while 'runs already' not in second.stderr.readline():
    assert second.poll() is None
  assert pod.run('stop')[0] == 0
  assert 'stopped on request' in second.communicate(timeout=60)[1]
  assert second.returncode == 42
  assert pod.verbs() == ['create', *STARTED, 'stop']
  assert len(pod.trainings(0)) == len(pod.trainings(1)) == 1


OURS = {'byol-jax-launch': 'byol'}
OTHER_SLICES = {
  'labels': ({}, 'v4-16', 'SUSPENDED', 'the label byol-jax-launch=byol'),
  'label': ({'byol-jax-launch': 'other'}, 'v4-16', 'ACTIVE', 'the label'),
  'type': (OURS, 'v4-8', 'ACTIVE', 'is a v4-8, expected v4'),
  'state': (OURS, 'v4-16', 'ERROR', 'describe failed'),
}


@pytest.mark.parametrize(
  'verb, other',
  [
    *(('run', other) for other in OTHER_SLICES),
    *(('setup', 'type'), ('stop', 'label'), ('delete', 'labels')),
  ],
)
def test_other_slices_are_left_alone(pod, verb, other):
  labels, kind, state, message = OTHER_SLICES[other]
  pod.play(existing={'labels': labels, 'type': kind, 'states': [state]})
  code, _, err = pod.run(verb)
  assert code == 2 and message in err
  assert pod.verbs() == []


def test_only_a_commit_is_sent(pod):
  (pod.folder / 'dirty').write_text(' M byol_jax/byol.py\n')
  code, _, err = pod.run('run')
  assert (code, pod.verbs()) == (2, [])
  assert 'not committed' in err
  pod.play(starts=[[0, 0]])
  assert pod.run('run', '--commit=HEAD')[0] == 0
  assert os.readlink(pod.folder / 'home-1/byol_jax/current') == pods.COMMIT


@pytest.mark.parametrize('flag', ['--capacity=cheap', '--topology=v3'])
def test_a_wrong_flag_is_named(pod, flag):
  code, _, err = pod.run('run', flag)
  assert (code, pod.verbs()) == (2, [])
  assert f'tpu_vm: {flag.partition("=")[0]}: expected ' in err

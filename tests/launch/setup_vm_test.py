"""setup_vm.sh on one host; tpu_vm_test.py has it work with tpu_vm.sh."""

import re

from tests.helpers import pods


def start(pod, start_id):
  pod.call_host('start', 'byol', start_id, '60', 'pretrain', '--a=b')


def state(pod):
  return pod.call_host('status', 'byol').removeprefix('byol_jax: w-0 ').strip()


def test_a_repeated_start_starts_once_and_a_new_one_replaces_it(pod):
  pod.play(starts=[['train'] * 2, [3, 3]])
  assert (pod.run('create')[0], pod.run('setup')[0]) == (0, 0)
  assert state(pod) == 'absent'
  for _ in range(2):
    start(pod, '1')
    assert state(pod) == 'running'
  pods.wait_until((pod.folder / 'home-0/ready').exists)
  for _ in range(2):
    start(pod, '2')
    pods.wait_until(lambda: state(pod) != 'running')
    assert state(pod) == '3'
  assert len(pod.trainings()) == 2
  log = (pod.folder / 'home-0/byol_jax/jobs/byol/log').read_text()
  assert 'start 1 ended with exit code 42' in log


def test_a_training_that_ignores_sigterm_is_killed_and_can_start_again(pod):
  pod.play(starts=[['deaf'] * 2, [3, 3]])
  assert (pod.run('create')[0], pod.run('setup')[0]) == (0, 0)
  start(pod, '1')
  pods.wait_until((pod.folder / 'home-0/ready').exists)
  pod.call_host('stop', 'byol', '1')
  assert state(pod) == 'stopped'
  job = pod.folder / 'home-0/byol_jax/jobs/byol'
  assert (job / 'exit_code').read_text() == '137\n'
  start(pod, '2')
  pods.wait_until(lambda: state(pod) != 'running')
  assert state(pod) == '3'


def pins(path):
  """Returns the lines NAME==VERSION for Linux, normalised."""
  lines = re.findall(r'^[^#\n]+', path.read_text(), re.MULTILINE)
  return {
    re.sub(r'\[\w+\]|;.*', '', line).strip().lower().replace('_', '-')
    for line in lines
    if 'platform_system != ' not in line
  }


def test_hosts_get_the_pinned_packages():
  lock = pins(pods.LAUNCH / 'requirements-tpu.txt')
  assert pins(pods.ROOT / 'requirements.txt') <= lock
  assert any(pin.startswith('libtpu==0.0.42') for pin in lock)  # of jax 0.10.2

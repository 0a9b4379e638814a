"""on_host.sh as it runs on hosts, each a home folder on this machine.

Between them and tpu_pod stands the fake gcloud, which hands a command to a
shell as sshd does. The hosts' Python is a program that writes down what it
gets and does as its home folder says.
"""

import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from launch import tpu_pod
from tests.helpers import pods

LAUNCH = pods.ROOT / 'launch'
ON_HOST = 'byol_jax/current/launch/on_host.sh'
# Does as ~/does says: an exit code at once, or 'train': until a signal, which
# it leaves with 42, or 'deaf': in spite of it.
PYTHON = """#!{python}
import json, os, pathlib, signal, sys, time
home = pathlib.Path(os.environ['HOME'])
if sys.argv[1:] == ['-V']:
  print('Python 3.11.18')
  sys.exit()
if sys.argv[1].endswith('preflight.py'):
  print('byol_jax:', (home / 'facts').read_text())
  sys.exit()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(42))
(home / 'argv').write_text(json.dumps(sys.argv[1:]))
print('training of', os.environ['BYOL_JAX_REVISION'], flush=True)
does = (home / 'does').read_text()
if does == 'deaf':
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
if does in ('train', 'deaf'):
  (home / 'ready').touch()
  time.sleep(300)
sys.exit(int(does))
"""


def until(condition, what):
  """Waits for it; a busy machine may take long."""
  deadline = time.monotonic() + 60
  while not condition():
    assert time.monotonic() < deadline, what
    time.sleep(0.02)


class Hosts:
  """Home folders, a checkout to send from, and a fake gcloud."""

  def __init__(self, world, folder, monkeypatch, count=4):
    self.world = world
    (world.folder / 'bin' / 'git').unlink()
    self.checkout = folder / 'checkout'
    shutil.copytree(
      LAUNCH,
      self.checkout / 'launch',
      ignore=shutil.ignore_patterns('__pycache__'),
    )
    (self.checkout / '.gitignore').write_text('runs/\n')
    self.git('init', '-q')
    self.commit = self.save()
    monkeypatch.setattr(tpu_pod, 'ROOT', self.checkout)
    self.homes = [folder / f'home-{index}' for index in range(count)]
    for home in self.homes:
      self.furnish(home)
    self.does('0')
    world.play(homes=[str(home) for home in self.homes])

  def git(self, *words):
    done = subprocess.run(
      ['git', '-c', 'user.name=a', '-c', 'user.email=a@b', *words],
      cwd=self.checkout,
      check=True,
      capture_output=True,
      text=True,
    )
    return done.stdout.strip()

  def save(self):
    """Commits the checkout; the commit's name."""
    self.git('add', '-A')
    self.git('commit', '-q', '-m', 'a')
    return self.git('rev-parse', 'HEAD')

  def furnish(self, home):
    """What setup_vm.sh leaves, with another Python."""
    lock = (LAUNCH / 'requirements-tpu.txt').read_bytes()
    digest = hashlib.sha256(lock).hexdigest()[:12]
    environment = home / 'byol_jax' / f'python-3.11.18-{digest}'
    (environment / 'bin').mkdir(parents=True)
    (environment / 'complete').touch()
    python = environment / 'bin' / 'python'
    python.write_text(PYTHON.format(python=sys.executable))
    python.chmod(0o755)
    facts = {
      **{'host': home.name, 'python': '3.11.18', 'code': self.commit},
      **{'jax': '1', 'jaxlib': '1', 'libtpu': '1', 'workdir': 'writable'},
      **{'devices': 32, 'local_devices': 8},
    }
    (home / 'facts').write_text(json.dumps(facts))

  def does(self, *what):
    """What the training does on each host, or on all."""
    for index, home in enumerate(self.homes):
      (home / 'does').write_text(what[index % len(what)])

  def job(self, index=0):
    return self.homes[index] / 'byol_jax' / 'jobs' / 'byol'

  def on_host(self, *words, index=0):
    """Runs on_host.sh as ssh would; its report."""
    done = subprocess.run(
      [self.homes[index] / ON_HOST, *words],
      env={
        **os.environ,
        **{'HOME': str(self.homes[index]), 'BYOL_JAX_HOST': f'w-{index}'},
      },
      capture_output=True,
      text=True,
      timeout=120,
      check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.removeprefix('byol_jax: '))

  def send(self):
    """Sends the code to one host and sets it up, without a training."""
    facts = self.homes[0] / 'facts'
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {'devices': 8}))
    self.world.play('v3-8', homes=[str(self.homes[0])])
    assert self.world.run('create', topology='v3-8') == 0
    assert self.world.run('preflight', topology='v3-8') == 0

  def start(self, token='1', grace='30'):
    report = self.on_host('start', 'byol', token, grace, '-m', 'byol_jax')
    until((self.homes[0] / 'ready').exists, 'the training to begin')
    return report

  def end(self):
    """Nothing that a test started goes on."""
    for index, home in enumerate(self.homes):
      pid = self.job(index) / 'pid'
      if pid.exists() and (home / 'byol_jax' / 'current').exists():
        self.on_host('stop', 'byol', '0', index=index)


@pytest.fixture
def hosts(world, tmp_path, monkeypatch):
  made = Hosts(world, tmp_path / 'hosts', monkeypatch)
  yield made
  made.end()


VALUES = (
  *('two words', "it's", '"quoted"', '$HOME', '`id`', 'a\nb', '*;&|<>(){}'),
  *('back\\slash', 'Größe ☃', '', '  spaces  ', '--', '!history', '~', '#'),
)


def test_arguments_reach_the_training_as_they_were(hosts):
  arguments = [
    *('pretrain', '--config=shapes', '--workdir=/mnt/a run'),
    *(f'--config.note{i}={value}' for i, value in enumerate(VALUES)),
  ]
  assert hosts.world.run(arguments=arguments) == 0
  for home in hosts.homes:
    assert json.loads((home / 'argv').read_text()) == [
      *('-m', 'byol_jax', 'pretrain', '--distributed=gce'),
      *arguments[1:],
    ]


def test_the_hosts_get_a_clean_tree_named_by_its_commit_beside_earlier_ones(
  hosts, capsys
):
  first = hosts.commit
  assert hosts.world.run() == 0
  (hosts.checkout / 'new.txt').write_text('new')
  assert hosts.world.run() == 2
  assert 'new.txt' in capsys.readouterr().err
  second = hosts.save()
  for home in hosts.homes:
    facts = json.loads((home / 'facts').read_text())
    (home / 'facts').write_text(json.dumps(facts | {'code': second}))
  assert hosts.world.run() == 0
  folder = hosts.homes[0] / 'byol_jax'
  assert not (folder / first / 'new.txt').exists()
  assert (folder / second / 'new.txt').exists()
  assert os.readlink(folder / 'current') == second
  log = (hosts.job() / 'log').read_text()
  assert f'training of {first}' in log and f'training of {second}' in log


def test_codes_come_back_from_detached_trainings(hosts):
  hosts.does('0', '134', '3', '42')
  assert hosts.world.run() == 3


def test_what_stops_by_hand_saves_and_is_not_started_again(hosts):
  hosts.send()
  hosts.does('train')
  hosts.start()
  assert hosts.on_host('status', 'byol')['state'] == 'running'
  report = hosts.on_host('stop', 'byol', '30')
  assert report == {'host': 'w-0', 'token': 1, 'state': 'stopped', 'code': 42}
  assert hosts.on_host('stop', 'byol', '30') == report


def test_a_start_that_comes_twice_starts_once(hosts):
  hosts.send()
  hosts.does('train')
  hosts.start()
  pid = (hosts.job() / 'pid').read_text()
  assert hosts.start()['state'] == 'running'
  assert (hosts.job() / 'pid').read_text() == pid
  assert (hosts.job() / 'log').read_text().count('training of') == 1


def test_a_second_start_does_not_repeat_what_ended(hosts):
  hosts.send()
  hosts.does('3')
  for _ in range(2):
    hosts.on_host('start', 'byol', '1', '30', '-m', 'byol_jax')
    until(
      lambda: hosts.on_host('status', 'byol')['state'] == 'exited', 'the end'
    )
  assert hosts.on_host('status', 'byol')['code'] == 3
  assert (hosts.job() / 'log').read_text().count('training of') == 1


def test_a_new_start_ends_the_old_training_first(hosts):
  hosts.send()
  hosts.does('train')
  hosts.start()
  old = (hosts.job() / 'pid').read_text()
  (hosts.homes[0] / 'ready').unlink()
  assert hosts.start(token='2')['token'] == 2
  assert not pathlib.Path(f'/proc/{old}').exists()
  assert 'start 1 ended with exit code 42' in (hosts.job() / 'log').read_text()


def test_who_does_not_hear_sigterm_is_killed_after_the_grace(hosts):
  hosts.send()
  hosts.does('deaf')
  hosts.start()
  report = hosts.on_host('stop', 'byol', '1')
  assert (report['state'], report['code']) == ('stopped', 137)


def test_a_training_that_is_killed_with_its_keeper_counts_as_killed(hosts):
  hosts.send()
  hosts.does('train')
  hosts.start()
  training = int((hosts.job() / 'pid').read_text())
  status = pathlib.Path(f'/proc/{training}/status').read_text()
  keeper = int(status.partition('PPid:')[2].split()[0])
  os.kill(keeper, signal.SIGKILL)
  # What it kept goes on, and is seen.
  assert hosts.on_host('status', 'byol')['state'] == 'running'
  os.kill(training, signal.SIGKILL)
  until(lambda: hosts.on_host('status', 'byol')['state'] == 'exited', 'the end')
  assert hosts.on_host('status', 'byol')['code'] == 137


def test_sigterm_to_everything_as_at_a_shutdown_is_the_trainings_to_answer(
  hosts,
):
  hosts.send()
  hosts.does('train')
  hosts.start()
  training = int((hosts.job() / 'pid').read_text())
  os.killpg(os.getpgid(training), signal.SIGTERM)
  until(lambda: hosts.on_host('status', 'byol')['state'] == 'exited', 'the end')
  assert hosts.on_host('status', 'byol')['code'] == 42


def test_a_host_without_the_right_python_is_refused(hosts, capsys):
  python = next(hosts.homes[2].glob('byol_jax/python-*/bin/python'))
  python.write_text('#!/bin/sh\necho Python 3.10.12\n')
  assert hosts.world.run('create') == 0
  assert hosts.world.run('preflight') == 1
  said = capsys.readouterr().err
  assert 'expected Python 3.11.18, found Python 3.10.12' in said

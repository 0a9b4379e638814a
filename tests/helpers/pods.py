"""A TPU slice of two hosts on this machine, behind a fake gcloud."""

import hashlib
import json
import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
LAUNCH = ROOT / 'launch'
COMMIT = '0123456789abcdef0123456789abcdef01234567'
# Any text is a valid value of some key, and must arrive unchanged.
HOSTILE = (
  *('--a=two words', "--b=it's", '--c="$HOME" $(HOME) $$', '--d=`id` \\'),
  *('--e=a\nb', '--f=*;&|<>(){}!#~', '--g=Größe ☃ 😀', '', '--', ': - {x}'),
)
ARGUMENTS = ('pretrain', '--config=pretrain:1000', '--workdir=gs://bucket/run')

# The training of a fake host: does as starts[number of the start][host] says.
_TRAINING = """#!{python} -ES
import json, os, pathlib, signal, sys, time
folder, home = pathlib.Path('{folder}'), pathlib.Path(os.environ['HOME'])
index = int(home.name[-1])
with open(folder / f'trainings-{{index}}', 'a+') as file:
  file.seek(0)
  number = len(file.readlines())
  print(json.dumps(sys.argv[1:]), file=file)
with open(folder / 'tokens', 'a') as file:
  print(os.environ.get('BYOL_JAX_JOB_TOKEN'), file=file)
what = json.loads((folder / 'starts.json').read_text())[number][index]
print('training', number, os.environ['JAX_PLATFORMS'], flush=True)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(42))
if what == 'deaf':
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
if what == 'lost':  # the host, for ssh
  (home / 'byol_jax' / 'current').unlink()
if what == 134:  # JAX ends a process after another one has died
  while not (folder / 'home-1/byol_jax/jobs/byol/exit_code').exists():
    time.sleep(0.02)
if isinstance(what, str):
  (home / 'ready').touch()
  time.sleep(300)
sys.exit(what)
"""


def write_program(path, text):
  """Writes an executable of some lines of shell, or with another #!."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text if text.startswith('#!') else f'#!/bin/sh\n{text}\n')
  path.chmod(0o755)


def check_golden(name, text):
  """Compares a text with tests/launch/golden/NAME; WRITE_GOLDEN=1 writes it."""
  path = ROOT / 'tests' / 'launch' / 'golden' / name
  if os.environ.get('WRITE_GOLDEN'):
    path.write_text(text)
  assert text == path.read_text()


def wait_until(condition):
  deadline = time.monotonic() + 60
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.02)


def _read_lines(path):
  lines = path.read_text().splitlines() if path.exists() else []
  return [json.loads(line) for line in lines]


class Pod:
  """tpu_vm.sh with a fake gcloud, git and clock; see fake_gcloud.py."""

  def __init__(self, folder):
    self.folder = folder
    fake = pathlib.Path(__file__).with_name('fake_gcloud.py')
    for name, text in {
      'gcloud': f'exec {sys.executable} -ES {fake} "$@"',
      'git': f'case $1 in status) cat {folder}/dirty ;;'
      f' rev-parse) echo {COMMIT} ;;'
      f' archive) tar -czf "${{3#--output=}}" -C {ROOT} launch ;; esac',
      'date': f'cat {folder}/clock',
      'sleep': f'/bin/sleep 0.05; echo $(($(cat {folder}/clock) + $1))'
      f' >{folder}/clock',
    }.items():
      write_program(folder / 'bin' / name, text)
    (folder / 'dirty').write_text('')
    (folder / 'clock').write_text('0')
    # What `setup_vm.sh install` leaves on a host, with a fake training.
    lock = (LAUNCH / 'requirements-tpu.txt').read_bytes()
    digest = hashlib.sha256(lock).hexdigest()[:12]
    environment = folder / 'fresh' / 'byol_jax' / f'python-3.11.18-{digest}'
    write_program(
      environment / 'bin' / 'python',
      _TRAINING.format(python=sys.executable, folder=folder),
    )
    (environment / 'complete').touch()
    self.environment = {
      **os.environ,
      'PATH': f'{folder}/bin:{os.environ["PATH"]}',
      'TMPDIR': str(folder),
      'FAKE_GCLOUD': str(folder),
    }
    self.play()

  def play(self, lives=(['ACTIVE'],) * 3, starts=(), existing=None):
    """Sets what happens: see fake_gcloud.py and _TRAINING."""
    script = {'lives': list(lives), 'slice': existing}
    (self.folder / 'script.json').write_text(json.dumps(script))
    (self.folder / 'starts.json').write_text(json.dumps(starts))

  def start(self, verb, *flags, arguments=ARGUMENTS):
    """Starts tpu_vm.sh for two hosts."""
    return subprocess.Popen(
      [
        *(LAUNCH / 'tpu_vm.sh', verb, '--name=byol', '--project=my-project'),
        *('--zone=europe-west4-a', '--topology=v4-16', *flags),
        *('--', *arguments),
      ],
      env=self.environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  def run(self, verb, *flags, **options):
    """Runs tpu_vm.sh; returns (exit code, stdout, stderr)."""
    process = self.start(verb, *flags, **options)
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err

  def call_host(self, *words):
    """Runs setup_vm.sh on the first host; returns what it prints."""
    home = self.folder / 'home-0'
    return subprocess.run(
      [home / 'byol_jax' / 'current' / 'launch' / 'setup_vm.sh', *words],
      env={**self.environment, 'HOME': str(home), 'HOSTNAME': 'w-0'},
      stdout=subprocess.PIPE,
      text=True,
      timeout=60,
      check=True,
    ).stdout

  def actions(self):
    """Returns (verb, arguments) of each call that is no mere query."""
    for argv in _read_lines(self.folder / 'argv.jsonl'):
      verb = argv[3]
      if verb == 'ssh':
        command = next(word for word in argv if word.startswith('--command='))
        verb = command.partition('launch/setup_vm.sh ')[2].split()[0]
      if verb not in ('describe', 'status'):
        yield verb, argv

  def verbs(self):
    return [verb for verb, _ in self.actions()]

  def trainings(self, index=0):
    """Returns the arguments of each training that a host started."""
    return _read_lines(self.folder / f'trainings-{index}')

  def is_ready(self):
    return all((self.folder / f'home-{i}/ready').exists() for i in range(2))

  def close(self):
    """Ends what a test started."""
    for pid in self.folder.glob('home-*/byol_jax/jobs/*/pid'):
      subprocess.run(['kill', '-9', pid.read_text().strip()], check=False)

"""Jobs and a fake gcloud, as several tests of launch/ use them."""

import json
import os
import pathlib
import sys

from byol_jax.planning import topologies
from launch import tpu_pod

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
COMMIT = '0123456789abcdef0123456789abcdef01234567'
ARGUMENTS = ('pretrain', '--config=pretrain:1000', '--workdir=gs://bucket/run')
RUNNING = 'running'


def flags(
  verb, *more, topology='v3-32', capacity='on-demand', arguments=ARGUMENTS
):
  """The command line of tpu_pod."""
  return [
    *(verb, '--name=byol', '--project=my-project', '--zone=europe-west4-a'),
    *(f'--topology={topology}', f'--capacity={capacity}', *more),
    *('--', *arguments),
  ]


def program(path, line):
  """An executable of one line of shell."""
  path.write_text(f'#!/bin/sh\n{line}\n')
  path.chmod(0o755)


class World:
  """A fake gcloud on the PATH; see fake_gcloud.py."""

  def __init__(self, folder, monkeypatch):
    self.folder = folder
    binaries = folder / 'bin'
    binaries.mkdir()
    program(
      binaries / 'gcloud',
      f'exec {sys.executable} -ES {HERE}/fake_gcloud.py "$@"',
    )
    # The tests run in a checkout that others change.
    program(
      binaries / 'git',
      f'if [ "$1" = status ]; then cat {folder}/dirty; else echo {COMMIT}; fi',
    )
    (folder / 'dirty').write_text('')
    monkeypatch.setenv('PATH', f'{binaries}:{os.environ["PATH"]}')
    monkeypatch.setenv('FAKE_GCLOUD', str(folder))
    self.play()

  def play(self, topology='v3-32', **script):
    """Says what will happen, from the beginning."""
    tpu = topologies.find_topology(topology)
    expected = {
      **{'python': '3.11.18', 'jax': '0.10.2', 'jaxlib': '0.10.2'},
      **{'libtpu': '0.0.42.1', 'code': COMMIT, 'workdir': 'writable'},
      'devices': tpu.devices,
      'local_devices': tpu.devices_per_host,
    }
    whole = {
      **{'hosts': tpu.hosts, 'lives': [['ACTIVE']] * 9, 'existing': None},
      **{'starts': [[[0] * tpu.hosts]], 'preflight': {}, 'failing': {}},
      **{'expected': expected, 'homes': [], **script},
    }
    (self.folder / 'script.json').write_text(json.dumps(whole))
    for name in ('state.json', 'argv.jsonl'):
      (self.folder / name).unlink(missing_ok=True)

  def run(self, verb='run', *more, **options):
    """The exit code of tpu_pod with short pauses."""
    # An end in sight, should the script never come to one.
    short = ('--wait-seconds=0.001', '--max-hours=0.01')
    return tpu_pod.main(flags(verb, *short, *more, **options))

  def train(self):
    """Makes the slice and starts the training, as an earlier launcher."""
    self.run('create')
    path = self.folder / 'state.json'
    state = json.loads(path.read_text())
    path.write_text(json.dumps(state | {'started': 1, 'token': 1}))
    (self.folder / 'argv.jsonl').unlink()

  def calls(self):
    """The arguments of every gcloud, in order."""
    path = self.folder / 'argv.jsonl'
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]

  def verbs(self):
    """What was done, in order, without what only asks."""
    names = [self.name(argv) for argv in self.calls()]
    return [name for name in names if name not in ('describe', 'status')]

  def name(self, argv):
    if argv[3] != 'ssh':
      return argv[3]
    command = next(word for word in argv if word.startswith('--command='))
    words = command.removeprefix('--command=').split()
    if words[0].endswith('on_host.sh'):
      return words[1]
    return 'set up' if words[-1].endswith('setup_vm.sh') else 'unpack'

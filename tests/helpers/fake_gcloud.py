"""A gcloud for tests: records its arguments and plays script.json.

  lives   for each slice that is created, the states that `describe` reports,
          one after the other; the last one stays; ERROR lets describe fail
  slice   null, or the slice that exists at first: {label, type, states}

argv.jsonl gets one line of arguments a call. A host is the folder home-INDEX:
`ssh` runs its command there in a shell, `scp` copies there, and a slice that
is lost or deleted loses its processes and folders.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

FOLDER = pathlib.Path(os.environ['FAKE_GCLOUD'])


def end_processes():
  """Kills each training; returns once its supervisor writes nothing more."""
  for lock in FOLDER.glob('home-*/byol_jax/jobs/*/lock'):
    with open(lock) as file:
      while not is_free(file):
        with contextlib.suppress(OSError, ValueError):  # no pid yet, or ended
          os.kill(int((lock.parent / 'pid').read_text()), signal.SIGKILL)
        time.sleep(0.01)


def is_free(file):
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  return True


def read_field(value, field):
  """Returns a.b[0] of a dict, as --format=value(a.b[0]) prints it."""
  for key in field.replace('[0]', '.0').split('.'):
    value = value[int(key)] if isinstance(value, list) else value.get(key, {})
  return value or ''


def execute(script, verb, flags, argv):
  """Plays one call; returns the exit code."""
  made = script['slice']
  if verb == 'create':
    key, _, label = flags['labels'].partition('=')
    script['slice'] = {
      'labels': {key: label},
      'type': flags['accelerator-type'],
      'states': script['lives'].pop(0),
    }
    for index in range(2):
      shutil.copytree(FOLDER / 'fresh', FOLDER / f'home-{index}')
  elif verb == 'describe':
    state = made['states'][0] if made else 'NOT_FOUND'
    if made:
      del made['states'][: len(made['states']) > 1]
    script['is_known'] = state != 'ERROR'
    if state in ('NOT_FOUND', 'ERROR'):
      print('(gcloud)', state, file=sys.stderr)
      return 1
    if state == 'SUSPENDED':
      end_processes()
    node = {'labels': made['labels'], 'acceleratorType': made['type']}
    resource = {
      'state': {'state': state},
      'tpu': {'nodeSpec': [{'node': node}]},
    }
    fields = re.fullmatch(r'value\[separator="\|"\]\((.*)\)', flags['format'])[
      1
    ]
    print('|'.join(read_field(resource, field) for field in fields.split(',')))
  elif verb == 'delete':
    if not script['is_known']:
      return 1  # whose slice it is was not asked
    end_processes()
    for folder in FOLDER.glob('home-*'):
      shutil.rmtree(folder)
    script['slice'] = None
  else:
    codes = []
    for index in '01' if flags['worker'] == 'all' else flags['worker']:
      home = FOLDER / f'home-{index}'
      if verb == 'scp':
        shutil.copy(argv[4], home)
        continue
      print('SSH: connecting to worker', index)  # other lines in between
      done = subprocess.run(
        ['bash', '-c', flags['command']],
        cwd=home,
        env={**os.environ, 'HOME': str(home), 'HOSTNAME': f'w-{index}'},
        check=False,
      )
      codes.append(done.returncode)
    return max(codes, default=0)
  return 0


def main(argv):
  with open(FOLDER / 'argv.jsonl', 'a') as file:
    print(json.dumps(argv), file=file)
  path = FOLDER / 'script.json'
  script = json.loads(path.read_text())
  flags = dict(w[2:].split('=', 1) for w in argv if w[:2] == '--' and '=' in w)
  code = execute(script, argv[3], flags, argv)
  # At once: another call may read it meanwhile.
  new = FOLDER / f'script.{os.getpid()}'
  new.write_text(json.dumps(script))
  new.replace(path)
  return code


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))

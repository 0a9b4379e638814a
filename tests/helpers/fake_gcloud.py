"""A gcloud for tests: writes down its arguments and plays a script.

The folder FAKE_GCLOUD holds script.json, which the test wrote:

  lives      for each slice that is created, the states that `describe` tells,
             one after the other; the last one stays
  existing   null, or a slice that is there before: {labels, type}
  starts     for each start of the training, the answers to the questions
             after it: 'running', or one of each host: an exit code, 'running',
             'stopped' or 'silent'; the last one stays
  preflight  {host: {fact: value}} that differ from what is expected
  failing    {verb or host command: exit code}, for ever
  expected   what a good host answers to preflight

and argv.jsonl, one line of arguments a call. With `homes`, a list of folders,
`ssh` runs its command in a shell with each of them as home, and `scp` copies.
"""

import json
import os
import sys

FOLDER = os.environ['FAKE_GCLOUD']


def value(argv, flag):
  return next(
    (word.partition('=')[2] for word in argv if word.startswith(flag + '=')), ''
  )


def fail(text):
  print(f'ERROR: (gcloud) {text}', file=sys.stderr)
  sys.exit(1)


def created(argv, state, script):
  if state['slice']:
    fail('ALREADY_EXISTS: it is there')
  key, _, name = value(argv, '--labels').partition('=')
  state['slice'] = {
    'labels': {key: name},
    'type': value(argv, '--accelerator-type'),
    'states': script['lives'][state['created']],
  }
  state['created'] += 1
  state['token'] = 0  # fresh hosts


def described(state):
  if state['slice'] is None:
    fail('NOT_FOUND: no such resource')
  states = state['slice']['states']
  node = {
    'labels': state['slice']['labels'],
    'acceleratorType': state['slice']['type'],
  }
  print(
    json.dumps(
      {
        'state': {
          'state': states[0],
          'failedData': {'error': {'message': 'no quota'}},
        },
        'tpu': {'nodeSpec': [{'nodeId': 'a', 'node': node}]},
      }
    )
  )
  del states[: len(states) > 1]


def say(index, **facts):
  # Other lines come in between, as with the real one.
  print('SSH: Attempting to connect to worker', file=sys.stderr)
  print('byol_jax:', json.dumps({'host': f'w-{index}', **facts}), flush=True)


def status(state, script):
  if not state['token']:
    for index in range(script['hosts']):
      say(index, token=0, state='absent', code=None)
    return
  answers = script['starts'][state['started'] - 1]
  answer = answers[min(state['asked'], len(answers) - 1)]
  state['asked'] += 1
  if answer == 'running':
    answer = ['running'] * script['hosts']
  for index, each in enumerate(answer):
    facts = {'token': state['token'], 'code': None}
    if isinstance(each, int):
      say(index, **facts | {'state': 'exited', 'code': each})
    elif each != 'silent':
      say(index, **facts | {'state': each})


def on_hosts(command, state, script):
  """What the hosts answer; the exit code."""
  words = command.split()
  verb = words[1] if words[0].endswith('on_host.sh') else words[0]
  if verb == 'preflight':
    for index in range(script['hosts']):
      odd = script['preflight'].get(f'w-{index}', {})
      say(index, **script['expected'] | odd)
  elif verb == 'start':
    state['started'] += 1
    state['asked'] = 0
    state['token'] = int(words[3])
  elif verb == 'status':
    status(state, script)
  return script['failing'].get(verb, 0)


def in_shells(command, homes):
  """Runs it as sshd does, with one home for each host."""
  import subprocess  # Not above: most calls need to be quick.

  codes = []
  for index, home in enumerate(homes):
    done = subprocess.run(
      ['bash', '-c', command],
      cwd=home,
      env={**os.environ, 'HOME': home, 'BYOL_JAX_HOST': f'w-{index}'},
      stdin=subprocess.DEVNULL,
      check=False,
    )
    codes.append(done.returncode)
  return max(codes)


def main(argv):
  with open(f'{FOLDER}/argv.jsonl', 'a') as file:
    print(json.dumps(argv), file=file)
  with open(f'{FOLDER}/script.json') as file:
    script = json.load(file)
  existing = script['existing']
  state = {
    **{'created': 0, 'started': 0, 'asked': 0, 'token': 0},
    'slice': existing and {'states': ['ACTIVE'], **existing},
  }
  if os.path.exists(f'{FOLDER}/state.json'):
    with open(f'{FOLDER}/state.json') as file:
      state = json.load(file)
  verb = argv[3]
  code = script['failing'].get(verb, 0)
  if code:
    print('ERROR: (gcloud) no luck', file=sys.stderr)
  elif verb == 'create':
    created(argv, state, script)
  elif verb == 'describe':
    described(state)
  elif verb == 'delete':
    state['slice'] = None
  elif verb == 'ssh':
    command = value(argv, '--command')
    if script['homes']:
      code = in_shells(command, script['homes'])
    else:
      code = on_hosts(command, state, script)
  elif verb == 'scp':
    import shutil

    for home in script['homes']:
      shutil.copy(argv[4], home)
  with open(f'{FOLDER}/state.json', 'w') as file:
    json.dump(state, file)
  return code


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))

"""Training steps per second on CPUs, ours beside those of lightly in PyTorch.

PYTHONPATH=. python benchmarks/cpu_peer.py [--output=FILE.json] [--rounds=6]

The shapes of `cpu_steps.py`, no augmentation, heads 4096/256. Ours is the step
of `pretrain:1000` (LARS, online classifier), on one CPU device, which uses all
cores, and on a device a core, which divide the batch; theirs is the loop of
lightly's BYOL example (SGD, no classifier) with torchvision's ResNet. Three
processes take steps in turns. Needs `pip install torch torchvision lightly`
beside this package. Compare the ratios. Other work slows lightly's more, whose
threads wait for each other: on a busy machine the best step of each says most.
"""

import argparse
import copy
import json
import os
import subprocess
import sys

from benchmarks import cpu_steps, results_file, timing

PACKAGES = ('torch', 'torchvision', 'lightly')


def make_our_step(encoder, stem, size, batch_size):
  """Returns a function without arguments that takes one step of ours."""
  return cpu_steps.make_step(*cpu_steps.build(encoder, stem, size, batch_size))


def make_their_step(encoder, stem, size, batch_size):
  """Returns a function without arguments that takes one step of lightly's."""
  import torch

  from tests.helpers import torchvision_operators

  torch.set_num_threads(os.cpu_count())
  torchvision_operators.define()
  from lightly import loss as loss_lib
  from lightly.models import modules, utils
  import torchvision

  resnet = torchvision.models.get_model(encoder.lower())
  if stem == 'small':
    resnet.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
    resnet.maxpool = torch.nn.Identity()
  width, resnet.fc = resnet.fc.in_features, torch.nn.Identity()
  projector = modules.BYOLProjectionHead(width, 4096, 256)
  online = torch.nn.Sequential(resnet, projector)
  predictor = modules.BYOLPredictionHead(256, 4096, 256)
  target = copy.deepcopy(online)
  utils.deactivate_requires_grad(target)
  parameters = [*online.parameters(), *predictor.parameters()]
  optimizer = torch.optim.SGD(parameters, lr=0.06)
  criterion = loss_lib.NegativeCosineSimilarity()
  views = [torch.rand(batch_size, 3, size, size) for _ in range(2)]

  def step():
    utils.update_momentum(online, target, m=0.996)
    predictions = [predictor(online(view)) for view in views]
    projections = [target(view).detach() for view in views]
    first, second = map(criterion, predictions, projections[::-1])
    (0.5 * (first + second)).backward()
    optimizer.step()
    optimizer.zero_grad()

  return step


DEVICES = {'ours': 1, 'ours, a device a core': os.cpu_count(), 'lightly': 1}


def work(program, name):
  """Takes a step for each line of the input; prints clock and CPU seconds."""
  make_step = make_their_step if program == 'lightly' else make_our_step
  step = make_step(*cpu_steps.SHAPES[name])
  for _ in range(2):
    step()
  for _ in sys.stdin:
    print(json.dumps(timing.timed(step)), flush=True)


def measure(name, rounds):
  """Images per second of all, and the ratios ours : theirs."""
  workers = {
    program: subprocess.Popen(
      [sys.executable, __file__, f'--program={program}', '--shapes', name],
      env=os.environ | {'JAX_NUM_CPU_DEVICES': str(devices)},
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    for program, devices in DEVICES.items()
  }
  seconds = {program: [] for program in DEVICES}
  for number in range(rounds):
    for program in list(DEVICES)[:: 1 if number % 2 else -1]:
      worker = workers[program]
      worker.stdin.write('step\n')
      worker.stdin.flush()
      seconds[program].append(json.loads(worker.stdout.readline()))
  for worker in workers.values():
    worker.communicate()
  return {
    program: describe(seconds[program], seconds['lightly'], name)
    for program in DEVICES
  } | {'load_average': os.getloadavg()[0]}


def describe(seconds, theirs, name):
  """Images per second of a program, and its ratios to lightly's."""
  batch_size = cpu_steps.SHAPES[name][-1]
  best, best_theirs = (min(times)[0] for times in (seconds, theirs))
  return {
    'images_per_second': batch_size / timing.median_seconds(seconds)['seconds'],
    'best_images_per_second': batch_size / best,
    'best_ratio': best_theirs / best,
    **timing.median_ratios(theirs, seconds),
  }


def main():
  parser = results_file.make_parser(__doc__, rounds=6)
  parser.add_argument('--shapes', nargs='+', default=list(cpu_steps.SHAPES))
  parser.add_argument('--program', help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  if arguments.program:
    work(arguments.program, *arguments.shapes)
    return
  result = {
    'what': 'training steps on CPUs, ours and lightly in PyTorch in turns;'
    ' ratio: our speed over theirs, medians over rounds or of the best steps',
    'rounds': arguments.rounds,
    'shapes': {},
  }
  for name in arguments.shapes:
    result['shapes'][name] = measure(name, arguments.rounds)
    print(name, json.dumps(result['shapes'][name]), flush=True)
  results_file.write_result(result, arguments.output, PACKAGES)


if __name__ == '__main__':
  main()

"""Training steps per second on CPUs, ours beside those of lightly in PyTorch.

PYTHONPATH=. python benchmarks/cpu_peer.py [--output=FILE.json] [--rounds=6]

The shapes of `cpu_steps.py`, no augmentation, heads 4096/256. Ours is the step
of `pretrain:1000` (LARS, online classifier); theirs is the loop of lightly's
BYOL example (SGD, no classifier) with torchvision's ResNet. Two processes take
steps in turns. Needs `pip install torch torchvision lightly` beside this
package. Compare the ratios. Other work slows lightly's more, whose threads wait
for each other: on a busy machine the best step of each says most.
"""

import argparse
import copy
import json
import os
import statistics
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


STEPS = {'ours': make_our_step, 'lightly': make_their_step}


def work(program, name):
  """Takes a step for each line of the input; prints clock and CPU seconds."""
  step = STEPS[program](*cpu_steps.SHAPES[name])
  for _ in range(2):
    step()
  for _ in sys.stdin:
    print(json.dumps(timing.timed(step)), flush=True)


def measure(name, rounds):
  """Images per second of both, and the ratios ours : theirs."""
  workers = {
    program: subprocess.Popen(
      [sys.executable, __file__, f'--program={program}', '--shapes', name],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    for program in STEPS
  }
  seconds = {program: [] for program in STEPS}
  for number in range(rounds):
    for program in list(STEPS)[:: 1 if number % 2 else -1]:
      worker = workers[program]
      worker.stdin.write('step\n')
      worker.stdin.flush()
      seconds[program].append(json.loads(worker.stdout.readline()))
  for worker in workers.values():
    worker.communicate()
  median, batch_size = statistics.median, cpu_steps.SHAPES[name][-1]
  clocks = {key: [clock for clock, _ in seconds[key]] for key in STEPS}
  best = {key: batch_size / min(clocks[key]) for key in STEPS}
  return {
    'images_per_second': {
      key: batch_size / median(clocks[key]) for key in STEPS
    },
    'best_images_per_second': best,
    'best_ratio': best['ours'] / best['lightly'],
    **timing.median_ratios(seconds['lightly'], seconds['ours']),
    'load_average': os.getloadavg()[0],
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

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

import copy
import json
import os
import sys

from benchmarks import cpu_steps, timing

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


PROGRAMS = {
  'ours': {'JAX_NUM_CPU_DEVICES': '1'},
  'ours, a device a core': {'JAX_NUM_CPU_DEVICES': str(os.cpu_count())},
  'lightly': {},
}


def work(program, shape):
  """Takes steps of one program for `measure`."""
  make_step = make_their_step if program == 'lightly' else make_our_step
  step = make_step(*json.loads(shape))
  for _ in range(2):
    step()
  timing.serve_steps(step, program)


def measure(shape, rounds):
  """Images per second of all, and the ratios ours : theirs."""
  _, seconds = cpu_steps.time_workers(__file__, PROGRAMS, shape, rounds)
  return {
    program: describe(seconds[program], seconds['lightly'], shape[-1])
    for program in PROGRAMS
  }


def describe(seconds, theirs, batch_size):
  """Images per second of a program, and its ratios to lightly's."""
  best, best_theirs = (min(times)[0] for times in (seconds, theirs))
  return {
    'images_per_second': batch_size / timing.median_seconds(seconds)['seconds'],
    'best_images_per_second': batch_size / best,
    'best_ratio': best_theirs / best,
    **timing.median_ratios(theirs, seconds),
  }


if __name__ == '__main__':
  if sys.argv[1:2] == ['work']:
    work(*sys.argv[2:])
  else:
    cpu_steps.run(
      __doc__,
      'training steps on CPUs, ours and lightly in PyTorch in turns; ratio: our'
      ' speed over theirs, medians over rounds or of the best steps',
      measure,
      PACKAGES,
    )

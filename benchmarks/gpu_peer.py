"""BYOL in PyTorch as in lightly's example: a worker of `gpu.py`.

torchvision's ResNet, lightly's heads, target update and loss, SGD in its fused
form; channels_last; bfloat16 by autocast, or float32 in TensorFloat-32; as it
is (`eager`) and by torch.compile, which gets each network as one module.
"""

import argparse
import copy
import time

from lightly import loss as loss_lib
from lightly.models import modules, utils
import torch
import torchvision

from benchmarks import worker


class Model:
  """Both networks, the loss and the optimizer; one step at a time.

  Args:
    arguments: of `main`.
  """

  def __init__(self, arguments):
    self.device = 'cuda' if torch.cuda.is_available() else 'cpu'
    self.in_bfloat16 = arguments.precision == 'bfloat16'
    self.images = arguments.batch_size
    resnet = torchvision.models.get_model(arguments.encoder.lower())
    width, resnet.fc = resnet.fc.in_features, torch.nn.Identity()
    encoder = torch.nn.Sequential(
      resnet, modules.BYOLProjectionHead(width, 4096, 256)
    )
    predictor = modules.BYOLPredictionHead(256, 4096, 256)
    target = copy.deepcopy(encoder)
    utils.deactivate_requires_grad(target)
    place = lambda x: x.to(self.device, memory_format=torch.channels_last)
    self.encoder, self.target = place(encoder), place(target)
    # Of these two torch.compile makes programs; they share the parameters.
    self.online = torch.nn.Sequential(self.encoder, place(predictor))
    self.forwards = {'eager': (self.online, self.target)}
    if not arguments.only_eager:
      self.forwards['compile'] = (
        torch.compile(self.online),
        torch.compile(self.target),
      )
    parameters = [p for p in self.online.parameters() if p.requires_grad]
    self.optimizer = torch.optim.SGD(
      parameters, lr=0.06, momentum=0.9, weight_decay=5e-4, fused=True
    )
    self.criterion = loss_lib.NegativeCosineSimilarity()
    shape = self.images, 3, arguments.size, arguments.size
    self.views = [place(torch.rand(shape)) for _ in range(2)]

  def take_steps(self, name, count):
    """Takes steps and waits for them."""
    online, target = self.forwards[name]
    for _ in range(count):
      utils.update_momentum(self.encoder, self.target, m=0.996)
      with torch.autocast(self.device, torch.bfloat16, self.in_bfloat16):
        predictions = [online(view) for view in self.views]
        with torch.no_grad():
          projections = [target(view) for view in self.views]
        first, second = map(self.criterion, predictions, projections[::-1])
        loss = 0.5 * (first + second)
      loss.backward()
      self.optimizer.step()
      self.optimizer.zero_grad()
    assert torch.isfinite(loss).item()  # waits

  def compile(self):
    """Takes first steps; returns the seconds that each form took."""
    found = {}
    for name in self.forwards:
      began = time.perf_counter()
      self.take_steps(name, 2)
      found[name] = round(time.perf_counter() - began, 1)
    if self.device == 'cuda':
      torch.cuda.empty_cache()  # others compile meanwhile
    return {'compile_seconds': found['compile' if 'compile' in found else name]}

  def measure(self, rounds, seconds):
    """Returns the rates of each form, and those of the faster one."""
    # From now on, when nothing else uses the device, cuDNN chooses by time.
    torch.backends.cudnn.benchmark = True
    forms = {
      name: worker.time_steps(
        lambda count, name=name: self.take_steps(name, count),
        *(self.images, rounds, seconds),
      )
      for name in self.forwards
    }
    best = max(forms, key=lambda name: forms[name]['images_per_second'])
    found = forms[best] | {'best': best, 'forms': forms}
    if self.device == 'cuda':
      peak = torch.cuda.max_memory_allocated() / 2**30
      found['peak_gib'] = round(peak, 1)
    return found | {'batch_size': self.images}


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--precision', required=True)
  parser.add_argument('--batch_size', type=int, required=True)
  parser.add_argument('--encoder', default='ResNet50')
  parser.add_argument('--size', type=int, default=224)
  parser.add_argument('--rounds', type=int, required=True)
  parser.add_argument('--seconds', type=float, required=True)
  parser.add_argument('--only_eager', action='store_true')
  arguments = parser.parse_args()
  # TensorFloat-32, as XLA does by default.
  torch.set_float32_matmul_precision('high')
  model = Model(arguments)
  worker.serve(
    model.compile,
    lambda: model.measure(arguments.rounds, arguments.seconds),
  )


if __name__ == '__main__':
  main()

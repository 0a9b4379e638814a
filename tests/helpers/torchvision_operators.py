"""Lets torchvision built for CUDA be imported beside a torch for CPUs."""

import functools
import importlib.util
import pathlib


@functools.cache
def define():
  """Defines the operators that torchvision asks for while it is imported.

  Its compiled ones cannot be loaded without CUDA; a ResNet needs none.
  """
  import torch

  package = pathlib.Path(importlib.util.find_spec('torchvision').origin).parent
  try:
    torch.ops.load_library(str(next(package.glob('_C*.so'))))
  except OSError:
    torch.library.define(
      'torchvision::nms', '(Tensor boxes, Tensor scores, float limit) -> Tensor'
    )
    torch.library.define(
      'torchvision::qnms',
      '(Tensor boxes, Tensor scores, float limit) -> Tensor',
    )

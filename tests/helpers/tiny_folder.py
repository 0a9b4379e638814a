"""Folders of small images of every kind, and a run on one of them."""

import pathlib

import numpy as np
from PIL import Image

from byol_jax import api
from tests.helpers.tiny_config import FLIP_ONLY, SMALL

CLASSES = ('ant', 'bee', 'cow')
KINDS = ('jpg', 'png', 'webp', 'grey.jpg', 'rgba.png')
PER_CLASS = 12

# What the smallest run says on a command line; two steps of eight images.
VALUES = SMALL | {'epochs': 0.6, 'schedule.warmup_epochs': 0.0}
# What has no chance is not compiled.
VALUES |= FLIP_ONLY | {
  f'augment.{view}.flip.probability': 0.0 for view in ('view1', 'view2')
}
SMALLEST = [f'--config.{key}={value}' for key, value in VALUES.items()]


def picture(generator, colour, mode):
  """A noisy image of one colour and of any size."""
  height, width = generator.integers(9, 40, 2)
  pixels = np.asarray(colour) + generator.integers(-40, 40, (height, width, 3))
  return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).convert(mode)


def write(folder, labelled=True):
  """36 images; a class, the colour, is a sub-folder."""
  generator = np.random.default_rng(0)
  for label, name in enumerate(CLASSES):
    colour = np.roll([200, 60, 60], label)
    for i in range(PER_CLASS):
      kind = KINDS[i % len(KINDS)]
      mode = {'grey.jpg': 'L', 'rgba.png': 'RGBA'}.get(kind, 'RGB')
      file = f'{name}/{i:02d}.{kind}' if labelled else f'{name}{i:02d}.{kind}'
      path = pathlib.Path(folder, file)
      path.parent.mkdir(parents=True, exist_ok=True)
      picture(generator, colour, mode).save(path)
  return pathlib.Path(folder)


def make_run(base):
  """(folder, workdir) of the smallest run, below `base`."""
  folder, workdir = write(base / 'images'), base / 'run'
  api.pretrain('shapes', workdir, VALUES | {'dataset': str(folder)})
  return folder, workdir

"""The blocks of docs/python.md run in their order, and do what they say."""

import pathlib
import re

import numpy as np
from PIL import Image
import pytest

import byol_jax
from byol_jax import api
from byol_jax.data.sources import shapes
from tests.helpers import official, tiny_config

PAGE = pathlib.Path(__file__).parents[1] / 'docs' / 'python.md'
BLOCKS = re.findall(r'^```python\n(.*?)^```', PAGE.read_text(), re.M | re.S)
NUM_IMAGES = {'train': 600, 'test': 300}


def draw(split):
  """Images of shapes, uint8 [N, 32, 32, 3], and labels, int [N]."""
  rows = range(NUM_IMAGES[split])
  images = np.stack([shapes.draw_image(split, i) for i in rows])
  labels = [shapes.ShapesSource(split).read(i)[1] for i in rows]
  return images, np.array(labels)


@pytest.fixture(scope='module')
def page(tmp_path_factory):
  """The names that the blocks define, after all of them."""
  folder = tmp_path_factory.mktemp('page')
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    values = tiny_config.FLIP_ONLY | {'epochs': 0.05, 'log.tensorboard': False}
    # The colour operations take most of the time to compile.
    patch.setattr(
      byol_jax,
      'pretrain',
      lambda config, workdir, changes: api.pretrain(
        config, workdir, values | changes
      ),
      raising=False,
    )
    byol_jax.pretrain('shapes', 'runs/demo', {})
    images, labels = draw('train')
    pathlib.Path('images').mkdir()
    for name, image in zip(('one', 'two', 'three'), images):
      Image.fromarray(image).save(f'images/{name}.png')
    official.write_file(
      pathlib.Path('pretrain_res50x1.pkl'), official.read_vectors()
    )
    names = {'images': images, 'labels': labels}
    for block in BLOCKS:
      exec(compile(block, str(PAGE), 'exec'), names)
    names['folder'] = folder
  return names


def count_lines(pattern):
  """The lines of code of the only block that has a pattern."""
  (block,) = [block for block in BLOCKS if re.search(pattern, block)]
  return len([line for line in block.splitlines() if line.strip()])


def test_the_examples_are_short():
  assert count_lines('argsort') <= 15
  assert count_lines('def fine_tune') <= 20


def test_every_block_runs_and_gives_what_it_says(page):
  encoder = page['encoder']
  assert page['representations'].shape == (1, encoder.dim)
  assert page['saliency'].shape == (2, 32, 32, 3)
  assert page['outputs'].representation.shape == (600, encoder.dim)
  assert page['classes'].shape == (600,)
  assert 'TinyResNet' in repr(page['published'])
  assert page['results']['queries'] == 1000
  with np.load(page['folder'] / 'representations.npz') as file:
    assert sorted(file['names']) == ['one.png', 'three.png', 'two.png']


def test_fine_tuning_improves_on_a_linear_head_of_the_frozen_encoder(page):
  encoder, fine_tune = page['encoder'], page['fine_tune']
  images, labels = draw('train')
  tests, answers = draw('test')
  frozen = encoder(images)
  mean, scale = frozen.mean(0), frozen.std(0) + 1e-6
  features = np.c_[(frozen - mean) / scale, np.ones(len(frozen))]
  # Ridge regression on the classes.
  gram = features.T @ features + 0.1 * np.eye(features.shape[1])
  head = np.linalg.solve(gram, features.T @ np.eye(10)[labels])
  found = np.c_[(encoder(tests) - mean) / scale, np.ones(len(tests))] @ head
  linear = np.mean(found.argmax(1) == answers)
  crops = encoder.preprocess(images)
  (params, head), state = fine_tune(encoder, crops, labels, 10, 300)
  outputs, _ = page['apply'](params, state, encoder.preprocess(tests))
  tuned = np.mean((outputs.representation @ head).argmax(1) == answers)
  # Three standard deviations of the difference of two shares of 300 images.
  assert tuned > linear + 3 * (0.25 * 2 / 300) ** 0.5, (linear, tuned)

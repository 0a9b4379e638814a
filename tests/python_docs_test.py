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
NUM_IMAGES = 600


def draw():
  """Images of shapes, uint8 [N, 32, 32, 3], and labels, int [N]."""
  rows = range(NUM_IMAGES)
  images = np.stack([shapes.draw_image('train', i) for i in rows])
  labels = [shapes.ShapesSource('train').read(i)[1] for i in rows]
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
    images, labels = draw()
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
  size = encoder.image_size
  assert page['saliency'].shape == (2, size, size, 3)
  assert page['outputs'].representation.shape == (NUM_IMAGES, encoder.dim)
  # Chance is 0.1, whose deviation over 600 images is 0.012; found was 0.31.
  assert np.mean(page['classes'] == page['labels']) > 0.2
  for module, leaves in page['params'].items():  # heads do not learn
    for name, x in leaves.items():
      has_moved = np.any(x != encoder.params[module][name])
      assert has_moved == module.startswith('mini_res_net/'), module
  assert 'TinyResNet' in repr(page['published'])
  assert page['results']['queries'] == 1000
  with np.load(page['folder'] / 'representations.npz') as file:
    assert sorted(file['names']) == ['one.png', 'three.png', 'two.png']

"""The pictures of views: what they say was drawn is what was applied."""

import colorsys
import re

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from byol_jax import augment, byol, errors, experiment, networks, parallel
from byol_jax.data import from_config
from byol_jax.data.sampling import resize
from byol_jax.data.sources import arrays
from byol_jax.tools import views
from tests.helpers import tiny_config

COUNT, SIZE = 12, 20
OPERATIONS = ['flip', 'jitter', 'grayscale', 'blur', 'solarize']


@pytest.fixture(scope='module')
def config():
  """Of view 2 every operation acts on about half of the images."""
  odds = {f'augment.view2.{name}.probability': 0.5 for name in OPERATIONS}
  always = {'augment.view1.blur.probability': 1.0}
  return tiny_config.tiny('pretrain', **odds | always, image_size=SIZE)


@pytest.fixture(scope='module')
def images():
  fields = np.random.default_rng(0).integers(0, 256, (COUNT, 5, 4, 3), np.uint8)
  return fields.repeat(7, 1).repeat(8, 2)


@pytest.fixture(scope='module')
def dataset(config, images):
  source = arrays.ArraySource(images, name='fields')
  return from_config.make_image_set(config, 'train', source=source)


@pytest.fixture(scope='module')
def traced(dataset, config):
  return views.trace_views(dataset, config, COUNT)


def test_the_last_pictures_are_what_the_first_step_trains_on(
  dataset, config, traced
):
  """The loss gets the whole batch; its network here is the identity."""
  batch = next(iter(dataset.view_batches(COUNT, 0, 1)))
  seen = {}

  def spy(i, function):
    def call(images, keys):
      found = function(images, keys)
      jax.debug.callback(lambda x: seen.update({i: np.asarray(x)}), found)
      return found

    return call

  def apply(params, state, images, is_training):
    flat = images.reshape(len(images), -1)
    return networks.Outputs(flat, flat, flat, None), state

  augments = [
    spy(*pair) for pair in enumerate(experiment.make_augments(config))
  ]
  forward = networks.Forward(init=None, apply=networks.apply_in_turn(apply))
  loss = byol.make_loss(forward, augments, lambda x, y: x[0].projection[:, 0])
  blank = dict.fromkeys(byol.ByolState._fields, ())
  rng = jax.random.PRNGKey(config.seed)
  state = byol.ByolState(**blank | {'step': jnp.zeros((), int), 'rng': rng})
  one = {name: jnp.asarray(batch[name][0]) for name in ('view1', 'view2')}
  parallel.on_one_device(lambda s, b: loss((), s, b)[0])(state, one)
  jax.effects_barrier()
  for i in (0, 1):
    shown = np.stack([each.views[i].image for each in traced])
    # Programs of their own: other roundings.
    np.testing.assert_allclose(shown, seen[i], atol=2e-5)


def test_the_captions_give_the_views(traced, images):
  """Applies what the lines say, by the plain functions, to the image before."""
  acted = {name: set() for name in OPERATIONS}
  for each in traced:
    assert any(np.array_equal(each.image, image) for image in images)
    for view, names in zip(each.views, (['flip', 'blur'], OPERATIONS)):
      window = resize.make_square_window(view.window, SIZE)
      crop = np.zeros((SIZE, SIZE, 3), np.float32)
      resize.resample(each.image, window, crop)
      np.testing.assert_array_equal(crop, view.crop)
      assert [stage.name for stage in view.stages] == names
      before = view.crop
      for stage in view.stages:
        lines = views.describe_drawn(stage)
        acted[stage.name].add(lines != ['not applied'])
        if lines == ['not applied']:
          np.testing.assert_array_equal(stage.image, before)
        else:
          found = reapply(stage.name, lines, before)
          # Three decimals are shown; a turn of hue is six ramps of colour.
          np.testing.assert_allclose(stage.image, found, atol=0.01)
        before = stage.image
  assert all(seen == {True, False} for seen in acted.values())


def reapply(name, lines, image):
  """Numpy and `colorsys`, from the text alone."""
  numbers = [float(x) for x in re.findall(r'[+-]?\d+\.?\d*', ' '.join(lines))]
  luma = image @ np.asarray(augment.GRAY_WEIGHTS)
  if name == 'jitter':
    values = dict(zip(('brightness', 'contrast', 'saturation', 'hue'), numbers))
    for each in lines[-1].removeprefix('order: ').split(', '):
      image = np.clip(adjust(each, values[each], image), 0, 1)
    return image
  if name == 'blur':
    return np.asarray(augment.gaussian_blur(jnp.asarray(image), numbers[0]))
  return {
    'flip': image[:, ::-1],
    'grayscale': np.stack([luma] * 3, axis=-1),
    'solarize': np.where(image < (numbers or [0])[0], image, 1 - image),
  }[name]


def adjust(name, value, image):
  center = image.mean(axis=(0, 1))
  if name == 'brightness':
    return image + value
  if name == 'contrast':
    return value * (image - center) + center
  turn, factor = (value, 1) if name == 'hue' else (0, value)
  found = [
    colorsys.hsv_to_rgb((h + turn) % 1, min(1, s * factor), v)
    for h, s, v in (colorsys.rgb_to_hsv(*x) for x in image.reshape(-1, 3))
  ]
  return np.reshape(found, image.shape)


def test_the_file_of_one_image_is_drawn(images, tmp_path):
  config = tiny_config.tiny('pretrain')
  name = 'ein \u732b.png'
  Image.fromarray(images[0]).save(tmp_path / name)
  output = tmp_path / 'new' / 'views.png'
  where = str(tmp_path / name)
  assert views.run(where, config, output=str(output), count=3) == 1
  with Image.open(output) as sheet:
    assert sheet.format == 'PNG' and sheet.width > 3 * 128
    # Two rows; the window of the crop is drawn on the image.
    assert 256 < sheet.height < 700
    colours = {colour for _, colour in sheet.getcolors(1 << 20)}
  assert {(214, 39, 40), (31, 119, 180)} <= colours


def test_what_cannot_be_drawn_is_one_line(config, images, tmp_path):
  (tmp_path / 'none.jpg').write_bytes(b'none')
  for path in ('none.jpg', 'absent.png', 'absent'):
    where, output = str(tmp_path / path), str(tmp_path / 'x.png')
    with pytest.raises(errors.DataError, match=path):
      views.run(where, config, output=output, count=1)
  assert not (tmp_path / 'x.png').exists()
  Image.fromarray(images[0]).save(tmp_path / 'one.png')
  flips = tiny_config.tiny('pretrain')
  where = str(tmp_path / 'one.png')
  with pytest.raises(errors.ConfigError, match=r"a \.png file, found 'x\.jpg'"):
    views.run(where, flips, output='x.jpg', count=1)
  with pytest.raises(errors.DataError, match=r"output '/dev/null/x\.png'"):
    views.run(where, flips, output='/dev/null/x.png', count=1)

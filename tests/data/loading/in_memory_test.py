"""Images in memory and single files become the crops of an evaluation."""

import numpy as np
from PIL import Image
import pytest

from byol_jax import errors
from byol_jax.data.loading import in_memory
from byol_jax.data.sampling import resize
from tests.helpers.made import smooth

MODES = (
  *('1', 'L', 'LA', 'La', 'P', 'PA', 'RGB', 'RGBA', 'RGBa', 'CMYK', 'YCbCr'),
  *('HSV', 'LAB', 'I', 'I;16', 'F'),
)


def crop(image, size=8, rule='whole'):
  """The crop of one image, float32 [size, size, 3]."""
  return in_memory.crop_images(in_memory.list_images(image), size, rule)[0]


def flat(colour, mode='RGBA', size=(9, 12)):
  """An image of one colour."""
  return Image.new(mode, size, colour)


@pytest.mark.parametrize('rule', resize.METHODS)
def test_an_image_has_the_crop_that_is_asked_for(rule):
  image = smooth(0, 20, 30)
  expected = resize.crop_for_evaluation(image, 8, rule)
  # Bytes and floats of an image differ by rounding.
  np.testing.assert_allclose(crop(image, rule=rule), expected, atol=1e-6)


@pytest.mark.parametrize('mode', MODES)
def test_every_mode_of_pillow_is_an_image(mode):
  found = crop(Image.new(mode, (9, 12)))
  assert found.dtype == np.float32 and found.shape == (8, 8, 3)
  assert found.min() >= 0 and found.max() <= 1


@pytest.mark.parametrize('alpha', (0, 51, 255))
@pytest.mark.parametrize('kind', ('RGBA', 'LA', 'palette'))
def test_transparent_pixels_show_white(kind, alpha):
  colour = (200, 100, 0) if kind != 'LA' else (60,) * 3
  if kind == 'palette':
    image = flat(0, 'P')
    image.putpalette(colour)
    image.info['transparency'] = bytes([alpha])
  else:
    image = flat((*colour[: len(kind) - 1], alpha), kind)
  share = alpha / 255
  expected = share * np.array(colour) / 255 + 1 - share
  # Pillow rounds to bytes.
  np.testing.assert_allclose(crop(image).mean((0, 1)), expected, atol=0.003)


@pytest.mark.parametrize('kind', ('RGBA', 'LA', 'L', 'P', 'RGB'))
def test_a_path_is_the_image_in_it(tmp_path, kind):
  pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 4), np.uint8)
  image = Image.fromarray(pixels, 'RGBA').convert(kind)
  path = tmp_path / 'x.png'
  image.save(path)
  for found in (path, str(path)):
    np.testing.assert_array_equal(crop(found), crop(image))
  mixed = in_memory.crop_images([path, image, pixels[..., :3]], 8, 'whole')
  assert mixed.shape == (3, 8, 8, 3)


def test_several_images_come_in_any_iterable(tmp_path):
  """As the files of a glob, a generator, or a column of a table."""
  paths = [tmp_path / name for name in ('a.png', 'b.png')]
  for i, path in enumerate(paths):
    Image.fromarray(smooth(i, 20, 30)).save(path)
  expected = in_memory.list_images(paths)
  for several in (
    tmp_path.glob('*.png'),
    (path for path in paths),
    dict.fromkeys(paths).keys(),
  ):
    assert sorted(in_memory.list_images(several)) == expected
  names = [str(path) for path in paths]
  for column in (np.array(names), np.array(paths, object)):
    found = in_memory.crop_images(in_memory.list_images(column), 8, 'whole')
    np.testing.assert_array_equal(found[1], crop(paths[1]))


def write_text(tmp_path):
  (tmp_path / 'text.png').write_text('no image')
  return tmp_path / 'text.png'


def open_half(tmp_path):
  path = tmp_path / 'half.png'
  Image.fromarray(smooth(0, 20, 30)).save(path)
  path.write_bytes(path.read_bytes()[:300])
  return Image.open(path)


def open_closed(tmp_path):
  Image.new('RGB', (9, 12)).save(tmp_path / 'x.png')
  image = Image.open(tmp_path / 'x.png')
  image.close()
  return image


@pytest.mark.parametrize(
  'make, pattern',
  (
    (write_text, r'text\.png.*is none of JPEG'),
    (lambda path: 'cat.jpg', "'cat.jpg': cannot be read: No such file"),
    (lambda path: [path], 'cannot be read'),
    (lambda path: np.zeros((0, 8, 8, 3), np.uint8), 'one, found none'),
    (lambda path: np.zeros((8, 8), np.uint8), r'of Pillow, found \[8, 8\]'),
    (lambda path: np.zeros((2, 3, 8, 8), np.uint8), r'found \[3, 8, 8\]'),
    (lambda path: [np.full((8, 8, 3), np.nan)], r'1\], found \[nan, nan\]'),
    (lambda path: None, 'found a NoneType'),
    (lambda path: [None], 'found a NoneType'),
    (lambda path: {'a': 1}, 'found a dict'),
    (lambda path: b'\x89PNG', 'found a bytes'),
    (lambda path: iter([]), 'at least one, found none'),
    (open_half, 'cannot be decoded: OSError'),
    (open_closed, 'cannot be decoded: ValueError'),
  ),
)
def test_what_cannot_become_an_image_is_named(tmp_path, make, pattern):
  with pytest.raises(errors.DataError, match=pattern):
    crop(make(tmp_path))

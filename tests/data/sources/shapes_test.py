import hashlib
import io
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from byol_jax.data.sources import shapes


def decoded(split, index):
  return np.asarray(Image.open(io.BytesIO(shapes.encoded(split, index))))


@pytest.fixture(scope='module')
def drawn():
  return np.stack([shapes.draw('train', i) for i in range(1000)])


def test_classes_are_balanced_in_both_splits():
  for split, count in (('train', 4000), ('test', 1000)):
    source = shapes.ShapesSource(split)
    assert len(source) == count
    # Reading makes the image; the labels of a stretch stand for all.
    labels = [source.read(i)[1] for i in range(0, count, 7)]
    assert labels == [i % 10 for i in range(0, count, 7)]
    assert source.num_classes == len(source.class_names) == 10


def test_images_are_rgb_jpegs_of_32_pixels_close_to_the_drawing():
  for index in range(20):
    image = Image.open(io.BytesIO(shapes.encoded('train', index)))
    assert (image.format, image.mode, image.size) == ('JPEG', 'RGB', (32, 32))
    difference = np.asarray(image, float) - shapes.draw('train', index)
    # Quality 90 with full chroma: some levels where an edge is sharp.
    assert np.abs(difference).mean() < 5


def test_another_process_draws_the_same():
  code = (
    'import hashlib, numpy as np; from byol_jax.data.sources import shapes;'
    'print(hashlib.sha256(np.stack([shapes.draw(s, i) for s in'
    ' ("test", "train") for i in (999, 3, 500)]).tobytes()).hexdigest())'
  )
  run = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  here = [shapes.draw(s, i) for s in ('test', 'train') for i in (999, 3, 500)]
  expected = hashlib.sha256(np.stack(here).tobytes()).hexdigest()
  assert run.stdout.strip() == expected


def test_no_image_occurs_twice():
  train = {shapes.draw('train', i).tobytes() for i in range(400)}
  test = {shapes.draw('test', i).tobytes() for i in range(400)}
  assert len(train | test) == 800


def test_a_bright_shape_on_a_dark_ground(drawn):
  brightest = np.quantile(drawn.max(-1).reshape(1000, -1), 0.97, axis=1)
  corners = np.median(drawn[:, ::31, ::31].max(-1).reshape(1000, -1), axis=1)
  assert (brightest > 130).all()
  assert (corners < 110).all()


def test_colour_and_place_do_not_tell_the_class(drawn):
  """Nearest class mean on nuisances alone stays at chance, 10 %."""
  labels = np.arange(1000) % 10
  value = drawn.max(-1).astype(float)
  bright = value > 0.6 * value.max((1, 2), keepdims=True)
  weight = bright / bright.sum((1, 2), keepdims=True)
  colour = (drawn * weight[..., None]).sum((1, 2))
  ground = (drawn * ~bright[..., None]).sum((1, 2)) / (~bright).sum((1, 2))[
    :, None
  ]
  for feature in (colour / colour.max(-1, keepdims=True), ground):
    means = np.stack(
      [feature[:500][labels[:500] == c].mean(0) for c in range(10)]
    )
    distances = ((feature[500:, None] - means) ** 2).sum(-1)
    accuracy = (distances.argmin(-1) == labels[500:]).mean()
    assert accuracy < 0.17  # 5 standard deviations of 500 guesses above 0.1


def test_the_label_is_the_shape(drawn):
  """Nearest class mean of a profile that ignores place, size and rotation."""
  value = drawn.max(-1).astype(float)
  profiles = []
  for bright in value > 0.6 * value.max((1, 2), keepdims=True):
    points = np.argwhere(bright).astype(float)
    radius = np.linalg.norm(points - points.mean(0), axis=1)
    profile = np.quantile(radius, np.linspace(0, 0.97, 12))
    profiles.append(profile / np.sqrt(len(points)))
  profiles, labels = np.stack(profiles), np.arange(1000) % 10
  means = np.stack(
    [profiles[:500][labels[:500] == c].mean(0) for c in range(10)]
  )
  distances = ((profiles[500:, None] - means) ** 2).sum(-1)
  # Chance is 0.1; found 0.99.
  assert (distances.argmin(-1) == labels[500:]).mean() > 0.9


def test_sizes_rotations_and_places_vary_within_a_class(drawn):
  value = drawn[3::10].max(-1).astype(float)  # circles
  bright = value > 0.6 * value.max((1, 2), keepdims=True)
  area = bright.sum((1, 2))
  centre = (bright * np.arange(32)).sum((1, 2)) / area
  assert area.max() > 2 * area.min()
  assert centre.max() - centre.min() > 8


def test_fingerprints_name_the_split():
  prints = {shapes.ShapesSource(s).fingerprint for s in shapes.COUNTS}
  assert len(prints) == 2

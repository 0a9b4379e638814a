import io

import numpy as np
from PIL import Image
import pytest

from byol_jax.data.sources import shapes

LABELS = np.arange(1000) % 10


@pytest.fixture(scope='module')
def drawn():
  return np.stack([shapes.draw_image('train', i) for i in range(1000)])


def find_bright(images):
  """The pixels of the shapes, bool [N, H, W]."""
  value = images.max(-1).astype(float)
  return value > 0.6 * value.max((1, 2), keepdims=True)


def nearest_mean_accuracy(features):
  """Accuracy on the second half of classes' means over the first half."""
  means = np.stack(
    [features[:500][LABELS[:500] == label].mean(0) for label in range(10)]
  )
  distances = ((features[500:, None] - means) ** 2).sum(-1)
  return (distances.argmin(-1) == LABELS[500:]).mean()


def test_splits_are_balanced_and_disjoint_sets_of_small_jpegs(drawn):
  prints = set()
  for split, count in (('train', 4000), ('test', 1000)):
    source = shapes.ShapesSource(split)
    assert len(source) == count
    assert source.num_classes == len(source.class_names) == 10
    errors = []
    for index in range(0, count, 97):
      data, label = source.read(index)
      assert label == index % 10
      assert source.class_names[label] in source.file_name(index)
      image = Image.open(io.BytesIO(data))
      assert (image.format, image.mode) == ('JPEG', 'RGB')
      assert image.size == (32, 32)
      drawing = shapes.draw_image(split, index).astype(float)
      errors.append(np.abs(np.asarray(image) - drawing).mean())
    # Quality 90 with full chroma: some levels where an edge is sharp. Another
    # image of the class is 27 levels away.
    assert np.mean(errors) < 5
    with pytest.raises(IndexError):
      source.read(count)
    prints.add(source.fingerprint)
  assert len(prints) == 2
  test = {shapes.draw_image('test', i).tobytes() for i in range(400)}
  assert len({image.tobytes() for image in drawn} | test) == 1400


def test_colours_do_not_tell_the_class(drawn):
  bright = find_bright(drawn)
  weight = bright / bright.sum((1, 2), keepdims=True)
  colour = (drawn * weight[..., None]).sum((1, 2))
  background = (drawn * ~bright[..., None]).sum((1, 2))
  background = background / (~bright).sum((1, 2))[:, None]
  for feature in (colour / colour.max(-1, keepdims=True), background):
    # 5 standard deviations of 500 guesses above 0.1
    assert nearest_mean_accuracy(feature) < 0.17


def test_the_label_is_the_shape(drawn):
  """By radial profiles, which ignore position, size and rotation."""
  profiles = []
  for bright in find_bright(drawn):
    points = np.argwhere(bright).astype(float)
    radius = np.linalg.norm(points - points.mean(0), axis=1)
    profile = np.quantile(radius, np.linspace(0, 0.97, 12))
    profiles.append(profile / np.sqrt(len(points)))
  assert nearest_mean_accuracy(np.stack(profiles)) > 0.9  # found 0.99

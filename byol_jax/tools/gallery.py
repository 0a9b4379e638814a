"""What a report shows of images: neighbours, a map, thumbnails."""

import base64
from collections.abc import Callable, Mapping
import io
from typing import Any, NamedTuple

import jax
from ml_collections import config_dict
import numpy as np

from byol_jax.data import from_config
from byol_jax.data.sources import base
from byol_jax.evals import features, knn, splits
from byol_jax.tools import views

NUM_VIEWS, NUM_QUERIES, NUM_NEIGHBOURS = 16, 12, 5
_MAX_BANK = 5000  # images without labels that are encoded
_MAX_POINTS = 1000  # of the map
_THUMBNAIL = 96  # pixels
_PER_DEVICE = 32


class Picture(NamedTuple):
  """An image as a page shows it."""

  uri: str  # data:
  name: str  # of its file
  label: str  # its class; '' without one


class Gallery(NamedTuple):
  """The pictures of a report."""

  # An image and its two views, of some training images.
  views: list[tuple[Picture, list[str]]]
  # A query, and the nearest images with their cosines.
  neighbours: list[tuple[Picture, list[tuple[Picture, float]]]]
  places: (
    np.ndarray | None
  )  # in the plane, float [N, 2]; None for fewer than five
  classes: np.ndarray | None  # int [N], of these images; None without labels
  class_names: list[str]


def make_gallery(
  config: config_dict.ConfigDict,
  encoder: features.Encoder,
  is_labelled: bool,
  log: Callable[[str], None] = lambda text: None,
) -> Gallery:
  """Encodes images, if `encoder.store` lacks them, and chooses what to show.

  With labels and a test split the queries and the map are of that, and the
  neighbours of the training split; without, all are of at most 5,000 training
  images.

  Raises:
    DataError: the images cannot be used.
  """
  config = from_config.resolve_paths(config)
  training = from_config.make_image_set(config, 'train')
  count = min(NUM_VIEWS, training.num_examples)
  traced = views.trace_views(training, config, count)
  sets = _open_sets(config, is_labelled)
  size = _PER_DEVICE * jax.device_count()
  found = {n: splits.encode_split(encoder, sets, size, log, n) for n in sets}
  bank, queries = found['train'], found.get('test', found['train'])
  dataset = sets.get('test', sets['train'])
  names = dataset.class_names if is_labelled else ()
  names = names or range(dataset.num_classes if is_labelled else 0)
  class_names = [str(name) for name in names]
  chosen = _choose(len(queries.ids), _MAX_POINTS)
  return Gallery(
    views=[
      (
        Picture(make_thumbnail(one.image), one.name, ''),
        [make_thumbnail(view.image) for view in one.views],
      )
      for one in traced
    ],
    neighbours=_show_neighbours(sets, bank, queries, class_names),
    places=project(queries.values[chosen]),
    classes=queries.labels[chosen] if is_labelled else None,
    class_names=class_names,
  )


def _open_sets(
  config: config_dict.ConfigDict, is_labelled: bool
) -> dict[str, Any]:
  """Returns the image sets by split, as evaluations open them."""
  if is_labelled:
    return {
      name: from_config.make_image_set(config, name, labelled=True)
      for name in ('train', 'test')
    }
  source = from_config.open_split(config, 'train')
  if len(source) > _MAX_BANK:
    source = base.Subset(source, _choose(len(source), _MAX_BANK))
  return {'train': from_config.make_image_set(config, 'train', source=source)}


def _choose(size: int, count: int) -> np.ndarray:
  """Returns at most `count` rows of `size`, rising, always the same ones."""
  rows = np.random.default_rng(0).permutation(size)[:count]
  return np.sort(rows)


def _show_neighbours(
  sets: Mapping[str, Any],
  bank: features.Features,
  queries: features.Features,
  class_names: list[str],
) -> list[tuple[Picture, list[tuple[Picture, float]]]]:
  rows = _choose(len(queries.ids), NUM_QUERIES)
  places = bank._replace(labels=np.arange(len(bank.ids), dtype=np.int32))
  # One more: a query of the bank finds itself first.
  count = min(NUM_NEIGHBOURS + 1, len(bank.ids))
  cosines, order = knn.find_neighbours(places, queries.values[rows], count)

  def show(name: str, found: features.Features, row: int) -> Picture:
    dataset, index = sets.get(name, sets['train']), int(found.ids[row])
    label = int(found.labels[row])
    return Picture(
      make_thumbnail(dataset.read_image(index)),
      dataset.file_name(index),
      class_names[label] if class_names else '',
    )

  shown = []
  for row, others, values in zip(rows, order, cosines):
    near = [
      (show('train', bank, other), float(value))
      for other, value in zip(others, values)
      if bank is not queries or other != row
    ]
    shown.append((show('test', queries, row), near[:NUM_NEIGHBOURS]))
  return shown


def project(values: np.ndarray) -> np.ndarray | None:
  """Returns places in the plane that keep neighbours together, float [N, 2].

  t-SNE of the unit vectors; None for fewer than five.
  """
  if len(values) < 5:
    return None
  norms = np.linalg.norm(values, axis=1, keepdims=True)
  units = values / np.maximum(norms, 1e-12)
  if np.ptp(units, axis=0).max() < 1e-6:  # collapsed: one place
    return np.zeros((len(units), 2))
  from sklearn import manifold  # takes a second

  perplexity = min(30.0, (len(units) - 1) / 3)
  method = manifold.TSNE(init='pca', perplexity=perplexity, random_state=0)
  return method.fit_transform(units)


def make_thumbnail(image: np.ndarray) -> str:
  """Returns an image, uint8 or float in [0, 1], as the URI of a small JPEG."""
  picture = views.fit_picture(views.to_picture(image), _THUMBNAIL)
  stream = io.BytesIO()
  picture.save(stream, 'JPEG', quality=85)
  text = base64.b64encode(stream.getvalue()).decode()
  return f'data:image/jpeg;base64,{text}'

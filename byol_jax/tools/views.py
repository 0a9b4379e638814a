"""Draws both views of images, with what chance did to each."""

from collections.abc import Sequence
import functools
import textwrap
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import config_dict
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from byol_jax import augment, errors, experiment, files, parallel
from byol_jax.data import from_config
from byol_jax.data.loading import image_set, in_memory
from byol_jax.data.sources import annotations, arrays
from byol_jax.distributed import processes

_CELL, _GAP, _LINE = 128, 16, 13  # pixels
_COLOURS = ('#d62728', '#1f77b4')  # of the two views
_JITTER = ('brightness', 'contrast', 'saturation', 'hue')  # by `Jitter.order`


class Stage(NamedTuple):
  """A view after one operation."""

  name: str  # of the operation
  drawn: augment.Drawn  # as numbers and arrays of numpy
  image: np.ndarray  # float32 [S, S, 3] in [0, 1]


class View(NamedTuple):
  """One view of an image, from its crop on."""

  window: tuple[int, int, int, int]  # y, x, height, width of the crop
  crop: np.ndarray  # resized, float32 [S, S, 3] in [0, 1]
  stages: list[Stage]

  @property
  def image(self) -> np.ndarray:
    """What the network gets, float32 [S, S, 3]."""
    return np.clip(self.stages[-1].image if self.stages else self.crop, 0, 1)


class ImageViews(NamedTuple):
  """An image, uint8 [H, W, 3], and its two views."""

  name: str
  image: np.ndarray
  views: tuple[View, View]


def run(
  dataset: str, config: config_dict.ConfigDict, *, output: str, count: int
) -> int:
  """Writes the views of some images as PNG, and returns how many.

  `dataset` is one of a configuration, or the file of one image; `count` images
  are drawn if there are as many.

  Raises:
    ConfigError: `output` can be no path, or does not end in .png; or there is
      no device.
    DataError: the images cannot be used, or the file cannot be written.
  """
  files.check_path('output', output)
  if not output.lower().endswith('.png'):
    raise errors.ConfigError(
      f'output: expected a .png file, found {errors.quote(output)}'
    )
  processes.check_devices()
  config = config_dict.ConfigDict(config)
  config.dataset = dataset
  path, source = files.expand_home(dataset), None
  if path.suffix.lower() in annotations.EXTENSIONS and not path.is_dir():
    pixels = in_memory.read_image(path, from_config.make_pixel_options(config))
    source = arrays.ArraySource(pixels[None], name=path.name)
  images = from_config.make_image_set(config, 'train', source=source)
  traced = trace_views(images, config, min(count, images.num_examples))
  if source is not None:
    traced = [one._replace(name=path.name) for one in traced]
  target = files.expand_home(output)
  with files.refuse_unwritable(f'output {errors.quote(output)}'):
    target.parent.mkdir(parents=True, exist_ok=True)
    draw_grid(traced, config).save(target, 'PNG', optimize=True)
  return len(traced)


def trace_views(
  dataset: image_set.ImageSet, config: config_dict.ConfigDict, count: int
) -> list[ImageViews]:
  """Returns the views of the first images of a run, operation by operation.

  They are those of step 0, whatever the batch size.

  Raises:
    DataError: too many images cannot be used.
  """
  # A batch that the devices divide.
  size = -(-count // jax.local_device_count()) * jax.local_device_count()
  batch = next(iter(dataset.view_batches(size, 0, 1)))
  plan = dataset.plan_views(size, range(1))
  _, ids, drawn = plan.plan_step(0)
  keys = parallel.on_one_device(
    lambda rng, step: parallel.make_image_keys(rng, step, size)
  )(jax.random.PRNGKey(config.seed), jnp.zeros((), jnp.int32))
  sets = []
  for i, recipe in enumerate(experiment.list_recipes(config)):
    crops = batch[f'view{i + 1}']
    floats = augment.to_float(jnp.asarray(crops.reshape(-1, *crops.shape[2:])))
    operations = augment.make_operations(recipe)
    trace = functools.partial(augment.run_operations, operations)
    stages = jax.jit(jax.vmap(trace))(floats, parallel.fold_in_view(keys, i))
    names = [operation.name for operation in operations]
    sets.append((np.asarray(floats), names, jax.device_get(stages)))
  found = []
  for row, index in enumerate(ids[:count]):
    image = dataset.read_image(int(index))
    windows = plan.compute_windows(np.array(image.shape[:2]), drawn[row])
    first, second = (
      _select_view(row, window, *view) for window, view in zip(windows, sets)
    )
    name = dataset.file_name(int(index))
    found.append(ImageViews(name, image, (first, second)))
  return found


def _select_view(
  row: int, window: np.ndarray, crops: np.ndarray, names: list[str], stages: Any
) -> View:
  """Returns one image's view of those of a batch."""
  chosen = jax.tree.map(lambda x: x[row], stages)
  found = [Stage(name, *stage) for name, stage in zip(names, chosen)]
  return View(tuple(window.tolist()), crops[row], found)


def describe_drawn(stage: Stage) -> list[str]:
  """Returns lines that say what chance did in an operation."""
  values = stage.drawn.values
  if not stage.drawn.applied:
    return ['not applied']
  if stage.name == 'jitter':
    order = ', '.join(_JITTER[i] for i in values['order'])
    return [
      f'brightness {values["brightness"]:+.3f}',
      f'contrast x {values["contrast"]:.3f}',
      f'saturation x {values["saturation"]:.3f}',
      f'hue {values["hue"]:+.3f} turns',
      f'order: {order}',
    ]
  units = {'sigma': 'sigma {:.3f} pixels', 'threshold': 'inverted from {:g} up'}
  lines = [units[name].format(value) for name, value in values.items()]
  return lines or ['applied']


def draw_grid(
  traced: Sequence[ImageViews], config: config_dict.ConfigDict
) -> Image.Image:
  """Returns the picture: two rows an image, a column an operation."""
  columns = max(len(view.stages) for one in traced for view in one.views) + 2
  width, height = _CELL + _GAP, _CELL + 8 * _LINE + _GAP
  size = (columns * width + _GAP, 2 * len(traced) * height + _GAP)
  sheet = Image.new('RGB', size, 'white')
  recipes = experiment.list_recipes(config)
  for row, (one, i) in enumerate((o, i) for o in traced for i in (0, 1)):
    view, colour = one.views[i], _COLOURS[i]
    y, x, h, w = view.window
    sides = f'{one.image.shape[0]} x {one.image.shape[1]}'
    cells = [
      (_draw_window(one.image, view.window, colour), one.name, [sides]),
      (
        to_picture(view.crop),
        f'view {i + 1}: crop',
        [f'{h} x {w}', f'from row {y}, column {x}'],
      ),
    ]
    for stage in view.stages:
      title = f'{stage.name}, p = {recipes[i][stage.name]["probability"]:g}'
      cells.append((to_picture(stage.image), title, describe_drawn(stage)))
    for column, cell in enumerate(cells):
      place = _GAP + column * width, _GAP + row * height
      _draw_cell(sheet, place, *cell, colour)
  return sheet


def to_picture(image: np.ndarray) -> Image.Image:
  """Returns float [H, W, 3] in [0, 1], or uint8, as an image of Pillow."""
  if image.dtype != np.uint8:
    image = np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)
  return Image.fromarray(image)


def fit_picture(picture: Image.Image, side: int) -> Image.Image:
  """Returns an image whose longer side has `side` pixels; small ones grow."""
  scale = side / max(picture.size)
  size = [max(1, round(scale * length)) for length in picture.size]
  method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX
  return picture.resize((size[0], size[1]), method)


def _draw_window(
  image: np.ndarray, window: tuple[int, int, int, int], colour: str
) -> Image.Image:
  picture = fit_picture(to_picture(image), _CELL)
  scale = np.array(
    [picture.height / image.shape[0], picture.width / image.shape[1]] * 2
  )
  y, x, h, w = np.round(scale * window).astype(int)
  right = max(x, min(x + w, picture.width) - 1)
  bottom = max(y, min(y + h, picture.height) - 1)
  ImageDraw.Draw(picture).rectangle((x, y, right, bottom), None, colour, 2)
  return picture


def _draw_cell(
  sheet: Image.Image,
  place: tuple[int, int],
  picture: Image.Image,
  title: str,
  lines: list[str],
  colour: str,
) -> None:
  sheet.paste(fit_picture(picture, _CELL), place)
  draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
  wrapped = [part for line in lines for part in textwrap.wrap(line, 24)]
  # The font has no other letters.
  title = errors.to_line(title).encode('cp1252', 'replace').decode('cp1252')
  title = title if len(title) <= 22 else f'...{title[-19:]}'
  for row, line in enumerate([title, *wrapped]):
    where = place[0], place[1] + _CELL + 2 + row * _LINE
    draw.text(where, line, fill='black' if row else colour, font=font)

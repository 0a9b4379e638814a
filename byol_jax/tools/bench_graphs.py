"""What others do with the same images, by tf.data: rows of `bench input`."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from byol_jax.data.loading import decode, tf_engine
from byol_jax.data.loading.tf_engine import tf
from byol_jax.data.sampling import crops, views

BATCH = 64
_PASSES = 3  # over the sample, a row and round
_LEAST = 8  # batches


def passes(count: int) -> int:
  """Over a sample of so many images: enough for a few batches."""
  return max(_PASSES, -(-_LEAST * BATCH // count))


def crop_range_of(config: Any) -> crops.CropRange:
  """The random crop of the first view."""
  crop = config.augment.view1.crop
  return crops.CropRange(tuple(crop.area), tuple(crop.ratio))


def mapped(function: Callable, columns: Any, threads: int) -> Iterator[Any]:
  """function(...) of each row, in tf.data's threads."""
  dataset = tf.data.Dataset.from_tensor_slices(columns)
  dataset = dataset.repeat(passes(len(dataset))).map(
    tf.autograph.experimental.do_not_convert(function),
    num_parallel_calls=threads,
  )
  options = tf_engine.pipeline_options(threads)
  return dataset.prefetch(threads).with_options(options).as_numpy_iterator()


def decoded(images: list[bytes], threads: int) -> Iterator[Any]:
  """Decoding, and nothing else."""
  return mapped(tf_engine.decode_image, images, threads)


def resized(
  config: Any, images: list[bytes], drawn: np.ndarray, threads: int
) -> Iterator[Any]:
  """What an input that leaves resizing to TensorFlow cannot be faster than."""
  view = views.random_crop(crop_range_of(config), 8)
  windows = np.array(
    [
      [
        view.resample_window(*decode.header(image)[1:], n).window
        for n in numbers
      ]
      for image, numbers in zip(images, drawn)
    ],
    np.int32,
  )

  def two(image: Any, windows: Any) -> tuple:
    pixels, found = tf_engine.decode_image(image), []
    for i in range(2):
      y, x, h, w = tf.unstack(windows[i])
      size = [config.image_size] * 2
      part = pixels[y : y + h, x : x + w]
      found.append(tf.image.resize(part, size, 'bicubic'))
    return tuple(found)

  return mapped(two, (images, windows), threads)


def official(images: list[bytes], config: Any, threads: int) -> Iterator[Any]:
  """Batches as the authors' input makes them (spec 3.2), in float32."""
  size, crop_range = config.image_size, crop_range_of(config)
  low, high = crop_range.area
  logs = np.log(crop_range.ratio)

  def crop(image: Any) -> Any:
    shape = tf.io.extract_jpeg_shape(image)
    height, width = tf.cast(shape[0], tf.float32), tf.cast(shape[1], tf.float32)
    area = height * width * tf.random.uniform([], low, high)
    ratio = tf.exp(tf.random.uniform([], *logs))
    w = tf.minimum(tf.round(tf.sqrt(area * ratio)), width)
    h = tf.minimum(tf.round(tf.sqrt(area / ratio)), height)
    h, w = (tf.cast(tf.maximum(side, 1), tf.int32) for side in (h, w))
    y = tf.random.uniform([], maxval=shape[0] - h + 1, dtype=tf.int32)
    x = tf.random.uniform([], maxval=shape[1] - w + 1, dtype=tf.int32)
    window = tf.stack([y, x, h, w])
    pixels = tf.image.decode_and_crop_jpeg(image, window, channels=3)
    resized = tf.image.resize(pixels, [size, size], 'bicubic')
    return tf.clip_by_value(resized / 255, 0, 1)

  dataset = tf.data.Dataset.from_tensor_slices(images).repeat(
    passes(len(images))
  )
  dataset = dataset.map(
    tf.autograph.experimental.do_not_convert(
      lambda image: {'view1': crop(image), 'view2': crop(image)}
    ),
    num_parallel_calls=threads,
    deterministic=False,
  )
  dataset = dataset.batch(BATCH, drop_remainder=True).prefetch(2)
  options = tf_engine.pipeline_options(threads)
  return dataset.with_options(options).as_numpy_iterator()

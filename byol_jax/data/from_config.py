"""The image sets that a configuration names: where data meets the runs."""

import functools
from pathlib import Path
from typing import Any

import jax
from ml_collections import config_dict

from byol_jax import errors


def image_set(
  config: config_dict.ConfigDict,
  split: str,
  *,
  cropped: bool = True,
  held: bool = False,
) -> Any:
  """A split of the data set of a configuration, for this process.

  Args:
    config: as in `configs/pretrain.py`.
    split: 'train', 'fit' (train without the hold-out), 'valid' (the hold-out)
      or 'test'.
    cropped: whether training batches hold random crops; else evaluation crops.
    held: whether `input.cache` has a say; in pretraining it has.
  """
  from byol_jax.data.loading import image_set as image_set_lib
  from byol_jax.data.sampling import crops

  images = source(config, split)
  images = cached(config, images) if held else images
  crop_ranges = tuple(
    crops.CropRange(tuple(view.crop.area), tuple(view.crop.ratio))
    if cropped and view.crop
    else None
    for view in (config.augment.view1, config.augment.view2)
  )
  options = {
    'image_size': config.image_size,
    'crop_ranges': crop_ranges,
    'eval_crop': config.data.eval_crop,
    'max_bad_share': config.input.max_bad_share,
    'seed': config.seed,
    'num_threads': config.input.threads,
    'local_devices': jax.local_device_count(),
    'process_index': jax.process_index(),
    'process_count': jax.process_count(),
  }
  if config.data.resident:
    from byol_jax.data.loading import resident

    gib = config.input.resident_gib
    return resident.ImageSet(images, gib=gib, transfer='float32', **options)
  # TensorFlow takes seconds to import; only what streams images needs it.
  from byol_jax.data.loading import tf_engine

  engine = functools.partial(
    tf_engine.decode_into, decoding=config.data.decoding
  )
  transfer = config.data.transfer
  return image_set_lib.ImageSet(
    images, engine=engine, transfer=transfer, **options
  )


def source(config: config_dict.ConfigDict, split: str) -> Any:
  """Random access to the encoded images of a split; a `base.Source`."""
  from byol_jax.data.sources import lookup

  return lookup.open_source(
    config.dataset, split, data_dir=config.data_dir, **source_facts(config)
  )


def cached(config: config_dict.ConfigDict, images: Any) -> Any:
  """The source of a training, in memory if the configuration says so."""
  from byol_jax.data.loading import cache

  if config.data.resident and config.input.cache != 'none':
    raise errors.ConfigError(
      f'input.cache: {config.input.cache!r} with data.resident, whose set is on'
      " the devices; give 'none'"
    )
  if config.input.cache == 'decoded' and config.data.decoding != 'once':
    raise errors.ConfigError(
      "input.cache: 'decoded' holds whole images, so data.decoding must be"
      f" 'once', found {config.data.decoding!r}"
    )
  if config.input.cache == 'none':
    return images
  return cache.CachedSource(
    images, config.input.cache, config.input.cache_gib, config.input.threads
  )


def source_facts(config: config_dict.ConfigDict) -> dict[str, Any]:
  """The part of the section `data` that chooses images."""
  keys = ('holdout', 'heldout_share')
  return {key: config.data[key] for key in keys}


def placed(config: config_dict.ConfigDict) -> config_dict.ConfigDict:
  """A copy whose folders are absolute: the run is evaluated from anywhere."""
  config = config.copy_and_resolve_references()
  for key in ('dataset', 'data_dir'):
    folder = Path(config[key] or '').expanduser()
    # 'shapes' is the embedded set, whatever lies here under that name.
    if config[key] not in (None, 'shapes') and folder.exists():
      config[key] = str(folder.resolve())
  return config

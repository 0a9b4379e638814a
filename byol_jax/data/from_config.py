"""The image sets that a configuration names: where data meets the runs."""

from collections.abc import Callable
import functools
import importlib.util
import logging
from typing import Any

import jax
from ml_collections import config_dict

from byol_jax import errors, files
from byol_jax.data import catalog
from byol_jax.data.loading import decode, traits
from byol_jax.data.sources import (
  base,
  lookup,
  path_lists,
  subsets,
  webdataset,
)

_LOG = logging.getLogger(__name__)


def make_image_set(
  config: config_dict.ConfigDict,
  split: str,
  *,
  cropped: bool = True,
  held: bool = False,
  labelled: bool = False,
  dataset: str | None = None,
  eval_crop: str | None = None,
  fraction: float | None = None,
  lists: str = 'own',
  source: base.Source | None = None,
  labels_key: str = 'data.labels',
  log: Callable[[str], None] = lambda line: None,
) -> Any:
  """Returns a split of the data set of a configuration, for this process.

  Args:
    config: as in `configs/pretrain.py`.
    split: see `lookup.open_source`.
    cropped: whether training batches hold random crops; else evaluation crops.
    held: whether to follow `input.cache` and to insist on `input.engine`, as
      pretraining does.
    labelled: whether to leave out images without a label, as evaluations do.
    dataset: another set than that of the configuration.
    eval_crop: another one than `data.eval_crop`.
    fraction: of the labelled images of 'fit' to keep, in (0, 1]; see `subsets`.
    lists: 'published' takes the part of ImageNet that is; else an own one.
    source: the images; None opens the split.
    labels_key: what sets `data.labels`, for messages.
    log: called with a line about the whole set.

  Raises:
    ConfigError: a value of data or input cannot be used.
    DataError: the set cannot be opened.
  """
  from byol_jax.data.loading import cache, image_set

  source = source or open_split(config, split, dataset, labels_key, log)
  pixels = make_pixel_options(config, source)
  if held and jax.process_index() == 0:
    traits.warn_of_traits(source, pixels)
  if held and (kind := config.input.cache) != 'none':
    gib, threads = config.input.cache_gib, config.input.threads
    source = cache.CachedSource(source, kind, gib, threads, pixels)
  source = _keep_labelled(source, split) if labelled else source
  source = _take_fraction(config, source, fraction, lists)
  options = _make_options(config, cropped, eval_crop) | {'pixels': pixels}
  if config.data.resident:
    from byol_jax.data.loading import resident

    options |= {'gib': config.input.resident_gib, 'transfer': 'float32'}
    return resident.ResidentImageSet(source, **options)
  return image_set.ImageSet(
    source,
    engine=_find_engine(config, source, is_strict=held),
    transfer=config.data.transfer,
    **options,
  )


def _make_options(
  config: config_dict.ConfigDict, cropped: bool, eval_crop: str | None
) -> dict[str, Any]:
  """Returns the arguments that both kinds of image sets have."""
  from byol_jax.data.sampling import crops

  return {
    'image_size': config.image_size,
    'crop_ranges': [
      crops.CropRange(**view.crop) if cropped and view.crop else None
      for view in (config.augment.view1, config.augment.view2)
    ],
    'eval_crop': eval_crop or config.data.eval_crop,
    'max_bad_share': config.input.max_bad_share,
    'seed': config.seed,
    'num_threads': config.input.threads,
    'local_devices': jax.local_device_count(),
    'process_index': jax.process_index(),
    'process_count': jax.process_count(),
  }


def _keep_labelled(source: base.Source, split: str) -> base.Source:
  """Leaves out images without a label, with a warning."""
  kept = base.keep_labelled(source)
  if len(kept) < len(source):
    _LOG.warning(
      "%s, split '%s': %s of %s images have no label and are left out",
      errors.quote(source.name),
      split,
      f'{len(source) - len(kept):,}',
      f'{len(source):,}',
    )
  return kept


def _take_fraction(
  config: config_dict.ConfigDict,
  source: base.Source,
  fraction: float | None,
  lists: str,
) -> base.Source:
  """Returns a part of 'fit' for few labels, without held-out images."""
  if fraction is None:
    return source
  if lists == 'published' and (source.name, fraction) in catalog.SUBSETS:
    valid = open_split(config, 'valid')
    return subsets.open_published(valid, fraction, config.data_dir)
  return subsets.draw_balanced(source, fraction, config.seed)


def resolve_engine(config: config_dict.ConfigDict) -> config_dict.ConfigDict:
  """Returns a copy with the engine that `input.engine='auto'` stands for.

  A resident set has none.
  """
  config = config.copy_and_resolve_references()
  if config.input.engine == 'auto' and not config.data.resident:
    needs_it = _has_tensorflow() or config.data.decoding != 'once'
    config.input.engine = 'tensorflow' if needs_it else 'threads'
  return config


def _has_tensorflow() -> bool:
  return importlib.util.find_spec('tensorflow') is not None


def _find_engine(
  config: config_dict.ConfigDict, source: base.Source, is_strict: bool
) -> Callable:
  """Returns the engine that decodes the images.

  Both make the same batches; `data.decoding=crops` needs TensorFlow.

  Args:
    config: of a run.
    source: the images; some are read by threads, whatever the run names.
    is_strict: whether threads must not stand in for a TensorFlow that is not
      installed.

  Raises:
    ConfigError: TensorFlow is needed and not installed.
  """
  name, decoding = config.input.engine, config.data.decoding
  if source.suits_threads:
    name = 'threads'
  elif decoding == 'once' and not _has_tensorflow():
    if is_strict and name == 'tensorflow':
      raise errors.ConfigError(
        'input.engine: expected TensorFlow, with which this run began or that'
        " the command asks for, found none: pip install 'byol_jax[tf]', or give"
        ' --config.input.engine=threads, which makes the same batches'
      )
    name = 'threads'
    if not is_strict:  # a run says it after its first line
      _LOG.warning(
        'images are decoded in Python threads; TensorFlow, which is not'
        " installed, is faster: pip install 'byol_jax[tf]'"
      )
  if decoding == 'once' and name == 'threads':
    from byol_jax.data.loading import thread_engine

    return thread_engine.decode_into
  # TensorFlow takes seconds to import; only what streams images needs it.
  from byol_jax.data.loading import tf_engine

  return functools.partial(tf_engine.decode_into, decoding=decoding)


def open_split(
  config: config_dict.ConfigDict,
  split: str,
  dataset: str | None = None,
  labels_key: str = 'data.labels',
  log: Callable[[str], None] = lambda line: None,
) -> base.Source:
  """Returns random access to the encoded images of a split."""
  return lookup.open_source(
    dataset or config.dataset,
    split,
    data_dir=config.data_dir,
    labels_key=labels_key,
    log=log,
    **get_holdout(config),
  )


def make_pixel_options(
  config: config_dict.ConfigDict, source: base.Source | None = None
) -> decode.PixelOptions:
  """Returns how images of a source, or of no set, become pixels."""
  exif, is_prepared = config.data.exif, source and source.is_prepared
  return decode.PixelOptions(
    exif == 'apply' or (exif == 'auto' and not is_prepared),
    decode.BACKGROUNDS[config.data.background],
    tuple(config.data.grey_range),
  )


def get_holdout(config: config_dict.ConfigDict) -> dict[str, Any]:
  """Returns the keys of the section `data` that divide a set into splits."""
  keys = ('holdout', 'heldout_share', 'labels')
  return {key: config.data[key] for key in keys}


def resolve_paths(config: config_dict.ConfigDict) -> config_dict.ConfigDict:
  """Returns a copy with absolute paths: a run is evaluated from anywhere."""
  config = config.copy_and_resolve_references()
  for key in ('dataset', 'data_dir'):
    # 'shapes' is the embedded set, even if a folder of that name exists.
    if config[key] in (None, 'shapes'):
      continue
    found = path_lists.split_paths(config[key])
    folders = map(files.expand_home, found)
    config[key] = ','.join(
      str(folder.resolve())
      if folder.exists() or webdataset.is_pattern(name)
      else name
      for folder, name in zip(folders, found)
    )
  return config


def make_load(
  config: config_dict.ConfigDict, log: Callable[[str], None]
) -> Callable[..., Any]:
  """Returns `make_image_set` of images with labels, for an evaluation.

  It opens each split once, and logs a line about each data set.
  """
  config = resolve_paths(config)
  log_once = functools.cache(log)
  key = '--config.labels'
  return functools.cache(
    functools.partial(
      make_image_set, config, labelled=True, labels_key=key, log=log_once
    )
  )

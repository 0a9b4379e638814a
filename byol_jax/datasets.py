"""The image sets that a configuration names: where data meets the runs."""

from pathlib import Path
from typing import Any

import jax
from ml_collections import config_dict


def image_set(
  config: config_dict.ConfigDict, split: str, *, cropped: bool = True
) -> Any:
  """A split of the data set of a configuration, for this process.

  Args:
    config: as in `configs/pretrain.py`.
    split: 'train', 'fit' (train without the hold-out), 'valid' (the hold-out)
      or 'test'.
    cropped: whether training batches hold random crops; else evaluation crops.
  """
  # TensorFlow takes seconds to import; only what reads images needs it.
  from byol_jax.data import pipeline, sources

  source = sources.open_source(
    config.dataset, split, data_dir=config.data_dir, **source_facts(config)
  )
  crops = tuple(
    (tuple(view.crop.area), tuple(view.crop.ratio))
    if cropped and view.crop
    else None
    for view in (config.augment.view1, config.augment.view2)
  )
  return pipeline.ImageSet(
    source,
    image_size=config.image_size,
    crops=crops,
    eval_crop=config.data.eval_crop,
    seed=config.seed,
    threads=config.input.threads,
    local_devices=jax.local_device_count(),
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )


def source_facts(config: config_dict.ConfigDict) -> dict[str, Any]:
  """The part of the section `data` that chooses images."""
  keys = ('holdout', 'heldout_share', 'max_unreadable')
  return {key: config.data[key] for key in keys}


def placed(config: config_dict.ConfigDict) -> config_dict.ConfigDict:
  """A copy whose folders are absolute: the run is evaluated from anywhere."""
  config = config.copy_and_resolve_references()
  for key in ('dataset', 'data_dir'):
    folder = Path(config[key] or '').expanduser()
    # 'shapes' is the embedded set, whatever lies here under that name.
    if config[key] not in (None, 'shapes') and folder.is_dir():
      config[key] = str(folder.resolve())
  return config

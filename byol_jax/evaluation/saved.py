"""Writes a fine-tuned encoder with its classifier, for `byol_jax.load`."""

from collections.abc import Callable
import os
from typing import Any

import jax

from byol_jax import files
from byol_jax.checkpoints import digests
from byol_jax.convert import safetensors
from byol_jax.evals import features
from byol_jax.evaluation import origins, pretrained


def make_save(
  folder: str | os.PathLike, origin: origins.Origin, encoder: features.Encoder
) -> Callable[[Any, Any], None]:
  """Returns what writes parameters and averages as FOLDER/model.safetensors.

  Process 0 writes them, and only its folder matters, which is missing or empty.
  Network, preprocessing and licence are those of the encoder that the training
  started with.

  Raises:
    ConfigError: the folder can be no local path.
    DataError: something is there, or it cannot be written.
  """
  is_writer = jax.process_index() == 0
  goal = files.find_free_folder('save', folder) if is_writer else None
  path = origins.get_path(origin)
  found = pretrained.read_weights(path, encoder.name, encoder.step)

  def save(params: Any, net_state: Any) -> None:
    if goal is None:
      return
    weights = found._replace(
      params=params,
      state=net_state,
      num_classes=len(params['classifier']['b']),
      card=found.card
      | {
        'sha256': digests.digest_trees(params, net_state),
        'weights': f'{encoder.name}, fine-tuned',
      },
    )
    with (
      files.refuse_unwritable(f'save {os.fspath(folder)!r}'),
      files.fill_folder(goal) as temporary,
    ):
      safetensors.write_encoder(weights, temporary)

  return save

"""What every format stores of an encoder."""

from collections.abc import Mapping
import pathlib
from typing import Any, NamedTuple

from byol_jax import errors, files, networks

IMAGE_SIZE = 224  # of a file that says nothing of it


class EncoderWeights(NamedTuple):
  """An encoder with its batch-norm averages, outside of a run."""

  # float32 arrays {module path: {leaf: array}} of the encoder
  # ('res_net50/~/...'), and of the heads or the classifier where kept.
  params: networks.Params
  state: networks.NetState  # batch-norm averages of the same modules
  network: dict[str, Any]  # the config section `network`, JSON values
  num_classes: int | None  # of the classifier; None without one
  image_size: int  # in pixels, at which it was trained
  eval_crop: str  # as `data.eval_crop`
  # For the model card, JSON values: `source`, `sha256`, `weights`, `config`,
  # `revision`, `licence`.
  card: dict[str, Any]

  @property
  def crop_share(self) -> float:
    """The share of an image's shorter side that the evaluation crop keeps."""
    return 1.0 if self.eval_crop == 'whole' else 0.875


def complete_card(
  path: pathlib.Path, card: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns a card with all keys; what a file says itself comes first.

  Raises:
    DataError: a value that is no text.
  """
  for name, value in card.items():
    if not isinstance(value, str | None) and name != 'config':
      raise errors.DataError(
        f'{errors.quote(path)}: expected {errors.quote(name)} of its card to be'
        f' a text, found {errors.quote(value)}'
      )
  known: dict[str, Any] = {'source': path.name, 'weights': 'online'}
  known |= dict.fromkeys(('config', 'revision', 'licence'))
  if 'sha256' not in card:
    known['sha256'] = files.digest_file(path)
  return known | dict(card)

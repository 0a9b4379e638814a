"""What every format stores of an encoder."""

from typing import Any, NamedTuple

from byol_jax import networks


class EncoderWeights(NamedTuple):
  """An encoder with its batch-norm averages, outside of a run.

  Attributes:
    params: float32 arrays {module path: {leaf: array}} of the encoder
      ('res_net50/~/...'), and of the heads or the classifier where kept.
    state: batch-norm averages of the same modules.
    network: the config section `network`, JSON values.
    num_classes: of the classifier; None without one.
    image_size: in pixels, at which it was trained.
    eval_crop: of `data.eval_crop`, its preprocessing.
    card: facts for the model card, JSON values: `source`, `sha256`,
      `weights`, `config`, `revision`, `licence`.
  """

  params: networks.Params
  state: networks.NetState
  network: dict[str, Any]
  num_classes: int | None
  image_size: int
  eval_crop: str
  card: dict[str, Any]

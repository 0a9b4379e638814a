"""Names and shapes of our encoders, and how weights of a file differ."""

from collections.abc import Mapping
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from byol_jax import errors, networks, resnet
from byol_jax.convert import weights as weights_lib

# Widths of the published heads (method.md 2.3), where a file has none.
DEFAULT_HEADS = {'projector': [4096, 256], 'predictor': [4096, 256]}
# What leaves no trace in names and shapes, as in the published files (method.md
# 2.2).
UNSEEN = {
  **{'gamma_init': 'ones', 'padding': 'same'},
  **{'bn_decay': 0.9, 'bn_epsilon': 1e-5},
}
# A file may name a million layers, which take hours to build.
_MAX_LAYERS = 16


def describe_network(params: networks.Params, where: str) -> dict[str, Any]:
  """Returns the config section `network` that parameters belong to.

  Strides and `UNSEEN` are those of the published files.

  Raises:
    DataError: they are of no known encoder, or of several, or without the first
      convolution.
  """
  parts = {module.partition('/')[0] for module in params}
  encoders = [k for k, x in resnet.ENCODERS.items() if x.module_name in parts]
  if len(encoders) != 1:
    known = [x.module_name for x in resnet.ENCODERS.values()]
    raise errors.DataError(
      f'{where}: expected parameters of one of {known}, found'
      f' {errors.quote(sorted(parts))}'
    )
  layers = resnet.ENCODERS[encoders[0]]
  prefix = f'{layers.module_name}/~/'
  kernel = params.get(f'{prefix}initial_conv', {}).get('w')
  stems = {7: 'imagenet', 3: 'small'}  # small_stride2 has the same shapes
  if kernel is None or kernel.ndim != 4 or kernel.shape[0] not in stems:
    found = 'none' if kernel is None else list(kernel.shape)
    raise errors.DataError(
      f"{where}: expected '{prefix}initial_conv/w' of [7, 7, 3, channels] or"
      f' [3, 3, 3, channels], found {found}'
    )
  return {
    'encoder': encoders[0],
    'width': kernel.shape[-1] / layers.initial_channels,
    'version': 2 if f'{prefix}final_batchnorm' in params else 1,
    'stem': stems[kernel.shape[0]],
    **UNSEEN,
    **{
      head: _list_widths(params, head) or widths
      for head, widths in DEFAULT_HEADS.items()
    },
  }


def _list_widths(params: networks.Params, head: str) -> list[int]:
  """Returns the widths of a head's linear layers, in order."""
  names = ['linear', *(f'linear_{i}' for i in range(1, len(params)))]
  kernels = [params.get(f'{head}/{name}', {}).get('w') for name in names]
  return [k.shape[-1] for k in kernels if k is not None and k.ndim]


def has_heads(params: networks.Params, network: Mapping[str, Any]) -> bool:
  """Returns whether there are parameters of both heads of a network."""
  parts = {module.partition('/')[0] for module in params}
  heads = ('projector', 'predictor')
  return all(head in parts or not network[head] for head in heads)


def make_forward(
  weights: weights_lib.EncoderWeights, axis_name: str | None = None
) -> networks.Forward:
  """Returns the network of the weights, with the heads that they hold."""
  network = {**weights.network, 'bn_group': 0}  # a group is of its pretraining
  if not has_heads(weights.params, network):
    network |= {'projector': None, 'predictor': None}
  has_classifier = 'classifier' in weights.params
  return networks.make_forward(
    num_classes=weights.num_classes if has_classifier else None,
    axis_name=axis_name,
    **network,
  )


def check_weights(
  weights: weights_lib.EncoderWeights, where: str
) -> weights_lib.EncoderWeights:
  """Returns the weights with the dtypes of our network.

  A head or classifier may be missing as a whole.

  Raises:
    DataError: lists names that are missing, unknown or of another shape.
  """
  parts = {module.partition('/')[0] for module in weights.params}
  absent = {*networks.HEADS} - parts
  whole = make_shapes(weights.network, weights.num_classes, where)
  params, state = (
    {k: v for k, v in tree.items() if k.partition('/')[0] not in absent}
    for tree in whole
  )
  found, expected = (
    map(networks.list_shapes, trees) for trees in (weights[:2], (params, state))
  )
  require_same_shapes(
    *zip(found, expected, strict=True),
    where=where,
    encoder=weights.network['encoder'],
  )
  convert = lambda leaf, array: np.asarray(array, leaf.dtype)
  return weights._replace(
    params=jax.tree.map(convert, params, weights.params),
    state=jax.tree.map(convert, state, weights.state),
  )


def make_shapes(
  network: Mapping[str, Any], num_classes: int | None, where: str
) -> tuple[Any, Any]:
  """Returns params and state of a network as `jax.ShapeDtypeStruct`s.

  The config section may be that of a hostile file.

  Raises:
    DataError: there is no such network.
  """
  try:
    if sum(len(network[head] or ()) for head in DEFAULT_HEADS) > _MAX_LAYERS:
      raise ValueError(f'at most {_MAX_LAYERS} layers in its heads')
    forward = networks.make_forward(
      num_classes=num_classes, axis_name=None, **network
    )
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    init = functools.partial(forward.init, is_training=True)
    return jax.eval_shape(init, jax.random.PRNGKey(0), images)
  except (ArithmeticError, LookupError, TypeError, ValueError) as error:
    raise errors.DataError(
      f'{where}: no network of byol_jax: {errors.first_line(error)}'
    ) from error


def require_same_shapes(
  *pairs: tuple[networks.Shapes, networks.Shapes], where: str, encoder: str
) -> None:
  """Raises DataError if what was found and what was expected differ."""
  if differences := networks.describe_differences(*pairs):
    raise errors.DataError(
      f'{where}: names or shapes are not those of {encoder}: {differences}'
    )

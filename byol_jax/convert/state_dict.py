"""Names our arrays as torch's state dicts do, and reads state dicts.

Keys are those of torchvision's ResNet, which timm shares (method.md 9.3). Of a
batch norm the zero-debiased `average` is stored, never `hidden`, which equals
it only late in a run.
"""

from collections.abc import Callable, Iterator, Mapping
import functools
from pathlib import Path
import re
from typing import Any, NamedTuple

import jax
import numpy as np

from byol_jax import errors, networks, resnet
from byol_jax.convert import archive, shapes, weights as weights_lib

StateDict = dict[str, np.ndarray]
Rename = Callable[[str], str | None]

_INNER_NAMES = {
  **{f'conv_{i}': f'conv{i + 1}' for i in range(3)},
  **{f'batchnorm_{i}': f'bn{i + 1}' for i in range(3)},
  **{'shortcut_conv': 'downsample.0', 'shortcut_batchnorm': 'downsample.1'},
}
# The averages of other frameworks need no debiasing.
_NO_STEPS, _MANY_STEPS = np.zeros((), np.int64), 10_000


class Entry(NamedTuple):
  """Says where an array of a state dict stands in our trees."""

  key: str  # of the state dict
  module: str
  leaf: str
  is_state: bool


def split_module(module: str) -> tuple[int, int, str] | str | None:
  """Returns (group, block, layer) of an encoder's module, or its outer layer.

  'res_net50/~/block_group_0/~/block_2/~/conv_1' -> (0, 2, 'conv_1');
  'res_net50/~/initial_conv' -> 'initial_conv'; 'classifier' -> 'classifier';
  None for a module of the projector or predictor.
  """
  encoder, _, inner = module.partition('/~/')
  found = re.fullmatch(r'block_group_(\d)/~/block_(\d+)/~/(\w+)', inner)
  if found is not None:
    return int(found[1]), int(found[2]), found[3]
  if module == 'classifier':
    return module
  return inner if re.fullmatch(r'\w*res_net\d*', encoder) else None


def name_module(module: str) -> str | None:
  """Returns torchvision's name of a module; None for one of a head.

  The last batch norm of v2, which torchvision has not, is `bn1` too.
  """
  place = split_module(module)
  if isinstance(place, tuple):
    group, block, layer = place
    return f'layer{group + 1}.{block}.{_INNER_NAMES[layer]}'
  names = {'initial_conv': 'conv1', 'classifier': 'fc'}
  return names.get(place, 'bn1') if place else None


def name_for_transformers(module: str, prefix: str = '') -> str | None:
  """Returns transformers' name of a module; None for one of a head.

  `prefix` is 'resnet.' in a model with a classifier.
  """
  place = split_module(module)
  if place is None:
    return None
  if place == 'classifier':
    return 'classifier.1'
  name, kind = f'{prefix}embedder.embedder', place
  if isinstance(place, tuple):
    group, block, kind = place
    inner = kind.rpartition('_')[2]
    inner = f'layer.{inner}' if inner.isdigit() else 'shortcut'
    name = f'{prefix}encoder.stages.{group}.layers.{block}.{inner}'
  return f'{name}.{"normalization" if "batchnorm" in kind else "convolution"}'


def name_head(module: str) -> str | None:
  """Returns the place of a head's module in an `nn.Sequential`.

  'projector/batch_norm_1' -> 'projector.4', after linear, batch norm, ReLU and
  linear; None for a module of something else.
  """
  found = re.fullmatch(
    r'(projector|predictor)/(linear|batch_norm)(?:_(\d+))?', module
  )
  if found is None:
    return None
  head, kind, layer = found.groups()
  return f'{head}.{3 * int(layer or 0) + (kind == "batch_norm")}'


def list_entries(
  params: Mapping[str, Mapping[str, Any]], rename: Rename = name_module
) -> Iterator[Entry]:
  """Yields the arrays of a state dict of an encoder and its classifier.

  `rename` returns the target's name of our module; None leaves it out.
  """
  for module, leaves in params.items():
    name = rename(module)
    if name is None:
      continue
    is_norm = 'scale' in leaves
    yield Entry(f'{name}.weight', module, 'scale' if is_norm else 'w', False)
    if is_norm:
      mean, variance = (f'{module}/~/{x}_ema' for x in ('mean', 'var'))
      yield Entry(f'{name}.bias', module, 'offset', False)
      yield Entry(f'{name}.running_mean', mean, 'average', True)
      yield Entry(f'{name}.running_var', variance, 'average', True)
      yield Entry(f'{name}.num_batches_tracked', mean, 'counter', True)
    elif 'b' in leaves:
      yield Entry(f'{name}.bias', module, 'b', False)


def to_state_dict(
  weights: weights_lib.EncoderWeights, rename: Rename = name_module
) -> StateDict:
  """Returns the arrays of `list_entries` in torch's layouts."""
  trees = {False: weights.params, True: weights.state}
  return {
    x.key: np.asarray(
      to_torch_layout(np.asarray(trees[x.is_state][x.module][x.leaf]), x.leaf),
      order='C',
    )
    for x in list_entries(weights.params, rename)
  }


def to_torch_layout(array: np.ndarray, leaf: str) -> np.ndarray:
  """HWIO -> OIHW, [I, O] -> [O, I], [1, 1, 1, C] -> [C]; counters int64."""
  if leaf == 'w':
    return array.transpose((3, 2, 0, 1) if array.ndim == 4 else (1, 0))
  if leaf == 'counter':
    return np.asarray(array, np.int64).reshape(())
  return array.reshape(-1)


def restore_weights(
  arrays: StateDict, text: str | None, path: Path
) -> weights_lib.EncoderWeights:
  """Returns the encoder of a state dict, and its classifier if it has one.

  The keys are those of torchvision's ResNet, or of transformers'; `text` is
  from `archive.describe_weights`, None for weights from elsewhere, of which the
  keys say the encoder.

  Raises:
    DataError: keys or shapes are not those of the network, see
      `networks.describe_differences`; or the text is not ours.
  """
  where = errors.quote(path)
  if text is None:
    facts = _describe_elsewhere(arrays, where)
    arrays = _make_first_shortcut(arrays, facts['network']) | arrays
  else:
    facts = archive.parse_description(text, where)
  network = facts['network']
  rename, facts['num_classes'] = _find_names(arrays)
  without_heads = network | {'projector': None, 'predictor': None}
  params, state = jax.tree.map(
    # Takes no memory, whatever the text says.
    lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape),
    shapes.make_shapes(without_heads, facts['num_classes'], where),
  )
  trees = {False: params, True: state}
  entries = [*list_entries(params, rename)]
  # Files of early versions of torch have no counters.
  arrays = {x.key: _NO_STEPS for x in entries if x.leaf == 'counter'} | arrays
  expected: networks.Shapes = {
    (x.key,): to_torch_layout(trees[x.is_state][x.module][x.leaf], x.leaf).shape
    for x in entries
  }
  shapes.require_same_shapes(
    ({(key,): array.shape for key, array in arrays.items()}, expected),
    where=where,
    encoder=network['encoder'],
  )
  for x in entries:
    leaves = trees[x.is_state][x.module]
    leaves[x.leaf] = _from_torch_layout(arrays[x.key], leaves[x.leaf])
  _fill_averages(state, network['bn_decay'])
  return weights_lib.EncoderWeights(params=params, state=state, **facts)


def _find_names(arrays: StateDict) -> tuple[Rename, int | None]:
  """Returns how the keys are named, and the width of the classifier."""
  rename, classifier = name_module, arrays.get('fc.weight')
  if any('embedder.' in key for key in arrays):
    classifier = arrays.get('classifier.1.weight')
    prefix = '' if classifier is None else 'resnet.'
    rename = functools.partial(name_for_transformers, prefix=prefix)
  return rename, None if classifier is None else len(np.atleast_1d(classifier))


def _make_first_shortcut(
  arrays: StateDict, network: Mapping[str, Any]
) -> StateDict:
  """Returns the projection with which our ResNet-18 and -34 begin.

  Torchvision has none there. The kernel copies every channel, and the batch
  norm's scale / sqrt(variance + epsilon) is 1 in float32 to the last bit, so
  in evaluation mode the shortcut is the identity.
  """
  layers, name = resnet.ENCODERS[network['encoder']], 'layer1.0.downsample'
  if layers.bottleneck or any(key.startswith(name) for key in arrays):
    return {}
  channels = layers.channels[0]
  zeros, ones = np.zeros((2, channels), np.float32) + [[0], [1]]
  return {
    f'{name}.0.weight': np.eye(channels, dtype=np.float32)[..., None, None],
    f'{name}.1.weight': ones,
    f'{name}.1.bias': zeros,
    f'{name}.1.running_mean': zeros,
    f'{name}.1.running_var': ones - np.float32(network['bn_epsilon']),
  }


def _from_torch_layout(array: np.ndarray, like: np.ndarray) -> np.ndarray:
  """Returns an array in the layout and dtype of one of ours."""
  if like.ndim == 4 and array.ndim == 4:
    array = array.transpose(2, 3, 1, 0)
  elif like.ndim == 2 and array.ndim == 2:
    array = array.T
  return np.ascontiguousarray(array.astype(like.dtype)).reshape(like.shape)


def _fill_averages(state: Any, decay: float) -> None:
  """Completes the moving averages, in place, from average and counter.

  They go on as Haiku's: average = hidden / (1 - decay ** counter).
  """
  for module, leaves in state.items():
    mean = state[module.replace('/var_ema', '/mean_ema')]
    counter = int(mean['counter']) or _MANY_STEPS
    leaves['counter'] = np.int32(counter)
    leaves['hidden'] = np.float32(leaves['average'] * (1 - decay**counter))


def _describe_elsewhere(arrays: StateDict, where: str) -> dict[str, Any]:
  """Returns the facts of torchvision's ResNet with the keys of `arrays`."""
  blocks: dict[int, int] = {}
  for key in arrays:
    if found := re.match(r'layer(\d)\.(\d{1,3})\.', key):
      group, block = int(found[1]), int(found[2])
      blocks[group] = max(blocks.get(group, 0), block + 1)
  counts = tuple(blocks[group] for group in sorted(blocks))
  is_bottleneck = any(re.match(r'layer\d\.\d+\.conv3', x) for x in arrays)
  for name, layers in resnet.ENCODERS.items():
    if (layers.blocks, layers.bottleneck) == (counts, is_bottleneck):
      network = {
        **{'encoder': name, 'width': 1.0, 'version': 1, 'stem': 'imagenet'},
        **shapes.DEFAULT_HEADS | shapes.UNSEEN | {'padding': 'torch'},
      }
      return {
        **{'network': network, 'image_size': weights_lib.IMAGE_SIZE},
        **{'eval_crop': 'resize', 'card': {}},
      }
  raise errors.DataError(
    f'{where}: expected the state dict of a ResNet of torchvision or timm'
    f' (conv1.weight, layer1.0.conv1.weight ...), found {len(arrays)} keys like'
    f' {errors.quote([*arrays][:5])}'
  )

"""Names our arrays as torch's state dicts do, and reads state dicts.

Keys are those of torchvision's ResNet, which timm shares (method.md 9.3). Of a
batch norm the zero-debiased `average` is stored, never `hidden`, which equals
it only late in a run.
"""

import collections
from collections.abc import Callable, Iterator, Mapping
import functools
import json
import logging
from pathlib import Path
import re
from typing import Any, NamedTuple

import jax
import numpy as np

from byol_jax import errors, networks, resnet
from byol_jax.convert import weights as weights_lib

StateDict = dict[str, np.ndarray]
Rename = Callable[[str], str | None]

_INNER_NAMES = {
  **{f'conv_{i}': f'conv{i + 1}' for i in range(3)},
  **{f'batchnorm_{i}': f'bn{i + 1}' for i in range(3)},
  **{'shortcut_conv': 'downsample.0', 'shortcut_batchnorm': 'downsample.1'},
}
# Of a network whose file says nothing of byol_jax.
_DEFAULTS = {
  **{'version': 1, 'gamma_init': 'ones', 'padding': 'torch'},
  **{'projector': [4096, 256], 'predictor': [4096, 256]},
  **{'bn_decay': 0.9, 'bn_epsilon': 1e-5},
}
_IMAGE_SIZE = 224
_MANY_STEPS = 10_000  # the averages of other frameworks need no debiasing
_MAX_LISTED = 20


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

  Args:
    params: {module: {leaf: anything}}.
    rename: our name of a module -> the target's; None leaves it out.
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
    entry.key: to_torch_layout(
      np.asarray(trees[entry.is_state][entry.module][entry.leaf]), entry.leaf
    )
    for entry in list_entries(weights.params, rename)
  }


def to_torch_layout(array: np.ndarray, leaf: str) -> np.ndarray:
  """HWIO -> OIHW, [I, O] -> [O, I], [1, 1, 1, C] -> [C]; counters int64."""
  if leaf == 'w':
    array = array.transpose((3, 2, 0, 1) if array.ndim == 4 else (1, 0))
    return np.ascontiguousarray(array)
  if leaf == 'counter':
    return np.asarray(array, np.int64).reshape(())
  return array.reshape(-1)


def read_state_dict(
  path: str | Path, network: Mapping[str, Any] | None = None
) -> weights_lib.EncoderWeights:
  """Reads a state dict of torchvision's or timm's ResNet into our trees.

  Args:
    path: a .safetensors file, or any that `torch.load` reads without running
      code.
    network: see `restore_weights`.

  Raises:
    ConfigError: torch, or safetensors, is not installed.
    DataError: the file is damaged or does not fit; see `restore_weights`.
  """
  arrays, facts = _read_file(Path(path))
  return restore_weights(arrays, facts, path, network)


def restore_weights(
  arrays: StateDict,
  facts: Mapping[str, Any],
  path: str | Path,
  network: Mapping[str, Any] | None = None,
) -> weights_lib.EncoderWeights:
  """Returns the encoder of a state dict, and its classifier if it has one.

  Args:
    arrays: with the keys of torchvision's ResNet, or transformers' if `facts`
      say so.
    facts: what `torch.write_files` put in the header, {} of another file.
    path: of the file, for messages.
    network: the config section; None for that of `facts`, else the encoder of
      these keys with `padding='torch'`.

  Raises:
    DataError: keys or shapes are not those of the network; every difference is
      named.
  """
  network = network or facts.get('network') or _find_network(arrays, path)
  rename, classes = name_module, arrays.get('fc.weight')
  if facts.get('model', {}).get('library') == 'transformers':
    classes = arrays.get('classifier.1.weight')
    prefix = '' if classes is None else 'resnet.'
    rename = functools.partial(name_for_transformers, prefix=prefix)
  num_classes = None if classes is None else len(classes)
  try:
    params, state = _make_trees(network, num_classes)
  except (KeyError, TypeError, ValueError) as error:
    raise errors.DataError(
      f'{errors.quote(path)}: no network of byol_jax:'
      f' {errors.first_line(error)}'
    ) from error
  trees = {False: params, True: state}
  entries = [*list_entries(params, rename)]
  expected = {
    x.key: to_torch_layout(trees[x.is_state][x.module][x.leaf], x.leaf).shape
    for x in entries
  }
  _require_same_shapes(path, network['encoder'], expected, arrays)
  for x in entries:
    leaves = trees[x.is_state][x.module]
    leaves[x.leaf] = _from_torch_layout(arrays[x.key], leaves[x.leaf])
  _fill_averages(state, network['bn_decay'])
  return weights_lib.EncoderWeights(
    params=params,
    state=state,
    network=dict(network),
    num_classes=num_classes,
    image_size=facts.get('image_size', _IMAGE_SIZE),
    eval_crop=facts.get('eval_crop', 'resize'),
    card=facts.get('card', {'source': str(path)}),
  )


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


def _make_trees(
  network: Mapping[str, Any], num_classes: int | None
) -> tuple[Any, Any]:
  """Returns the encoder's and the classifier's params and state, zeros."""
  forward = networks.make_forward(
    num_classes=num_classes, axis_name=None, **network
  )
  images = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
  init = functools.partial(forward.init, is_training=True)
  shapes = jax.eval_shape(init, jax.random.PRNGKey(0), images)
  params, state = (
    {
      module: {k: np.zeros(x.shape, x.dtype) for k, x in leaves.items()}
      for module, leaves in tree.items()
      if split_module(re.sub(r'/~/(mean|var)_ema$', '', module))
    }
    for tree in shapes
  )
  return params, state


def _find_network(arrays: StateDict, path: str | Path) -> dict[str, Any]:
  """Returns the config section of torchvision's ResNet with these keys."""
  groups: dict[int, int] = collections.Counter()
  for key in arrays:
    if found := re.fullmatch(r'layer(\d)\.\d+\.conv1\.weight', key):
      groups[int(found[1])] += 1
  blocks = tuple(groups[group] for group in sorted(groups))
  is_bottleneck = 'layer1.0.conv3.weight' in arrays
  for name, layers in resnet.ENCODERS.items():
    if (layers.blocks, layers.bottleneck) == (blocks, is_bottleneck):
      return {'encoder': name, 'width': 1.0, 'stem': 'imagenet', **_DEFAULTS}
  raise errors.DataError(
    f'{errors.quote(path)}: expected the state dict of a ResNet of torchvision'
    f' or timm (conv1.weight, layer1.0.conv1.weight ...), found'
    f' {len(arrays)} keys like {errors.quote([*arrays][:5])}'
  )


def _require_same_shapes(
  path: str | Path,
  encoder: str,
  expected: Mapping[str, tuple[int, ...]],
  arrays: StateDict,
) -> None:
  """Raises DataError with every missing, extra or mis-shaped key."""
  found = {key: array.shape for key, array in arrays.items()}
  problems = [f'{key} is missing' for key in expected if key not in found]
  problems += [f'{key} is not expected' for key in found if key not in expected]
  problems += [
    f'{key}: expected {[*shape]}, found {[*found[key]]}'
    for key, shape in expected.items()
    if found.get(key, shape) != shape
  ]
  if not problems:
    return
  listed = '; '.join(problems[:_MAX_LISTED])
  if len(problems) > _MAX_LISTED:
    for problem in problems:
      logging.error('%s', problem)
    listed += f'; and {len(problems) - _MAX_LISTED} more, all listed above'
  raise errors.DataError(
    f'{errors.quote(path)} is not a state dict of {encoder}: {listed}'
  )


def read_facts(path: Path) -> dict[str, Any]:
  """Returns what byol_jax wrote in the header of a file, {} if nothing."""
  errors.require_package('safetensors', extra='export')
  from safetensors import safe_open

  with safe_open(path, 'numpy') as file:
    return json.loads((file.metadata() or {}).get('byol_jax', '{}'))


def _read_file(path: Path) -> tuple[StateDict, dict[str, Any]]:
  """Returns the arrays of a file and the facts of `read_facts`.

  Raises:
    DataError: it is missing or damaged, or holds something else.
  """
  package = 'safetensors' if path.suffix == '.safetensors' else 'torch'
  errors.require_package(package, extra='export')
  try:
    if package == 'safetensors':
      from safetensors import numpy as safetensors

      return safetensors.load_file(path), read_facts(path)
    import torch

    found = torch.load(path, map_location='cpu', weights_only=True)
    found = found.get('state_dict', found)
    return {key: tensor.numpy() for key, tensor in found.items()}, {}
  except Exception as error:  # many kinds, of two libraries
    raise errors.DataError(
      f'{errors.quote(path)}: expected a state dict: {errors.first_line(error)}'
    ) from error

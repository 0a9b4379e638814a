"""Compares exports with ours in torchvision, timm, transformers, torch."""

import functools
import json
import pathlib

import jax
import numpy as np
import pytest

import byol_jax
from byol_jax import errors, networks, resnet
from byol_jax.convert import (
  from_file,
  huggingface,
  parity,
  safetensors,
  state_dict,
  timm,
  torch as torch_lib,
)
from tests.helpers import encoders, tiny_run

pytestmark = pytest.mark.export
SMALL_SIZES = ((64, 64), (65, 65), (33, 48))
HALF_V2 = {'encoder': 'ResNet50', 'width': 0.5, 'version': 2}


def make_ours(forward, weights):
  """Our encoder, computed once for each size."""
  encode = parity.make_ours(forward, weights.params, weights.state)
  found = {}
  return lambda images: found.setdefault(images.shape, encode(images))


@functools.cache
def make_resnet50():
  forward, weights = encoders.make('ResNet50', width=1.0)
  weights = drop_heads(weights)
  return make_ours(forward_of(weights), weights), weights


def drop_heads(weights, kept=()):
  """The encoder alone, with the modules in `kept`."""
  keep = lambda tree: {
    module: leaves
    for module, leaves in tree.items()
    if 'res_net' in module or module in kept
  }
  return weights._replace(
    params=keep(weights.params),
    state=keep(weights.state),
    num_classes=weights.num_classes if kept else None,
  )


def forward_of(weights):
  network = dict(weights.network)
  network |= {'projector': (), 'predictor': ()}
  return networks.make_forward(
    num_classes=weights.num_classes, axis_name=None, **network
  )


def compare(weights, converter, folder, sizes=SMALL_SIZES, ours=None):
  """The largest error of a foreign encoder, which it writes first."""
  folder.mkdir(exist_ok=True)
  converter.write_encoder(weights, folder)
  ours = ours or make_ours(forward_of(weights), weights)
  foreign = converter.open_encoder(folder)
  return max(parity.compare_encoders(ours, foreign, sizes).values())


@pytest.mark.parametrize('converter', [torch_lib, timm, huggingface])
def test_resnet50_agrees_at_all_sizes(converter, tmp_path):
  ours, weights = make_resnet50()
  sizes = parity.SIZES
  assert compare(weights, converter, tmp_path, sizes, ours) <= parity.TOLERANCE


@pytest.mark.parametrize('network', [{'encoder': 'ResNet18'}, HALF_V2])
def test_networks_that_torchvision_lacks_agree_at_all_sizes(network, tmp_path):
  weights = drop_heads(encoders.make(**network)[1])
  error = compare(weights, torch_lib, tmp_path, parity.SIZES)
  assert error <= parity.TOLERANCE


@pytest.mark.parametrize('padding', resnet.PADDINGS)
@pytest.mark.parametrize('stem', resnet.STEMS)
@pytest.mark.parametrize(
  'encoder, version', [('TinyResNet', 1), ('TinyResNet', 2), ('MiniResNet', 1)]
)
def test_every_stem_and_padding_agrees(
  encoder, version, stem, padding, tmp_path
):
  network = {'version': version, 'stem': stem, 'padding': padding}
  network |= {'bn_epsilon': 1e-3, 'width': 1.5}
  weights = drop_heads(encoders.make(encoder, **network)[1])
  assert compare(weights, torch_lib, tmp_path) <= parity.TOLERANCE


@pytest.mark.parametrize('name', resnet.ENCODERS)
@pytest.mark.parametrize('version', [1, 2])
def test_names_and_shapes_of_every_encoder(name, version):
  """Of the networks of the libraries only shapes are made."""
  import torch

  from byol_jax.convert import torch_resnet

  weights = encoders.make()[1]
  network = weights.network | {'encoder': name, 'version': version}
  params, state = tiny_run.shapes_of(
    networks.make_forward(num_classes=10, axis_name=None, **network)
  )
  empty = lambda x: np.broadcast_to(x.dtype.type(0), x.shape)
  trees = jax.tree.map(empty, (params, state))
  weights = weights._replace(params=trees[0], network=network)

  def list_shapes(rename):
    return {
      x.key: state_dict.to_torch_layout(
        trees[x.is_state][x.module][x.leaf], x.leaf
      ).shape
      for x in state_dict.list_entries(params, rename)
    }

  shapes = lambda model: {k: x.shape for k, x in model.state_dict().items()}
  prefixed = functools.partial(
    state_dict.name_for_transformers, prefix='resnet.'
  )
  with torch.device('meta'):
    plain = torch_resnet.ResNet(**torch_lib.describe_plain_module(weights))
    assert shapes(plain) == list_shapes(state_dict.name_module)
    for library in ('torchvision', 'timm', 'transformers'):
      if torch_lib.find_obstacle(weights.network, library) is None:
        names = (
          prefixed if library == 'transformers' else state_dict.name_module
        )
        stock = make_stock(library, name)
        assert shapes(stock) == list_shapes(names), library


def make_stock(library, name):
  """A network of ten classes, as a user would make it."""
  if library == 'torchvision':
    import torchvision

    return torchvision.models.get_model(name.lower(), num_classes=10)
  if library == 'timm':
    import timm

    return timm.create_model(name.lower(), num_classes=10)
  import transformers

  depths = list(resnet.ENCODERS[name].blocks)
  config = transformers.ResNetConfig(depths=depths, num_labels=10)
  return transformers.ResNetForImageClassification(config)


def test_the_loader_swaps_five_modules_and_keeps_all_keys(tmp_path):
  from byol_jax.convert import torch_same

  _, weights = make_resnet50()
  torch_lib.write_encoder(weights, tmp_path)
  source = (tmp_path / 'encoder.py').read_text()
  assert len(source.splitlines()) <= 60
  assert source == pathlib.Path(torch_same.__file__).read_text()
  model, stock = (
    torch_lib.load_module(tmp_path),
    make_stock('torchvision', 'ResNet50'),
  )
  types = {name: type(module) for name, module in stock.named_modules()}
  swapped = {
    name
    for name, module in model.named_modules()
    if type(module) is not types[name] and name != 'fc'
  }
  convs = {f'layer{i}.0.conv2' for i in (2, 3, 4)}
  assert swapped == {'conv1', 'maxpool'} | convs
  kept = {key for key in stock.state_dict() if not key.startswith('fc.')}
  assert model.state_dict().keys() == kept


def test_symmetric_padding_needs_no_loader(tmp_path):
  """A run with network.padding='torch' fits the libraries as they are."""
  from safetensors import torch as safetensors_torch
  import timm as timm_lib
  import torch
  import torchvision
  import transformers

  weights = drop_heads(encoders.make('ResNet50', padding='torch')[1])
  folders = {}
  for converter in (torch_lib, timm, huggingface):
    folders[converter] = tmp_path / converter.__name__
    folders[converter].mkdir()
    converter.write_encoder(weights, folders[converter])
  stock = torchvision.models.resnet50()
  stock.fc = torch.nn.Identity()
  path = folders[torch_lib] / 'model.safetensors'
  stock.load_state_dict(safetensors_torch.load_file(path))
  by_timm = timm_lib.create_model(f'local-dir:{folders[timm]}', pretrained=True)
  hf = transformers.AutoModel.from_pretrained(folders[huggingface]).eval()
  ours = make_ours(forward_of(weights), weights)
  for encode in (
    stock.eval(),
    by_timm.eval(),
    lambda images: hf(images).pooler_output.flatten(1),
  ):
    foreign = torch_lib.make_encode(encode)
    found = parity.compare_encoders(ours, foreign, [(64, 64), (65, 96)])
    assert parity.holds(found), found
  config = timm_lib.data.resolve_model_data_config(by_timm)
  assert [*config['mean']] == [*networks.MEAN_RGB]
  assert config['crop_pct'] == 0.875 and config['input_size'][1] == 32
  processor = transformers.AutoImageProcessor.from_pretrained(
    folders[huggingface]
  )
  assert [*processor.image_mean] == [*networks.MEAN_RGB]


@pytest.mark.parametrize(
  'converter, network',
  [
    (timm, {'encoder': 'ResNet18'}),
    (timm, {'encoder': 'ResNet50', 'width': 2.0}),
    (timm, HALF_V2),
    (huggingface, {'encoder': 'ResNet34'}),
    (huggingface, {'encoder': 'ResNet50', 'stem': 'small'}),
  ],
)
def test_timm_and_transformers_refuse_with_the_reason(
  converter, network, tmp_path
):
  weights = encoders.make()[1]
  weights = weights._replace(network=weights.network | network)
  with pytest.raises(errors.ConfigError, match='cannot hold the network: '):
    converter.write_encoder(weights, tmp_path)
  assert not [*tmp_path.iterdir()]


def test_transformers_holds_a_wide_network(tmp_path):
  weights = drop_heads(encoders.make('ResNet50', width=0.25)[1])
  assert compare(weights, huggingface, tmp_path) <= parity.TOLERANCE


def measure(found, expected):
  """The error as `parity` defines it."""
  return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize(
  'name, converter',
  [
    ('TinyResNet', torch_lib),
    *(('ResNet50', converter) for converter in (torch_lib, timm, huggingface)),
  ],
)
def test_a_classifier_goes_along_and_the_way_back_is_exact(
  name, converter, tmp_path
):
  import torch

  weights = encoders.make(name)[1]
  weights = drop_heads(weights, kept=('classifier',))
  converter.write_encoder(weights, tmp_path)
  images = parity.make_images((64, 64))
  forward = forward_of(weights)
  expected, _ = jax.jit(forward.apply, static_argnums=3)(
    weights.params, weights.state, images, False
  )
  encode = converter.open_encoder(tmp_path)
  found = encode(parity.normalize_images(images))
  assert measure(found, expected.representation) <= parity.TOLERANCE
  model = torch_lib.load_module(tmp_path)
  with torch.inference_mode():
    nchw = parity.normalize_images(images).transpose(0, 3, 1, 2)
    logits = model(torch.from_numpy(nchw.copy()))
  logits = getattr(logits, 'logits', logits).numpy()
  assert measure(logits, expected.logits) <= parity.TOLERANCE
  back = safetensors.read_encoder(tmp_path / 'model.safetensors')
  assert {**back.network} == json.loads(json.dumps(weights.network))
  assert back.num_classes == 5 and back.card == weights.card
  for ours, theirs in zip((weights.params, weights.state), back):
    assert ours.keys() == theirs.keys()
    for module, leaves in ours.items():
      for leaf, x in leaves.items():
        if leaf != 'hidden':  # computed from the average
          assert x.dtype == theirs[module][leaf].dtype
          np.testing.assert_array_equal(x, theirs[module][leaf], module)


def test_heads_go_along_as_sequential_modules(tmp_path):
  from safetensors import torch as safetensors_torch
  import torch

  sizes = {'projector': (12, 10, 6), 'predictor': (14, 6)}
  forward, weights = encoders.make(**sizes)
  torch_lib.write_encoder(weights, tmp_path)
  arrays = safetensors_torch.load_file(tmp_path / 'heads.safetensors')
  images = parity.make_images((64, 64))
  expected, _ = jax.jit(forward.apply, static_argnums=3)(
    weights.params, weights.state, images, False
  )
  found = torch.from_numpy(np.array(expected.representation))
  for head, output in (
    ('projector', expected.projection),
    ('predictor', expected.prediction),
  ):
    layers, inputs = [], found.shape[1]
    for size in sizes[head]:
      layers += [torch.nn.Linear(inputs, size), torch.nn.BatchNorm1d(size)]
      layers.append(torch.nn.ReLU())
      inputs = size
    layers[-3:] = [torch.nn.Linear(layers[-3].in_features, inputs, bias=False)]
    module = torch.nn.Sequential(*layers).eval()
    module.load_state_dict(
      {
        key.removeprefix(f'{head}.'): x
        for key, x in arrays.items()
        if key.startswith(head)
      }
    )
    with torch.inference_mode():
      found = module(found)
    assert measure(found.numpy(), output) <= parity.TOLERANCE


@pytest.mark.parametrize('name', ['ResNet18', 'ResNet50'])
def test_a_stock_network_comes_in_and_goes_out_again(name, tmp_path):
  """Weights of elsewhere, their padding symmetric, in a pickle of torch."""
  import torch

  model = make_stock('torchvision', name)
  for module in model.modules():  # as after training
    if isinstance(module, torch.nn.BatchNorm2d):
      module.running_mean.uniform_(-0.2, 0.2)
      module.running_var.uniform_(0.8, 1.2)
  torch.save(model.state_dict(), tmp_path / 'model.pth')
  encoder = byol_jax.load(tmp_path / 'model.pth')
  assert encoder.config.network.encoder == name and encoder.num_classes == 10
  model.fc = torch.nn.Identity()
  ours = parity.make_ours(encoder.forward, encoder.params, encoder.state)
  encode = torch_lib.make_encode(model.eval())
  sizes = [(64, 64), (65, 65)]
  found = parity.compare_encoders(ours, encode, sizes)
  assert parity.holds(found), found
  weights = from_file.read_encoder(tmp_path / 'model.pth', 'online')
  folder = tmp_path / 'export'
  stock = lambda images: encode(parity.normalize_images(images))
  assert compare(weights, torch_lib, folder, sizes, stock) <= parity.TOLERANCE
  half = model.half().state_dict()
  torch.save({'state_dict': half}, tmp_path / 'half.pt')
  found = byol_jax.load(tmp_path / 'half.pt').params
  for module, leaves in encoder.params.items():
    for leaf, x in leaves.items():
      if module != 'classifier' and 'shortcut' not in module:
        np.testing.assert_array_equal(found[module][leaf], np.float16(x))


def test_a_file_that_does_not_fit_names_every_difference(tmp_path):
  import torch

  with torch.device('meta'):
    shapes = make_stock('torchvision', 'ResNet50').state_dict()
  arrays = {key: torch.zeros(x.shape) for key, x in shapes.items()}
  del arrays['layer1.0.conv1.weight'], arrays['bn1.bias']
  arrays['layer2.0.conv2.weight'] = torch.zeros(8, 4, 3, 3)
  arrays['extra.weight'] = torch.zeros(3)
  path = tmp_path / 'model.pth'
  torch.save(arrays, path)
  with pytest.raises(errors.DataError) as caught:
    from_file.read_encoder(path, 'online')
  for part in (
    "missing 'layer1.0.conv1.weight' [64, 64, 1, 1]",
    "missing 'bn1.bias' [64]",
    "unknown 'extra.weight' [3]",
    "'layer2.0.conv2.weight': expected [128, 128, 3, 3], found [8, 4, 3, 3]",
  ):
    assert part in str(caught.value)


def test_a_file_is_refused_in_one_line_and_runs_no_code(tmp_path):
  import torch

  class Hostile:
    def __reduce__(self):
      return pathlib.Path.touch, (tmp_path / 'touched',)

  (tmp_path / 'cut.pth').write_bytes(b'0' * 20)
  torch.save({'a': Hostile()}, tmp_path / 'hostile.pth')
  torch.save([1, 2], tmp_path / 'list.pth')
  torch.save({'a': torch.zeros(1)}, tmp_path / 'other.pth')
  names = [path.name for path in tmp_path.iterdir()]
  assert len(names) == 4
  for name in (*names, 'none.pth'):
    with pytest.raises(errors.DataError, match=name.replace('.', r'\.')):
      from_file.read_encoder(tmp_path / name, 'online')
  assert not (tmp_path / 'touched').exists()

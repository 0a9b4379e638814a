"""A state dict of torch comes in as what it was."""

import haiku as hk
import jax
import numpy as np
import pytest

import byol_jax
from byol_jax import errors, resnet
from byol_jax.convert import (
  from_file,
  parity,
  reference,
  safetensors,
  state_dict,
)
from tests.helpers import encoders


def test_a_state_dict_is_read_and_its_differences_are_named(tmp_path):
  """Of the first versions of torch, which had no counters, too."""
  network = {'padding': 'torch', 'projector': (), 'predictor': ()}
  _, weights = encoders.make('ResNet50', num_classes=10, **network)
  named = state_dict.to_state_dict(weights)
  named = {k: x for k, x in named.items() if 'num_batches' not in k}
  file = tmp_path / 'resnet50.safetensors'
  safetensors.write_arrays(file, named, {})
  found = byol_jax.load(file)
  assert found.num_classes == 10 and found.dim == 2048
  assert found.config.network.padding == 'torch'
  for module, leaves in weights.params.items():
    for name, leaf in leaves.items():
      np.testing.assert_array_equal(found.params[module][name], leaf)
  decay = found.config.network.bn_decay
  for module, leaves in found.state.items():
    counter = int(leaves['counter'])
    assert decay**counter < 1e-6  # a step of training hardly moves them
    average = leaves['hidden'] / (1 - decay**counter)
    np.testing.assert_allclose(average, leaves['average'], rtol=1e-6)
    kept = weights.state[module]['average']
    np.testing.assert_array_equal(leaves['average'], kept)
  named.pop('conv1.weight')
  named['layer1.0.conv1.weight'] = np.zeros((64, 3), np.float32)
  named |= {'other': np.zeros(2, np.float32)}
  safetensors.write_arrays(file, named, {})
  with pytest.raises(
    errors.DataError,
    match=r"missing 'conv1.weight' .*expected \[64, 64, 1, 1\], found"
    r" \[64, 3\]; unknown 'other' \[2\]",
  ):
    byol_jax.load(file)


def test_a_resnet18_of_torchvision_gets_a_shortcut_that_changes_no_bit(
  tmp_path,
):
  """Torchvision's basic blocks project no first shortcut, ours do."""
  network = {'encoder': 'ResNet18', 'padding': 'torch'}
  _, weights = encoders.make(**network, projector=(), predictor=())
  shortcut = 'block_group_0/~/block_0/~/shortcut'
  params, state = (
    {k: v for k, v in tree.items() if shortcut not in k} for tree in weights[:2]
  )
  stock = weights._replace(params=params, state=state)
  file = tmp_path / 'resnet18.safetensors'
  safetensors.write_arrays(file, state_dict.to_state_dict(stock), {})
  encoder = byol_jax.load(file)
  images = parity.make_images((33, 48))
  found = jax.jit(encoder.apply)(encoder.params, encoder.state, images)[0]
  expected = reference.make_encode(stock)(parity.normalize_images(images))
  error = np.abs(found.representation - expected).max() / expected.max()
  assert error <= parity.TOLERANCE

  block = 'res_net18/~/block_group_0/~/block_0/~/'
  trees = (
    {k.removeprefix(block): v for k, v in tree.items() if shortcut in k}
    for tree in (encoder.params, encoder.state)
  )

  def project(x):
    x = resnet.make_conv(64, 1, 1, 'shortcut_conv')(x)
    name, decay = 'shortcut_batchnorm', encoder.config.network.bn_decay
    return hk.BatchNorm(True, True, decay, name=name)(x, False)

  images = np.random.default_rng(0).lognormal(0, 9, (2, 9, 9, 64))
  apply = jax.jit(hk.transform_with_state(project).apply)
  images = np.float32(images)
  found, _ = apply(*trees, None, images)
  np.testing.assert_array_equal(found, images)


def test_a_file_of_another_kind_is_named(tmp_path):
  (tmp_path / 'x.bin').touch()
  with pytest.raises(errors.DataError, match=r"found '\.bin'"):
    from_file.read_encoder(tmp_path / 'x.bin', 'online')
  (tmp_path / 'x.npz').touch()
  for weights in ('random', 'target'):  # an export has one set
    with pytest.raises(errors.ConfigError, match=f"weights: .* '{weights}'"):
      from_file.read_encoder(tmp_path / 'x.npz', weights)


@pytest.mark.parametrize(
  'names, expected',
  (
    (('model.safetensors', 'card.json'), 'model.safetensors'),
    # Of an export with heads; of one for timm or transformers.
    (('model.safetensors', 'heads.safetensors'), 'model.safetensors'),
    (('model.safetensors', 'config.json', 'x.pt'), 'model.safetensors'),
    (('encoder.npz', 'README.md'), 'encoder.npz'),
    (('renamed.pth', 'notes.txt'), 'renamed.pth'),
    (('a.npz', 'b.npz'), None),
    # A run, beside what its user put there; a copy of its checkpoints.
    (('config.json', 'embeddings.npz'), None),
    (('checkpoints', 'embeddings.npz'), None),
    (('checkpoints', 'config.json', 'model.safetensors'), None),
    ((), None),
  ),
)
def test_the_file_of_a_folder_is_found(tmp_path, names, expected):
  folder = tmp_path / 'export.pt'  # a folder may have any name
  folder.mkdir()
  for name in names:
    (folder / name).touch()
  found = from_file.find_file(folder)
  assert found == (None if expected is None else folder / expected)


def test_an_export_that_is_not_read_back_is_named(tmp_path):
  for name in ('card.json', 'model.onnx'):
    (tmp_path / name).touch()
  with pytest.raises(
    errors.DataError, match=r"found .*'model.onnx'.* not read"
  ):
    from_file.find_file(tmp_path)
  with pytest.raises(errors.DataError, match='cannot be read: File name too'):
    from_file.find_file(tmp_path / ('x' * 300))

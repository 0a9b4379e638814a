"""Files of ours keep every bit, and refuse what they did not write."""

import json
import zipfile

import jax
import numpy as np
import pytest

from byol_jax import errors
from byol_jax.convert import archive, npz, safetensors
from tests.helpers import encoders

MODULES = {'npz': npz, 'safetensors': safetensors}


def assert_equal(found, expected):
  assert found._replace(params=0, state=0) == expected._replace(
    params=0,
    state=0,
    network=json.loads(json.dumps(expected.network)),
  )
  for trees in zip(found[:2], expected[:2]):
    leaves, others = (jax.tree.leaves_with_path(tree) for tree in trees)
    assert len(leaves) == len(others)
    for (path, a), (other, b) in zip(leaves, others):
      assert path == other and a.dtype == b.dtype and a.shape == b.shape
      assert a.tobytes() == np.asarray(b).tobytes(), path


@pytest.mark.parametrize('name', MODULES)
def test_weights_come_back_to_the_same_bits(name, tmp_path):
  _, weights = encoders.make()
  module = next(iter(weights.params))
  weights.params[module]['w'].flat[:3] = (-0.0, np.nan, 1e-42)
  MODULES[name].write_encoder(weights, tmp_path)
  (path,) = tmp_path.iterdir()
  assert_equal(MODULES[name].read_encoder(path), weights)


@pytest.mark.parametrize(
  'change, pattern',
  (
    ({'format': 'x'}, "expected 'byol_jax encoder' 1, found 'x'"),
    ({'version': 2}, 'found .* 2; use the version that wrote it'),
    ({'network': []}, r'network: found \[\]'),
    ({'image_size': True}, 'image_size: found True'),
    ({'num_classes': 'ten'}, "num_classes: found 'ten'"),
    (None, 'with its description, found none'),
    ('[' * 100_000, 'with its description'),
  ),
)
def test_another_description_is_refused(change, pattern, tmp_path):
  _, weights = encoders.make()
  arrays, text = archive.flatten_weights(weights)
  if isinstance(change, dict):
    change = json.dumps(json.loads(text) | change)
  with pytest.raises(errors.DataError, match=pattern):
    archive.restore_weights(arrays, change, tmp_path)


def test_another_array_is_refused(tmp_path):
  _, weights = encoders.make()
  arrays, text = archive.flatten_weights(weights)
  for name, array in (
    *(('conv1.weight', np.ones(3, np.float32)), ('params/x', np.ones(3))),
    ('params/a/w', np.ones(3)),
  ):
    with pytest.raises(errors.DataError, match=f"found '{name}'"):
      archive.restore_weights(arrays | {name: array}, text, tmp_path)


@pytest.mark.parametrize('name', MODULES)
def test_a_damaged_file_is_one_line(name, tmp_path):
  _, weights = encoders.make()
  MODULES[name].write_encoder(weights, tmp_path)
  (path,) = tmp_path.iterdir()
  octets = path.read_bytes()
  for damaged in (b'', b'x' * 100, octets[:-100], octets[: len(octets) // 2]):
    path.write_bytes(damaged)
    with pytest.raises(errors.DataError, match=path.name) as found:
      MODULES[name].read_encoder(path)
    assert '\n' not in str(found.value)
  path.unlink()
  with pytest.raises(errors.DataError, match='No such file'):
    MODULES[name].read_encoder(path)


def test_a_compressed_npz_is_refused(tmp_path):
  """A small file could need any amount of memory."""
  np.savez_compressed(tmp_path / 'x.npz', x=np.zeros(100))
  with pytest.raises(errors.DataError, match='no compression'):
    npz.read_encoder(tmp_path / 'x.npz')


def test_an_npz_whose_entries_share_bytes_or_are_no_arrays(tmp_path):
  file = tmp_path / 'x.npz'
  with zipfile.ZipFile(file, 'w') as entries:
    entries.writestr('params/a/w', b'no array')
  with pytest.raises(errors.DataError, match="arrays, found 'params/a/w'"):
    npz.read_encoder(file)
  with zipfile.ZipFile(file, 'a') as entries:
    entries.writestr('x', bytes(1000))
    entries.filelist += entries.filelist * 9
  with pytest.raises(errors.DataError, match=r'at most \S+ bytes in all'):
    npz.read_encoder(file)

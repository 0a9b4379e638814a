"""A header that lies is refused, whatever it says."""

import json
import random
import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import errors
from byol_jax.convert import archive, safetensors
from tests.helpers import encoders

ARRAYS = {
  'a': {'dtype': 'F32', 'shape': [2, 3], 'data_offsets': [0, 24]},
  'b': {'dtype': 'I32', 'shape': [], 'data_offsets': [24, 28]},
  'c': {'dtype': 'F32', 'shape': [0, 5], 'data_offsets': [28, 28]},
  'd': {'dtype': 'F32', 'shape': [7], 'data_offsets': [28, 56]},
}


def make_file(header, data=bytes(56), length=None):
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  size = len(text) if length is None else length
  return size.to_bytes(8, 'little') + text + data


def with_entry(**change):
  return make_file(ARRAYS | {'d': ARRAYS['d'] | change})


def test_a_true_header_is_read():
  data = np.arange(14, dtype='<f4').tobytes()
  header = {'__metadata__': {'k': 'v'}} | ARRAYS
  arrays, metadata = safetensors.parse_arrays(make_file(header, data))
  assert metadata == {'k': 'v'}
  assert {k: x.shape for k, x in arrays.items()} == {
    k: tuple(x['shape']) for k, x in ARRAYS.items()
  }
  np.testing.assert_array_equal(arrays['a'], np.arange(6).reshape(2, 3))
  assert arrays['b'].dtype == np.int32


@pytest.mark.parametrize(
  'name, dtype', [('F16', np.float16), ('BF16', jnp.bfloat16)]
)
def test_half_precision_becomes_float32(name, dtype):
  values = np.float32([1, -0.5, np.inf, 2**-20, 3.140625, -65504, -0.0])
  entry = ARRAYS['d'] | {'dtype': name, 'data_offsets': [0, 14]}
  content = make_file({'d': entry}, values.astype(dtype).tobytes())
  found = safetensors.parse_arrays(content)[0]['d']
  assert found.dtype == np.float32
  expected = np.array(values.astype(dtype), np.float32)
  assert found.tobytes() == expected.tobytes()


def test_a_network_that_takes_all_memory_is_refused(tmp_path):
  """The text of a state dict may say anything of its network."""
  _, weights = encoders.make()
  weights.network['width'] = 1e5
  arrays = {'bn1.running_mean': np.zeros(3, np.float32)}
  path = tmp_path / 'x.safetensors'
  for text, pattern in (
    (archive.describe_weights(weights), "missing 'conv1.weight'.*and .* more"),
    ('{"network": 3}', 'with its description'),
    ('3', 'with its description'),
  ):
    safetensors.write_arrays(path, arrays, {safetensors.TEXT: text})
    with pytest.raises(errors.DataError, match=pattern):
      safetensors.read_encoder(path)


LIES = {
  'nothing': b'',
  'a length above the file': make_file(ARRAYS, length=10**6),
  'a list': make_file([]),
  'no JSON': make_file(b'{"a": '),
  'brackets': make_file(b'[' * 10**5),
  'a key twice': make_file(json.dumps(ARRAYS).replace('"b"', '"a"').encode()),
  'a hole': make_file(ARRAYS | {'b': ARRAYS['b'] | {'data_offsets': [25, 29]}}),
  'an overlap': with_entry(data_offsets=[24, 52]),
  'bytes behind': make_file(ARRAYS, bytes(60)),
  'bytes missing': make_file(ARRAYS, bytes(52)),
  'another shape': with_entry(shape=[8]),
  'a shape whose product overflows': with_entry(shape=[2**62, 4, 4, 7]),
  'a negative side': with_entry(shape=[-7]),
  'a flag': with_entry(shape=[7, True]),
  'a shape of text': with_entry(shape='7'),
  'many sides': with_entry(shape=[7] + [1] * 100),
  'an unknown dtype': with_entry(dtype='F8_E4M3'),
  'a dtype that is no text': with_entry(dtype=['F32']),
  'an unknown field': with_entry(more=1),
  'offsets of three': with_entry(data_offsets=[28, 56, 60]),
  'an entry that is no dict': make_file(ARRAYS | {'e': 3}),
  'metadata of numbers': make_file(ARRAYS | {'__metadata__': {'k': 1}}),
  'metadata of text': make_file(ARRAYS | {'__metadata__': 'k'}),
}


@pytest.mark.parametrize('name', LIES)
def test_a_lie_is_refused(name, tmp_path):
  path = tmp_path / 'x.safetensors'
  path.write_bytes(LIES[name])
  with pytest.raises(errors.DataError, match='damaged safetensors') as found:
    safetensors.read_encoder(path)
  assert len(str(found.value)) < 1000 and '\n' not in str(found.value)


def test_a_thousand_random_headers(tmp_path):
  """Each is read as the same arrays or refused; nothing is allocated for it."""
  _, weights = encoders.make()
  few = dict([*weights.params.items()][:4])
  weights = weights._replace(params=few, state={}, network={}, card={})
  safetensors.write_encoder(weights, tmp_path)
  whole = (tmp_path / safetensors.FILE).read_bytes()
  length = int.from_bytes(whole[:8], 'little')
  expected, _ = safetensors.parse_arrays(whole)
  total = sum(x.nbytes for x in expected.values())
  generator, refused = random.Random(0), 0
  tracemalloc.start()
  for _ in range(1000):
    octets = bytearray(whole)
    for _ in range(generator.randint(1, 4)):
      place = generator.randrange(8 + length)
      if generator.random() < 0.3:
        place = generator.randrange(8)
      # Digits and brackets: most other changes end in the JSON parser.
      choice = b'0123456789[]{},:" \\-' + bytes([generator.randrange(256)])
      octets[place] = generator.choice(choice)
    try:
      arrays, _ = safetensors.parse_arrays(bytes(octets))
    except ValueError:
      refused += 1
    else:  # a name or the description differs, or one space
      assert sum(x.nbytes for x in arrays.values()) == total
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert refused > 500
  assert peak < 1_000_000  # bytes, whatever a header claims


@pytest.mark.export
def test_the_format_is_that_of_the_package(tmp_path):
  pytest.importorskip('safetensors')
  from safetensors import numpy as official, safe_open

  _, weights = encoders.make()
  safetensors.write_encoder(weights, tmp_path)
  path = tmp_path / safetensors.FILE
  expected, metadata = safetensors.parse_arrays(path.read_bytes())
  with safe_open(path, 'numpy') as found:
    assert found.metadata() == metadata
  found = official.load_file(path)
  assert found.keys() == expected.keys()
  for name, array in expected.items():
    assert found[name].dtype == array.dtype
    np.testing.assert_array_equal(found[name], array)
  official.save_file(found, path, metadata)
  again, _ = safetensors.parse_arrays(path.read_bytes())
  for name, array in expected.items():
    np.testing.assert_array_equal(again[name], array)

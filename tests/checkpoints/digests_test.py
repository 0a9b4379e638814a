"""Digests: no bit of an array or of the manifest changes unnoticed."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import errors
from byol_jax.checkpoints import digests

NAN = np.frombuffer(b'\1\0\xc0\x7f', np.float32)  # not the usual payload


@pytest.mark.parametrize(
  'saved, found',
  [
    (np.float32([0.0]), np.float32([-0.0])),
    (np.float32([np.nan]), NAN),
    (np.float32([1]), np.float32([[1]])),
    (np.uint32([1]), np.int32([1])),
    (np.zeros((0, 2)), np.zeros((0, 3))),
    (np.asarray(jnp.ones(2, jnp.bfloat16)), np.full(2, 0x3F80, np.uint16)),
    # A digest is of the values in C order, as `copy` below has them.
    (np.arange(12).reshape(3, 4)[:, ::2].T, np.zeros((2, 3), int)),
  ],
)
def test_equal_values_of_other_bits_shape_or_dtype_differ(saved, found):
  manifest = digests.make_manifest({'a': NAN, 'b': saved}, {})
  entries = digests.check_manifest(json.loads(json.dumps(manifest)))['arrays']
  digests.check_arrays(entries, {'a': NAN, 'b': saved.copy()})
  with pytest.raises(ValueError, match="array 'b': expected"):
    digests.check_arrays(entries, {'a': NAN, 'b': found})


def test_a_changed_value_of_the_manifest_is_noticed():
  manifest = digests.make_manifest({}, {'meta': {'step': 1}})
  digests.check_manifest(manifest)
  manifest['content']['meta']['step'] = 2
  with pytest.raises(ValueError, match='expected sha256'):
    digests.check_manifest(manifest)


def test_a_newer_format_is_refused_and_not_called_damaged(monkeypatch):
  monkeypatch.setattr(digests, 'FORMAT', digests.FORMAT + 1)
  newer = digests.make_manifest({}, {})
  monkeypatch.undo()
  with pytest.raises(errors.DataError, match=r'format 4, .* reads 3'):
    digests.check_manifest(newer)
  newer['content']['format'] = digests.FORMAT  # one flipped bit, say
  with pytest.raises(ValueError):
    digests.check_manifest(newer)

"""The check of an export sees the mistakes that conversions made."""

import numpy as np
import pytest

from byol_jax.convert import parity, reference
from tests.helpers import encoders

SIZES = ((64, 64), (33, 46))


@pytest.fixture(scope='module')
def pair():
  """(ours, EncoderWeights)."""
  forward, weights = encoders.make()
  return parity.make_ours(forward, weights.params, weights.state), weights


def test_a_right_export_passes(pair):
  ours, weights = pair
  found = parity.compare_encoders(ours, reference.make_encode(weights), SIZES)
  assert found.keys() == {*SIZES} and parity.holds(found), found
  assert max(found.values()) > 0  # other sums than ours


def use_hidden(weights):
  state = {
    module: leaves | {'average': leaves['hidden']}
    for module, leaves in weights.state.items()
  }
  return reference.make_encode(weights._replace(state=state))


def pad_both_sides(weights):
  network = weights.network | {'padding': 'torch'}
  return reference.make_encode(weights._replace(network=network))


def flip_channels(weights):
  encode = reference.make_encode(weights)
  return lambda images: encode(images[..., ::-1])


@pytest.mark.parametrize('damage', (use_hidden, pad_both_sides, flip_channels))
def test_a_wrong_export_fails_by_far(pair, damage):
  ours, weights = pair
  found = parity.compare_encoders(ours, damage(weights), SIZES)
  assert not parity.holds(found)
  assert found[64, 64] > 1e-2, found


@pytest.mark.parametrize('value', (np.nan, np.inf, 0.0))
def test_numbers_that_say_nothing_fail(value):
  encode = lambda images: np.full((2, 4), value, np.float32)
  found = parity.compare_encoders(encode, encode, [(8, 8)])
  assert found == {(8, 8): np.inf} and not parity.holds(found)


def test_another_shape_fails():
  ours, foreign = (
    lambda images, n=n: np.ones((2, n), np.float32) for n in (4, 1)
  )
  found = parity.compare_encoders(ours, foreign, [(8, 8)])
  assert found == {(8, 8): np.inf}

"""Trees as flat dicts of names."""

import jax
import numpy as np
import optax
import pytest

from byol_jax import errors
from byol_jax.checkpoints import trees


def make_state():
  """Haiku-like names, a chain with masked and empty states."""
  params = {'res_net50/~/initial_conv': {'w': np.ones((3, 4), 'f4')},
            'projector/linear': {'w': np.ones((4, 2), 'f4')}}  # fmt: skip
  mask = {'res_net50/~/initial_conv': True, 'projector/linear': False}
  optimizer = optax.chain(
    optax.masked(optax.scale_by_adam(), mask), optax.trace(0.9)
  )
  return {'step': np.int32(7), 'opt_state': optimizer.init(params)}


def test_names_are_keys_fields_and_indices():
  adam, trace = 'opt_state/0/inner_state', 'opt_state/1/trace'
  state = make_state()
  arrays = trees.flatten(state)
  assert set(arrays) == {
    'step',
    f'{adam}/count',
    f'{adam}/mu/res_net50/~/initial_conv/w',
    f'{adam}/nu/res_net50/~/initial_conv/w',
    f'{trace}/res_net50/~/initial_conv/w',
    f'{trace}/projector/linear/w',
  }
  back = trees.unflatten(jax.eval_shape(lambda: state), arrays, '')
  assert jax.tree.structure(back) == jax.tree.structure(state)


@pytest.mark.parametrize(
  'template, words',
  [
    ({'a': np.ones(2), 'w': np.ones((2, 3))}, ["'w'", '[2, 3]', '[2]']),
    ({'a': np.ones(2), 'w': np.ones(2, 'f4')}, ["'w'", 'float32', 'float64']),
    ({'a': np.ones(2)}, ["'w'", 'expected nothing', 'float64[2]']),
    (
      {'a': np.ones(2), 'b': {'c': np.int32(1)}, 'w': np.ones(2)},
      ["'b/c'", 'int32[]', 'found nothing'],
    ),
    # Two leaves differ: the first is named.
    ({'a': np.ones(1), 'w': np.ones(1)}, ["'a'"]),
  ],
)
def test_another_tree_is_refused_by_name(template, words):
  with pytest.raises(errors.DataError) as caught:
    trees.unflatten(template, {'a': np.ones(2), 'w': np.ones(2)}, 'runs/1')
  for word in [*words, 'runs/1']:
    assert word in str(caught.value)
  assert '\n' not in str(caught.value)

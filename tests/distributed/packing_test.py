"""Packing: the same values in fewer arrays, before, in and after a step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax.distributed import packing


def tree(seed=0, make=np.asarray):
  generator = np.random.default_rng(seed)

  def draw(*shape):
    return make(generator.normal(size=shape).astype(np.float32))

  return {
    'kernel': draw(3, 3, 32, 64),
    'scale': [draw(64), draw(64), draw(1, 64)],
    'count': (make(np.int32(seed)), make(np.int32(-1))),
    'rng': make(generator.integers(0, 2**32, 2, np.uint32)),
    'flags': make(np.array([True, False])),
    'limit': draw(8192),
    'above': draw(8193),
    'none': None,
  }


def assert_same(found, expected):
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
    assert a.shape == b.shape and a.dtype == b.dtype
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize('make', (np.asarray, jnp.asarray))
def test_unpacked_is_what_was_packed(make):
  assert_same(packing.unpack(packing.pack(tree(make=make))), tree())
  for empty in ({}, (), {'a': None}):
    assert packing.unpack(packing.pack(empty)) == empty


def test_one_array_for_each_kind_of_small_leaf():
  packed = packing.pack(tree())
  assert [x.size for x in packed.large] == [8193, 3 * 3 * 32 * 64]
  assert {kind: x.shape for kind, x in packed.small.items()} == {
    'float32[64]': (2, 64),
    'float32[1, 64]': (1, 1, 64),
    'float32[8192]': (1, 8192),
    'int32[]': (2,),
    'uint32[2]': (1, 2),
    'bool[2]': (1, 2),
  }
  assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(packed))


def test_packed_trees_of_one_kind_are_one_program():
  traced = []

  @jax.jit
  def step(packed):
    traced.append(1)
    return packed

  for seed in range(3):
    assert_same(packing.unpack(step(packing.pack(tree(seed)))), tree(seed))
  assert len(traced) == 1
  step(packing.pack(tree() | {'kernel': np.zeros(3, np.float32)}))
  assert len(traced) == 2


@pytest.mark.parametrize('most_elements', (packing.SMALL, 64, -1))
def test_a_function_over_packed_trees_does_what_it_does(most_elements):
  def step(tree, more):
    moved = jax.tree.map(lambda x: x[::-1] if x.ndim else x + 1, tree)
    return moved, {'sum': more + tree['count'][0]}

  expected, scalars = step(tree(3), 4)
  packed = packing.pack(tree(3), most_elements)
  assert bool(packed.small) == (most_elements > 0)
  found, same = jax.jit(packing.on_packed_state(step))(packed, 4)
  assert jax.tree.structure(found) == jax.tree.structure(packed)
  assert_same(packing.unpack(found), expected)
  assert same['sum'] == scalars['sum'] == 7

"""Arrays to the devices and back, bit for bit."""

import types

import jax
import numpy as np
import pytest

from byol_jax import errors
from byol_jax.distributed import packing, placement
from tests.helpers import tiny_run


def tree():
  return {
    'scalar': np.int32(7),
    'bits': np.arange(2, dtype=np.uint32),
    'flags': np.array([[True], [False]]),
    'nested': (np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3),),
  }


def assert_same(a, b):
  a, b = tiny_run.flat(a), tiny_run.flat(b)
  assert a.keys() == b.keys()
  for key in a:
    assert a[key].dtype == b[key].dtype
    np.testing.assert_array_equal(a[key], b[key])


def test_replicate_and_first_replica_are_inverse():
  replicated = placement.replicate(tree())
  for x in jax.tree.leaves(replicated):
    assert x.shape[0] == jax.local_device_count()
  back = placement.fetch_first_replica(replicated)
  assert_same(back, tree())
  assert all(
    isinstance(x, (np.ndarray, np.generic)) for x in jax.tree.leaves(back)
  )


@pytest.mark.parametrize('length', [0, 1, 2, 5])
@pytest.mark.parametrize('size', [1, 2, 9])
def test_prefetch_yields_each_batch_once_in_order(length, size):
  count = jax.local_device_count()
  rows = np.arange(count * 6.0, dtype=np.float32).reshape(count, 3, 2)
  batches = [{'x': rows + i} for i in range(length)]
  found = placement.prefetch(batches, size)
  for batch, expected in zip(found, batches, strict=True):
    assert_same(batch, expected)


def test_prefetch_is_ahead_but_not_by_more_than_its_size():
  asked = []

  def batches():
    for i in range(10):
      asked.append(i)
      yield {'x': np.zeros((jax.local_device_count(), 1))}

  iterator = placement.prefetch(batches(), 2)
  assert not asked
  next(iterator)
  assert len(asked) == 3
  next(iterator)
  assert len(asked) == 4


def test_a_donated_buffer_is_gone():
  step = placement.pmap(
    lambda state, x: jax.tree.map(lambda s: s + x, state), donate_argnums=(0,)
  )
  state, x = placement.replicate(({'w': np.ones(4, np.float32)}, np.float32(2)))
  new = step(state, x)
  assert state['w'].is_deleted() and not x.is_deleted()
  assert_same(
    placement.fetch_first_replica(new), {'w': np.full(4, 3, np.float32)}
  )


def test_a_state_is_written_over_except_on_a_cpu(monkeypatch):
  step = placement.map_step(lambda state, x: state + x)
  state, x = placement.replicate((np.ones(4, np.float32), np.float32(2)))
  assert placement.fetch_first_replica(step(state, x))[0] == 3
  assert placement.fetch_first_replica(state)[0] == 1
  donated = []
  monkeypatch.setattr(
    placement,
    'pmap',
    lambda *_, donate_argnums, **__: donated.append(donate_argnums),
  )
  placement.map_step(abs, [types.SimpleNamespace(platform='tpu')])
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  placement.map_step(abs)
  assert donated == [(0,), (0,)]


def test_a_batch_that_the_devices_do_not_divide_is_refused(monkeypatch):
  monkeypatch.setattr(jax, 'device_count', lambda: 4)
  placement.check_batch_size('batch_size', 12)
  for size in (10, 0, -4):
    with pytest.raises(errors.ConfigError, match=f'batch_size.*4.*{size}'):
      placement.check_batch_size('batch_size', size)


def spoiled(tree, bit):
  """One bit of one leaf is another."""
  leaves, structure = jax.tree.flatten(tree)
  changed = np.array(leaves[-1], np.float32)
  changed.view(np.uint32).reshape(-1)[bit % changed.size] ^= 1 << (bit % 32)
  return structure.unflatten([*leaves[:-1], changed])


def test_a_digest_sees_every_bit_and_the_order():
  row = np.arange(7, dtype=np.float32)
  whole = {'a': row, 'b': np.ones((2, 3), np.float32)}
  digest = jax.jit(placement.compute_digest)
  first = digest(whole)
  assert first == digest(whole)
  assert all(digest(spoiled(whole, bit)) != first for bit in range(200))
  swapped = {**whole, 'a': row[::-1].copy()}
  moved = {'a': row, 'b': whole['b'] * np.float32(-1)}
  assert len({int(digest(x)) for x in (whole, swapped, moved)}) == 3


def test_a_snapshot_outlives_its_state():
  state = placement.replicate(packing.pack(tree()))
  copy = placement.copy_first_replica(state)
  step = placement.pmap(
    lambda s: jax.tree.map(lambda x: ~x if x.dtype == bool else x + x, s),
    donate_argnums=(0,),
  )
  step(state)
  assert all(x.is_deleted() for x in jax.tree.leaves(state))
  assert_same(copy, tree())


@pytest.mark.parametrize(
  'backend, count, is_stacked',
  (('cpu', 1, False), ('cpu', 4, True), ('gpu', 1, True)),
)
def test_on_one_cpu_each_array_stays_alone(
  monkeypatch, backend, count, is_stacked
):
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)
  monkeypatch.setattr(jax, 'device_count', lambda: count)
  placed = placement.place_state(tree())
  assert bool(placed.small) == is_stacked
  assert_same(packing.unpack(placement.fetch_first_replica(placed)), tree())


def test_a_step_lowered_for_described_shapes_is_not_traced_again():
  traced = []

  def step(state, batch):
    traced.append(1)
    return state, batch['x'] + 1

  state, batch = tree(), {'x': np.ones((jax.local_device_count(), 3))}
  mapped = placement.pmap(packing.on_packed_state(step))
  lowered = mapped.lower(
    placement.describe_placed(jax.eval_shape(lambda: state)),
    placement.describe_sharded(jax.tree.map(np.float32, batch)),
  )
  lowered.compile()
  batch = placement.shard(jax.tree.map(np.float32, batch))
  mapped(placement.place_state(state), batch)
  assert len(traced) == 1

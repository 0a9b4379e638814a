"""What a plan compiles is what training compiles."""

import types

import chex
import jax
import numpy as np
import pytest

from byol_jax import experiment, parallel
from byol_jax.data import from_config
from byol_jax.distributed import packing, placement
from byol_jax.planning import compile
from byol_jax.training import multi_step
from tests.helpers import tiny_config, tiny_folder, wiring

SIZES = ('argument', 'output', 'temp', 'alias', 'generated_code')


class Mapped(Exception):
  """The function was mapped over the devices; the test needs no more."""


@pytest.mark.parametrize('resident, labelled', ((False, True), (True, False)))
def test_what_is_compiled_is_what_training_compiles(
  monkeypatch, tmp_path, resident, labelled
):
  """The function, what it donates, and the shapes of all its arguments."""
  tiny_folder.write(tmp_path, labelled)
  config = tiny_config.tiny(
    dataset=str(tmp_path), data__resident=resident, input__steps_per_call=3
  )
  built = wiring.spy(monkeypatch, experiment, 'build')
  run = compile.open_run(config)
  assert built[0].arguments.get('platform') is None  # as in training
  assert run.num_classes == (3 if labelled else None)
  calls = []

  def pmap(function, *, donate_argnums, devices=None):
    def record(*arguments):
      shapes = jax.tree.map(lambda x: (*x.shape, np.dtype(x.dtype)), arguments)
      calls.append((function, donate_argnums, shapes))
      raise Mapped

    record.lower = record
    return record

  monkeypatch.setattr(placement, 'pmap', pmap)
  with pytest.raises(Mapped):
    compile.compile_step(run, jax.devices(), 8)
  update = run.experiment.update
  steps = multi_step.make_step_calls(
    from_config.make_image_set(config, 'train'),
    config.input.steps_per_call,
    (config.log.every_steps, config.checkpoint.every_steps),
  )
  train = steps.compile(update)
  state = jax.tree.map(
    lambda x: np.zeros((1, *x.shape), x.dtype),
    jax.eval_shape(lambda: packing.pack(run.experiment.initial_state())),
  )
  batches = steps.batches(8, range(run.experiment.num_steps))
  with pytest.raises(Mapped):
    train(state, next(iter(batches)))
  (planned, *planned_facts), (trained, *trained_facts) = calls
  assert planned_facts == trained_facts
  # With a resident set each call wraps the update in its own loop.
  if not resident:
    assert planned.__wrapped__ is update and trained.__wrapped__ is update


def test_a_planned_part_of_the_optimizer_is_that_of_training(monkeypatch):
  """And the devices' parts are the whole state again."""
  monkeypatch.setattr(parallel, '_SMALL', 64)
  placement._map_opt_state.cache_clear()
  run = compile.open_run(tiny_config.tiny(shard_optimizer=True))
  draw = lambda x: generator.integers(99, size=x.shape).astype(x.dtype)
  generator = np.random.default_rng(0)
  state = jax.tree.map(draw, jax.eval_shape(run.experiment.initial_state))
  placed = placement.place_state(state, shard_optimizer=True)
  whole = placement.fetch_first_replica(placement.gather_state(placed))
  placement._map_opt_state.cache_clear()
  chex.assert_trees_all_equal(packing.unpack(whole), state)
  assert 'Part' in str(jax.tree.structure(placed))
  _, (planned, _) = compile._make_call(run, jax.device_count(), 8)
  shapes = jax.tree.map(lambda x: (*x.shape[1:], x.dtype), placed)
  assert shapes == jax.tree.map(lambda x: (*x.shape, x.dtype), planned)


def test_a_compiler_may_know_the_memory_and_no_cost():
  """As that for GPUs without one."""
  memory = types.SimpleNamespace(
    **{f'{name}_size_in_bytes': 2**i for i, name in enumerate(SIZES)}
  )
  compiled = types.SimpleNamespace(
    memory_analysis=lambda: memory,
    cost_analysis=lambda: None,
    as_text=lambda: '',
  )
  found = compile.read_cost(compiled)
  assert (found.flops, found.temp_bytes) == (0.0, 4)
  assert found.memory_bytes == 1 + 2 - 8 + 4 + 16


def test_calls_of_unknown_time_do_not_shorten_the_optimum():
  text = """
  %a = f32[8]{0} custom-call(%x, %y), custom_call_target="ConcatBitcast"
  %b = f32[8]{0} custom-call(), custom_call_target="AllocateBuffer"
  ROOT %c = f32[8]{0} custom-call(%a, %b), custom_call_target="ConcatBitcast"
  """
  compiled = types.SimpleNamespace(
    memory_analysis=lambda: types.SimpleNamespace(
      **{f'{name}_size_in_bytes': 0 for name in SIZES}
    ),
    cost_analysis=lambda: {'optimal_seconds': -1.996},
    as_text=lambda: text,
  )
  found = compile.read_cost(compiled)
  assert found.optimal_seconds == pytest.approx(0.004)

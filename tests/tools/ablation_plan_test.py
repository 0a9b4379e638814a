"""The runs of a table of ablations: every row builds, and changes a base."""

import importlib
import json

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import pytest

from byol_jax import configuration, errors, experiment, networks, parallel
from byol_jax.tools import ablation_plan, ablation_table
from tests.helpers import tiny_config

EVALUATIONS = {'knn': 'evals/knn', 'linear': 'evals/linear:cpu'}


def make_plan(table, rows=None, *overrides, seeds=1):
  selected = ablation_table.select_rows(table, rows)
  return ablation_plan.Plan(
    table, selected, 'shapes', overrides, seeds, EVALUATIONS
  )


# Three numbers stand for images, heads and encoder.
TINY = (
  *('--config.image_size=8', '--config.batch_size=128'),
  *('--config.network.encoder=TinyResNet', '--config.optimizer.name=lars'),
  '--config.network.projector=(32, 8)',
  '--config.network.predictor=(32, 8)',
  *(f'--config.{key}={value}' for key, value in tiny_config.FLIP_ONLY.items()),
)


class OneLayer(hk.Module):
  """In the place of an encoder, which no row changes but by `init_scale`."""

  def __init__(self, encoder, **unused):
    super().__init__(name='tiny_res_net')

  def __call__(self, images, is_training):
    return jax.nn.relu(hk.Linear(8)(jnp.mean(images, axis=(1, 2))))


def find_program(config):
  """What changes the traced program: not each number that does."""

  def simplify(value):
    kept = {bool: bool, float: bool, int: lambda x: x > 1, tuple: bool}
    return kept.get(type(value), str)(value)

  flat = configuration.flatten(config)
  sections = ('network', 'objective', 'target', 'batch.')
  rates = [flat[f'schedule.{x}_rate'] == 1 for x in ('predictor', 'projector')]
  values = {k: simplify(x) for k, x in flat.items() if k.startswith(sections)}
  return json.dumps([values, rates], sort_keys=True)


def test_every_row_builds(monkeypatch):
  """At the paper's size, and by shapes on a tiny base."""
  monkeypatch.setattr(networks.resnet, 'ResNet', OneLayer)
  usual = configuration.flatten(configuration.load('ablations/baseline'))
  views = {f'view{i}': jnp.zeros((128, 8, 8, 3)) for i in (1, 2)}
  batch = views | {'labels': jnp.zeros(128, jnp.int32)}
  programs, states = set(), {}
  for table in ablation_table.list_tables():
    module = importlib.import_module(f'configs.ablations.{table}')
    for row, (_, changes, *_) in module.ROWS.items():
      config = configuration.validate(module.get_config(row), 'pretrain')
      found = configuration.flatten(config)
      assert found.items() >= changes.items()
      others = {k for k in found if found[k] != usual.get(k)} - changes.keys()
      assert not others or 'objective.name' in changes
      assert {k.partition('.')[0] for k in others} <= {'objective'}
      if (program := find_program(config)) not in programs:
        programs.add(program)
        tiny = ablation_plan.make_config('shapes', TINY, changes)
        built = experiment.build(tiny, 4096, 10)
        network = repr((tiny.network, tiny.schedule))
        if network not in states:
          states[network] = jax.eval_shape(built.initial_state)
        state = states[network]
        update = parallel.on_one_device(built.update)
        after, scalars = jax.eval_shape(update, state, batch)
        chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
        assert scalars['byol_loss'].shape == ()


def test_a_row_changes_a_base_in_proportion():
  """The paper's 0.3, 1e-6, 1 - 0.99 and (4096, 256) are 1.2, 1e-6, 0.03 and
  (256, 64) of the preset for CPUs."""
  base = configuration.load(
    'small/cifar10:cpu', {'optimizer.weight_decay': 1e-3}
  )
  scale = lambda **changes: ablation_plan.scale_changes(
    {key.replace('__', '.'): value for key, value in changes.items()}, base
  )
  assert scale(schedule__base_rate=0.1)['schedule.base_rate'] == (
    pytest.approx(0.4)
  )
  assert scale(optimizer__weight_decay=5e-6)['optimizer.weight_decay'] == (
    pytest.approx(5e-3)
  )
  for value, expected in ((0.9, 0.7), (0.999, 0.997), (1.0, 1.0), (0.0, 0.0)):
    found = scale(target__base_tau=value)['target.base_tau']
    assert found == pytest.approx(expected)
  for value, expected in (
    ((256,), (64,)),
    ((4096, 4096, 16), (256, 256, 4)),
    ((), ()),
  ):
    assert scale(network__predictor=value) == {'network.predictor': expected}
  # The representation of its encoder has 64 numbers.
  found = scale(network__projector=(), network__predictor=(4096, 2048))
  assert found['network.predictor'] == (256, 64)
  # What has no size of its own stays.
  changes = {
    'augment.view1.flip.probability': 0.0,
    'objective.symmetric': False,
  }
  assert ablation_plan.scale_changes(changes, base) == changes


def test_a_new_key_does_not_rename_runs(tmp_path, monkeypatch):
  plan = make_plan('table21', '1', '--config.network.bn_group=1')
  (before,) = ablation_plan.list_trials(plan, tmp_path)
  old = ablation_plan.old_values.OLD_VALUES
  key, value = 'target.start', old['target.start']
  for values, same in (({key: 'online'}, False), ({key: value}, True)):
    monkeypatch.setattr(ablation_plan.old_values, 'OLD_VALUES', old | values)
    (after,) = ablation_plan.list_trials(plan, tmp_path)
    assert (after.folder == before.folder) == same


def test_a_base_that_is_not_byol_is_refused(tmp_path):
  plan = make_plan('table5b', 'byol', '--config.target.parameters=online')
  with pytest.raises(errors.ConfigError, match=r"parameters='average', found"):
    ablation_plan.list_trials(plan, tmp_path)
  plan = plan._replace(base='ablations/table5b:simclr', overrides=())
  with pytest.raises(
    errors.ConfigError, match=r"name='regression', found 'inf"
  ):
    ablation_plan.list_trials(plan, tmp_path)

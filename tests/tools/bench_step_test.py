"""The verb `bench step` on the tiny network."""

import json

import jax
import numpy as np
import pytest

from byol_jax import __main__ as command, experiment
from byol_jax.planning import compile
from byol_jax.tools import bench_step, spread
from byol_jax.training import hardware
from tests.helpers import wiring
from tests.helpers.tiny_config import ArraySet, tiny

pytestmark = pytest.mark.usefixtures('compiled_once')


def test_a_report_has_rates_memory_and_parts(monkeypatch, capsys):
  config, images = tiny(), ArraySet()
  size, num_classes = images.num_examples, images.num_classes

  def open_run(given, platform=None):
    assert platform is None  # the network has the form for these devices
    assert not given.data.resident  # no image is read
    method = experiment.build(config, size, num_classes)
    return compile.PlannedRun(config, method, num_classes, None)

  monkeypatch.setattr(compile, 'open_run', open_run)
  monkeypatch.setattr(bench_step, '_ROUND_SECONDS', 0.01)
  monkeypatch.setattr(hardware, 'find_peak', lambda kind: 1e12)
  monkeypatch.setattr(spread, 'MAX_SPREAD', 1e9)
  waits = wiring.spy(monkeypatch, jax, 'block_until_ready')
  arguments = ['bench', 'step', '--config=shapes', '--rounds=3', '--json']
  arguments += [f'--config.batch_size={config.batch_size}']
  arguments += ['--config.data.resident=True']
  assert command.main(arguments) == 0
  report = json.loads(capsys.readouterr().out)
  assert len(waits) >= 3 + report['rounds']  # else it times the dispatch
  assert report['smallest'] <= report['images_per_second'] <= report['largest']
  assert report['devices'] == jax.device_count() and report['memory_bytes'] > 0
  share = report['time_share']
  assert sum(share.values()) == pytest.approx(1)
  assert share['backward pass: convolutions and products'] > 0
  flops = report['step_flops_per_device']
  assert report['flop_utilization'] == pytest.approx(
    flops * report['images_per_second'] / config.batch_size / 1e12
  )
  hours = report['verdict']['steps'] * 8 / report['images_per_second'] / 3600
  assert report['verdict']['hours'] == pytest.approx(hours)
  *_, end = bench_step.describe_report(report)
  assert end == 'the 10 steps of this run would take 1 minute'
  del report['verdict']
  monkeypatch.setattr(spread, 'MAX_SPREAD', 0.2)
  *_, end = bench_step.describe_report(report | {'spread': 0.21})
  assert end.startswith('no verdict: the rounds differ by 21%')


@pytest.mark.parametrize('dtype, classes', [('uint8', 3), ('float32', None)])
def test_noise_has_the_types_of_batches(dtype, classes):
  config = tiny(data__transfer=dtype)
  batch = bench_step._make_noise(
    compile.PlannedRun(config, None, classes, None)
  )
  assert {batch[name].dtype for name in ('view1', 'view2')} == {np.dtype(dtype)}
  assert batch['view1'].shape == (jax.local_device_count(), 8, 16, 16, 3)
  assert ('labels' in batch) == (classes is not None)


def test_the_spread_is_the_range_over_the_median():
  assert spread.summarize([2.0, 1.0, 1.5, 1.0, 2.0])['spread'] == 1 / 1.5
  assert not spread.explain(0.2) and spread.explain(0.201)


def test_loops_over_many_arrays_are_operations_that_contain_others():
  text = """
  %copy.1 = f32[2]{0} copy(%x)
  ROOT %while.2 = (s32[], /*index=5*/u32[4]{0:T(8)(2)}) while(%t), body=%b,\
 metadata={op_name="jit(f)/while" id=1}
  %dot.3 = (f32[2,2]{1,0}, (s32[], /*index=1*/u8[4]{0})) fusion(%x, %y)
"""
  assert bench_step.list_operations(text) == [
    ('copy.1', 'copy', ''),
    ('while.2', 'while', 'jit(f)/while'),
    ('dot.3', 'fusion', ''),
  ]


def test_a_product_is_one_without_a_name_and_in_a_transpose():
  path = 'jit(f)/transpose(jvp(net))/cond/transpose'
  name = 'backward pass: convolutions and products'
  assert bench_step.name_part('dot', path) == name
  name = 'convolutions and products without a name'
  assert bench_step.name_part('convolution', '') == name


@pytest.mark.parametrize(
  'path, part',
  [
    ('jit(f)/jvp(net)/conv_general_dilated', 'forward passes'),
    ('jit(f)/transpose(jvp(net))/dot_general', 'backward pass: conv'),
    ('jit(f)/transpose(jvp(net))/mul', 'backward pass: the rest'),
    ('jit(f)/transpose(jvp(net))/block_0/batchnorm_1/mul', 'batch norm'),
    ('jit(f)/jvp(byol)/predictor/batch_norm/rsqrt', 'batch norm'),
    ('jit(f)/jvp()/cond/branch_1_fun/mul', 'augmentation'),
    ('jit(f)/mul', 'optimizer'),
    ('', 'operations without a name'),
    ('jit(f)/transpose(jvp(net))/psum', 'sums'),
  ],
)
def test_operations_belong_to_parts(path, part):
  assert bench_step.name_part('fusion', path).startswith(part)

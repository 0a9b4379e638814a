"""Plans: the arithmetic, the reading of programs, the verb, the step itself."""

import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from byol_jax import __main__ as command, experiment as experiments, parallel
from byol_jax.data import from_config
from byol_jax.distributed import packing
from byol_jax.planning import (
  compile as plan_step,
  cost as plan_numbers,
  hlo,
  plan,
  topologies,
)
from byol_jax.training import multi_step
from tests.helpers import tiny_config, tiny_folder, tiny_run

ROOT = pathlib.Path(__file__).resolve().parents[2]
RESULTS = ROOT / 'benchmarks' / 'results'
POD = topologies.find_topology('v3-512')

needs_libtpu = [
  pytest.mark.libtpu,
  pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None, reason='libtpu is missing'
  ),
]

# Figures of the official code's step, the bar that ours may not exceed; bytes
# of one core. Of ResNet-200 2x, FLOPs and traffic were not given.
BAR = {
  'resnet50_v3-512': {
    'optimal_seconds': 38.3e-3,
    'temp_bytes': 1.48e9,
    'argument_bytes': 0.465e9,
    'output_bytes': 0.455e9,
    'flops': 512e9,
    'bytes_accessed': 16.2e9,
  },
  'resnet200x2_v3-512': {
    'optimal_seconds': 237e-3,
    'temp_bytes': 7.05e9,
    'argument_bytes': 3.35e9,
    'output_bytes': 3.35e9,
  },
}

KEYS = {
  *('devices', 'hosts', 'flops', 'bytes_accessed', 'optimal_seconds'),
  *('argument_bytes', 'output_bytes', 'temp_bytes', 'alias_bytes'),
  *('images_per_second', 'hours'),
}


def cost(**changes):
  """A step of 8 images that waits for memory on a core of v3."""
  return plan_numbers.Cost(
    **{
      'flops': 500e9,
      'bytes_accessed': 18e9,  # 40 ms of 450 GB/s
      'optimal_seconds': 0.041,
      'argument_bytes': 460_000_000,
      'output_bytes': 450_000_000,
      'temp_bytes': 1_500_000_000,
      'alias_bytes': 450_000_000,
      'code_bytes': 100_000_000,
      'collectives': {'all-reduce': plan_numbers.Collective(50, 152_000_000)},
    }
    | changes
  )


def test_memory_counts_a_donated_state_once():
  assert plan_numbers.memory(cost()) == 2_060_000_000
  assert plan_numbers.memory(cost(alias_bytes=0)) == 2_510_000_000


def test_the_largest_batch_fits_and_one_image_more_does_not():
  fixed, per_image, hbm = 500_000_000, 190_000_000, POD.hbm_bytes
  points = [(n, fixed + n * per_image) for n in (8, 40)]
  through = plan_numbers.line(points)
  assert through == plan_numbers.line(points[::-1]) == (fixed, per_image)
  largest = plan_numbers.largest_batch(through, POD.devices, hbm)
  images, rest = divmod(largest, POD.devices)
  assert rest == 0
  assert fixed + images * per_image <= hbm < fixed + (images + 1) * per_image


def test_no_largest_batch_without_growth_and_none_if_the_state_is_too_large():
  flat = plan_numbers.Line(1e9, 0)
  assert plan_numbers.largest_batch(flat, 8, 16e9) is None
  full = plan_numbers.Line(17e9, 1e6)
  assert plan_numbers.largest_batch(full, 8, 16e9) == 0


def test_the_second_point_of_the_line_lies_far_out_but_fits():
  far = plan_numbers.second_point(8, cost(), POD.hbm_bytes)
  assert far >= 16
  temporaries = cost().temp_bytes * far / 8
  assert temporaries + 560_000_000 < 0.6 * POD.hbm_bytes
  nearly_full = cost(temp_bytes=16_000_000_000)
  assert plan_numbers.second_point(8, nearly_full, POD.hbm_bytes) == 16


def test_the_roofline_is_the_slower_of_arithmetic_and_memory():
  assert plan_numbers.roofline(cost(), POD) == pytest.approx(0.040)
  busy = cost(flops=61.5e12)
  assert plan_numbers.roofline(busy, POD) == pytest.approx(1.0)


@pytest.mark.parametrize(
  'seconds, believed',
  (
    (0.041, True),
    (0.021, True),
    (-1.0, False),
    (0.0, False),
    (0.019, False),
    (0.41, False),
    (float('nan'), False),
    (float('inf'), False),
  ),
)
def test_an_absurd_optimum_gives_way_to_the_roofline(seconds, believed):
  given = cost(optimal_seconds=seconds)
  found, source = plan_numbers.step_seconds(given, POD)
  assert found == (seconds if believed else plan_numbers.roofline(given, POD))
  expected = plan_numbers.OPTIMUM if believed else plan_numbers.ROOFLINE
  assert source == expected


def test_rates_and_hours_follow_from_the_time_of_a_step():
  pace = plan_numbers.pace(0.092, 4096, 312_784, POD)
  # The paper's run: 8 hours, 44,485 images/s, 695 on each of 64 hosts.
  assert pace.hours == pytest.approx(8.0, rel=1e-2)
  assert pace.images_per_second == pytest.approx(44_485, rel=1e-2)
  assert pace.host_images_per_second == pytest.approx(695, rel=1e-2)
  assert pace.device_hours == pytest.approx(512 * pace.hours)


SNIPPET = """
%sum (a: f32[], b: f32[]) -> f32[] {
  ROOT %add.1 = f32[]{:T(256)} add(%a, %b), metadata={op_name="all-reduce("}
}
ENTRY %main {
  %all-reduce.7 = (f32[1,64]{1,0:T(2,128)}, /*index=1*/bf16[8]{0:T(256)(2,1)}) \
all-reduce(%x.1, %y.2), channel_id=1, replica_groups={{0,1}}, to_apply=%sum
  %get.1 = f32[1,64]{1,0:T(2,128)} get-tuple-element(%all-reduce.7), index=0
  ROOT %all-reduce.8 = pred[] all-reduce(%z), to_apply=%sum
  %s = (f32[4]{0}, f32[16]{0}) all-gather-start(%get.1), dimensions={0}
  %d = f32[16]{0} all-gather-done(%s)
  %p = (f32[4]{0}, f32[4]{0}, u32[], u32[]) collective-permute-start(%q)
  %r = f32[4]{0} all-reduce-start(%q), to_apply=%sum
  %fusion.3 = f32[4]{0} fusion(%r), kind=kLoop, calls=%all-reduce.9
}
"""


def test_collectives_of_a_compiled_text_are_counted_with_their_bytes():
  assert hlo.collectives(SNIPPET) == {
    # 256 + 16, a bool, 16 of the one that starts.
    'all-reduce': (3, 256 + 16 + 1 + 16),
    'all-gather': (1, 64),
    'collective-permute': (1, 16),
  }
  assert hlo.collectives('') == {}


def test_collectives_of_a_program_of_four_devices():
  """What XLA for CPUs makes of each collective, in its own words."""
  code = """
import json, sys
sys.path.insert(0, '.')
import jax, jax.numpy as jnp
from byol_jax.planning import hlo
assert jax.device_count() == 4
ring = [(i, (i + 1) % 4) for i in range(4)]
functions = {
  'psum': lambda x: jax.lax.psum(x, 'i'),
  'gather': lambda x: jax.lax.all_gather(x, 'i'),
  'permute': lambda x: jax.lax.ppermute(x, 'i', ring),
  'scatter': lambda x: jax.lax.psum_scatter(x, 'i'),
  'none': lambda x: x + 1,
}
shape = jax.ShapeDtypeStruct((4, 4, 25), jnp.float32)
found = {}
for name, function in functions.items():
  step = jax.pmap(function, axis_name='i')
  found[name] = hlo.collectives(step.lower(shape).compile().as_text())
print(json.dumps(found))
"""
  done = tiny_run.start_python('-c', code, JAX_NUM_CPU_DEVICES='4')
  found = json.loads(tiny_run.finish(done).splitlines()[-1])
  assert found == {
    'psum': {'all-reduce': [1, 400]},
    'gather': {'all-gather': [1, 1600]},
    'permute': {'collective-permute': [1, 400]},
    'scatter': {'reduce-scatter': [1, 100]},
    'none': {},
  }


@pytest.mark.parametrize(
  'message, needed',
  (
    (
      'RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM,'
      ' the total memory required for HLO temporaries (295.73G) exceeds'
      ' available HBM (15.48G). HLO module: jit__fun.',
      295.73 * 2**30,
    ),
    ('XLA:TPU ... Used 22.31G of 16.00G hbm. Exceeded', 22.31 * 2**30),
    ('Used 900.0M of 512.00M hbm', 900 * 2**20),
    ('RESOURCE_EXHAUSTED: something else', None),
  ),
)
def test_what_a_step_needed_is_read_from_the_error(message, needed):
  found = plan_step.TooLarge(message).needed
  assert found == (needed if needed is None else int(needed))


class Compiler:
  """Stands for `plan_step.compile_step`: memory grows with the images."""

  def __init__(self, most):
    self.most = most
    self.asked = []

  def __call__(self, run, experiment, devices, per_device):
    del run, experiment, devices
    self.asked.append(per_device)
    if per_device > self.most:
      raise plan_step.TooLarge(
        'temporaries (20.0G) exceeds available HBM (15.48G)'
      )
    made = cost(temp_bytes=per_device * 100_000_000)
    return plan_step.Compiled(made, 1.0, 2.0)


@pytest.fixture
def compiler(monkeypatch):
  """compiler(most) puts one in place that fits `most` images a device."""
  monkeypatch.setattr(plan_step, 'devices_of', lambda row: [None] * row.devices)
  monkeypatch.setattr(plan_step, 'libtpu_version', lambda: '0.0.1')
  monkeypatch.setattr(plan, 'require_libtpu', lambda: None)

  def put(most):
    made = Compiler(most)
    monkeypatch.setattr(plan_step, 'compile_step', made)
    return made

  return put


@pytest.fixture
def run(capsys, monkeypatch):
  """run(*arguments) -> (exit code, standard output, standard error)."""
  before = dict(os.environ)

  def call(*arguments):
    code = command.main(['plan', *map(str, arguments)])
    return code, *capsys.readouterr()

  yield call
  # The verb sets it for the rest of its process.
  os.environ.clear()
  os.environ.update(before)


def test_a_plan_says_it_all_and_ends_in_one_object(run, compiler):
  made = compiler(1000)
  code, output, error = run(
    '--config=pretrain:1000', '--topology=v3:16x16', '--json', '--share=0.25'
  )
  assert (code, error) == (0, '')
  *lines, last = output.splitlines()
  assert all(len(line) <= 250 for line in lines)
  found = json.loads(last)
  assert found.keys() >= KEYS
  assert made.asked[0] == 8 and len(made.asked) == 2
  assert (found['devices'], found['hosts']) == (512, 64)
  assert (found['steps'], found['per_device_batch']) == (312_784, 8)
  # 560 MB that are always there, 100 MB an image, 15.48 GiB.
  assert found['largest_batch'] == 512 * 160
  assert found['hours'] == pytest.approx(0.041 * 312_784 / 3600)
  assert found['at_share']['hours'] == pytest.approx(4 * found['hours'])
  assert found['optimal_seconds_from'] == plan_numbers.OPTIMUM
  text = '\n'.join(lines)
  for words in (
    'v3-512 (16x16): 512 devices, 64 hosts',
    'batch 4,096, 8 images a device',
    'temporaries',
    'of the 16,622 that a program may use of 17,180',
    'largest batch: about 81,920, 160 images a device; an estimate',
    "41.0 ms, from the compiler's optimum",
    'at 0.25 of it',
    'images/s that each host must feed',
    'core-hours',
    'all-reduce: 50 operations, 152.0 MB',
    'libtpu 0.0.1',
  ):
    assert words in text, words


def test_a_batch_that_fits_barely_has_its_line_from_a_smaller_one(
  run, compiler
):
  made = compiler(8)
  code, output, _ = run('--config=pretrain', '--topology=v3-512', '--json')
  assert code == 0
  assert made.asked[-1] == 4
  found = json.loads(output.splitlines()[-1])
  assert found['largest_batch_from'] == [[8, 1_360_000_000], [4, 960_000_000]]


def test_a_single_compilation_says_nothing_of_the_largest_batch(run, compiler):
  made = compiler(1000)
  code, output, _ = run(
    '--config=pretrain', '--topology=v3-512', '--once', '--json'
  )
  assert code == 0 and made.asked == [8]
  assert 'largest' not in output


def test_a_step_that_does_not_fit_is_one_line(run, compiler):
  compiler(7)
  code, output, error = run('--config=pretrain', '--topology=v3-512')
  assert code == 1
  assert error.count('\n') == 1 and 'Traceback' not in output
  assert '8 images a device do not fit v3-512' in error
  assert f'needed {20 * 2**30:,} bytes (21.5 GB)' in error


def test_the_roofline_is_named_where_it_is_used(run, compiler, monkeypatch):
  compiler(1000)
  absurd = plan_step.Compiled(cost(optimal_seconds=-3.0), 1.0, 2.0)
  monkeypatch.setattr(plan_step, 'compile_step', lambda *unused: absurd)
  code, output, _ = run('--config=pretrain', '--topology=v3-512', '--json')
  assert code == 0
  found = json.loads(output.splitlines()[-1])
  assert found['optimal_seconds'] == found['roofline_seconds'] > 0
  assert found['compiler_optimal_seconds'] == -3.0
  assert found['optimal_seconds_from'] == plan_numbers.ROOFLINE
  assert 'from the roofline of FLOPs and bytes (compiler -3000.0 ms' in output
  # Two equal compilations make no line.
  assert found['largest_batch'] is None
  assert 'largest batch: unknown' in output


@pytest.mark.parametrize(
  'arguments, words',
  (
    (('--topology=v3-511',), 'nearest: .*v3-512'),
    (
      ('--topology=v3-512', '--config.batch_size=4000'),
      'batch_size: expected 512 devices of v3-512 times .* 4000; nearest: 4096',
    ),
    (('--topology=v3-512', '--config.batch_size=8'), 'nearest: 512'),
    (('--topology=v3-512', '--share=0'), r'--share: expected .* \(0, 1\]'),
    (('--topology=v3-512', '--share=2'), 'found 2'),
    (('--topology=v3-512', '--config.epochs=-1'), 'epochs: expected a pos'),
    (('--topology=v3-512', '--config.sead=1'), 'nearest: --config.seed'),
    (('--topology=v3-512', '--frob'), "unknown argument '--frob'"),
    ((), 'required: --topology'),
  ),
)
def test_what_cannot_be_planned_is_one_line(run, arguments, words):
  for check in ((), ('--check',)):
    code, _, error = run('--config=pretrain', *arguments, *check)
    assert code == 2
    assert error.count('\n') == 1
    assert re.search(words, error), error


def test_a_missing_compiler_is_one_line_that_names_the_command(
  run, monkeypatch
):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  code, _, error = run('--config=pretrain', '--topology=v3-512')
  assert code == 2 and error.count('\n') == 1
  assert f'pip install {plan.LIBTPU}' in error
  pinned = (ROOT / 'requirements-plan.txt').read_text()
  assert plan.LIBTPU in pinned.splitlines()


def test_a_check_of_a_set_that_is_made(run):
  code, output, error = run('--config=shapes', '--topology=v3-8', '--check')
  assert (code, error) == (0, '')
  assert '8 devices on 1 host, 8 images a device' in output
  assert '4,000 images, 2,000 steps' in output
  assert 'nothing was compiled' in output


def test_a_check_compiles_nothing_and_loads_no_tensorflow(tmp_path):
  """With a folder of images, in a process without libtpu."""
  tiny_folder.write(tmp_path)
  code = (
    'import sys; from byol_jax import __main__ as command;'
    "code = command.main(['plan', '--config=shapes', '--topology=v6e-8',"
    f" '--check', '--json', '--config.dataset={tmp_path}']);"
    "found = {'tensorflow', 'libtpu', 'orbax'} & set(sys.modules);"
    'assert not found, found;'
    "import jax; assert not jax._src.xla_bridge._backends, 'no backend';"
    'sys.exit(code)'
  )
  output = tiny_run.finish(tiny_run.start_python('-c', code))
  found = json.loads(output.splitlines()[-1])
  assert found['data'] == str(tmp_path)
  assert (found['num_examples'], found['steps']) == (None, None)


@pytest.mark.parametrize('dataset', ('imagenet2012', '/no/such/folder'))
def test_a_check_without_the_data_ends_with_3(run, tmp_path, dataset):
  code, _, error = run(
    '--config=pretrain', '--topology=v3-512', '--check',
    f'--config.dataset={dataset}', f'--config.data_dir={tmp_path}',
  )  # fmt: skip
  assert code == 3 and error.count('\n') == 1
  assert dataset in error


def test_a_check_refuses_files_that_are_no_images(run, tmp_path):
  (tmp_path / 'folder').mkdir()
  (tmp_path / 'folder' / 'notes.txt').write_text('no image')
  (tmp_path / 'set.tar').write_text('no tar file')
  for name, words in (('folder', 'no image files'), ('set.tar', '.tar or .np')):
    code, _, error = run(
      '--config=shapes', '--topology=v3-8', '--check',
      f'--config.dataset={tmp_path / name}',
    )  # fmt: skip
    assert code == 3 and words in error


def prepared(folder, shards, of):
  """What a prepared set looks like, without its records."""
  folder = folder / 'tiny' / '1.0.0'
  folder.mkdir(parents=True)
  info = {
    'name': 'tiny',
    'version': '1.0.0',
    'fileFormat': 'array_record',
    'moduleName': 'tiny',
    'splits': [
      {
        'name': 'train',
        'shardLengths': ['8'] * of,
        'numBytes': '100',
        'filepathTemplate': '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}',
      }
    ],
  }
  feature = 'pythonClassName'
  features = {
    feature: 'tensorflow_datasets.core.features.features_dict.FeaturesDict',
    'featuresDict': {
      'features': {
        'image': {
          feature: 'tensorflow_datasets.core.features.image_feature.Image',
          'image': {
            'shape': {'dimensions': ['-1', '-1', '3']},
            'dtype': 'uint8',
          },
        },
        'label': {
          feature: 'tensorflow_datasets.core.features.class_label_feature'
          '.ClassLabel',
          'classLabel': {'numClasses': '10'},
        },
      }
    },
  }
  (folder / 'dataset_info.json').write_text(json.dumps(info))
  (folder / 'features.json').write_text(json.dumps(features))
  for i in range(shards):
    (folder / f'tiny-train.array_record-{i:05d}-of-{of:05d}').touch()
  return folder


def test_a_check_counts_the_files_of_a_prepared_set(run, tmp_path):
  arguments = '--config=shapes', '--topology=v3-8', '--check'
  whole = prepared(tmp_path / 'whole', 4, 4)
  code, output, error = run(
    *arguments, f'--config.dataset={whole}', '--config.epochs=64'
  )
  assert code == 0, error
  assert f'data: {whole}, 32 images, 32 steps' in output
  code, _, error = run(
    *arguments, f'--config.dataset={whole}', '--config.epochs=1'
  )
  assert code == 2 and '32 images make no step of batch_size 64' in error
  part = prepared(tmp_path / 'part', 3, 4)
  code, _, error = run(*arguments, f'--config.dataset={part}')
  assert code == 3
  assert "expected 4 files of split 'train', found 3" in error


class Enough(Exception):
  """What was to be seen was seen."""


class Recorder:
  """Stands for `placement.pmap`: keeps what is mapped, and over what."""

  def __init__(self):
    self.found = []

  def __call__(self, function, *, donate_argnums, devices=None):
    def keep(*arguments):
      described = jax.tree.map(
        lambda x: (tuple(x.shape), np.dtype(x.dtype).name), arguments
      )
      self.found.append((function, donate_argnums, described))
      raise Enough

    keep.lower = keep
    return keep


@pytest.mark.parametrize('resident', (False, True))
@pytest.mark.parametrize('labelled', (False, True))
def test_what_is_compiled_is_what_training_compiles(
  monkeypatch, tmp_path, resident, labelled
):
  """The function, what it donates, and the shapes of all its arguments."""
  tiny_folder.write(tmp_path, labelled)
  config = tiny_config.tiny(
    dataset=str(tmp_path), data__resident=resident, input__steps_per_call=3
  )
  run = plan_step.open_run(config)
  assert run.num_classes == (3 if labelled else None)
  experiment = experiments.build(config, run.num_examples, run.num_classes)
  recorder = Recorder()
  monkeypatch.setattr(parallel, 'pmap', recorder)
  with pytest.raises(Enough):
    plan_step.compile_step(run, experiment, jax.devices(), 8)
  steps = multi_step.of(config, from_config.image_set(config, 'train'))
  train = steps.compile(experiment.update)
  state = jax.tree.map(
    lambda x: np.zeros((1, *x.shape), x.dtype),
    jax.eval_shape(lambda: packing.pack(experiment.initial_state())),
  )
  with pytest.raises(Enough):
    train(state, next(iter(steps.batches(8, range(experiment.num_steps)))))
  (planned, *planned_facts), (trained, *trained_facts) = recorder.found
  assert planned_facts == trained_facts
  # Of a resident set each call makes its own loop around the update.
  assert planned is not trained
  inner = planned.__wrapped__, trained.__wrapped__
  assert resident or inner == (experiment.update, experiment.update)


@pytest.mark.parametrize(
  'path', sorted(RESULTS.glob('plan_*.json')), ids=lambda p: p.stem
)
def test_kept_plans_are_whole_and_within_the_bar(path):
  found = json.loads(path.read_text())
  assert found.keys() >= KEYS
  name = path.stem.removeprefix('plan_')
  for key, most in BAR.get(name, {}).items():
    assert 0 < found[key] <= most, key
  assert set(found['collectives']) == {'all-reduce'}
  assert found['memory_bytes'] < found['hbm_bytes']
  # The state, all but the scalars, is written over what was given.
  assert found['alias_bytes'] > 0.99 * found['output_bytes']
  assert found['batch_size'] == 4096
  if 'largest_batch' in found:  # made without --once
    assert found['largest_batch'] % found['devices'] == 0
    assert found['largest_batch'] >= found['batch_size']


def test_the_plans_that_the_docs_name_are_those_that_are_kept():
  text = (ROOT / 'docs' / 'pods.md').read_text()
  named = set(re.findall(r'plan_[\w-]+\.json', text))
  assert named == {path.name for path in RESULTS.glob('plan_*.json')} != set()


def planned(*arguments):
  """The verb in a process of its own: its text, and its last line."""
  done = subprocess.run(
    [sys.executable, '-m', 'byol_jax', 'plan', *arguments, '--json'],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  assert done.stderr == ''
  return done.stdout, json.loads(done.stdout.splitlines()[-1])


class TestLibtpu:
  """With the compiler for TPUs."""

  pytestmark = needs_libtpu

  def test_a_small_plan_end_to_end(self):
    text, found = planned('--config=shapes', '--topology=v3-8')
    assert found.keys() >= KEYS
    assert found['devices'] == 8 and found['hosts'] == 1
    assert set(found['collectives']) == {'all-reduce'}
    assert found['alias_bytes'] > 0.95 * found['output_bytes']
    assert found['largest_batch'] > 64
    assert 'all-reduce' in text and 'compiled in' in text

  def test_a_resident_set_is_planned_too(self, tmp_path):
    tiny_folder.write(tmp_path)
    _, found = planned(
      '--config=shapes', '--topology=v3-8', '--once', *tiny_folder.SMALLEST,
      f'--config.dataset={tmp_path}', '--config.data.resident=True',
    )  # fmt: skip
    assert set(found['collectives']) == {'all-reduce'}

  def test_a_step_that_is_too_large_is_one_line_and_no_traceback(self):
    command = [
      *(sys.executable, '-m', 'byol_jax', 'plan', '--once'),
      *('--config=shapes', '--topology=v3-8', *tiny_folder.SMALLEST),
      *('--config.image_size=1024', '--config.batch_size=4000'),
      '--config.epochs=10',
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.count('\n') == 1
    assert '500 images a device do not fit v3-8' in done.stderr
    needed = re.search(r'needed ([\d,]+) bytes', done.stderr).group(1)
    assert (
      int(needed.replace(',', '')) > topologies.find_topology('v3-8').hbm_bytes
    )

  def test_the_papers_step_on_512_cores_is_within_the_bar(self):
    _, found = planned('--config=pretrain:1000', '--topology=v3-512', '--once')
    for key, most in BAR['resnet50_v3-512'].items():
      assert 0 < found[key] <= most, key
    assert set(found['collectives']) == {'all-reduce'}
    assert found['alias_bytes'] > 0.99 * found['output_bytes']

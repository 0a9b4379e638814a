"""The verb `plan`: with a stand-in for the compiler, and with libtpu."""

import importlib.metadata
import importlib.util
import json
import pathlib
import re
import subprocess
import sys

import pytest

from byol_jax import __main__ as command, experiment
from byol_jax.planning import compile, cost
from tests.helpers import tiny_folder, wiring
from tests.helpers.step_cost import make_cost

ROOT = pathlib.Path(__file__).resolve().parents[2]
RESULTS = ROOT / 'benchmarks' / 'results'
PAPER = ('--config=pretrain:1000', '--topology=v3-512')

# Of one core. The official code's step: 38.3 ms, 16.2 GB read and written, 1.48
# of temporaries, 512 GFLOP; ours multiplies zeros (`modules.Views`) instead.
MEMORY = {'argument_bytes': 0.465e9, 'output_bytes': 0.455e9}
MEMORY |= {'temp_bytes': 1.48e9, 'flops': 640e9}
LIMITS = {
  'float32': {'optimal_seconds': 33.3e-3, 'bytes_accessed': 13.6e9} | MEMORY,
  'bfloat16': {'optimal_seconds': 22.3e-3, 'bytes_accessed': 8.7e9} | MEMORY,
}


@pytest.fixture
def compiler(monkeypatch):
  """compiler(max_images, **changes of the cost) replaces `compile_step`.

  Memory grows with the images. Returns the list of images that were compiled.
  """
  devices = lambda topology: [None] * topology.devices
  monkeypatch.setattr(compile, 'describe_devices', devices)
  monkeypatch.setattr(compile, 'read_libtpu_version', lambda: '0.0.1')

  def replace(max_images, **changes):
    compiled = []

    def compile_step(run, devices, per_device):
      compiled.append(per_device)
      if per_device > max_images:
        raise compile.StepTooLarge('needs 20.0G, has 15.48G')
      memory = {'temp_bytes': per_device * 100_000_000}
      return compile.CompiledStep(make_cost(**memory | changes), 1.0, 2.0)

    monkeypatch.setattr(compile, 'compile_step', compile_step)
    return compiled

  return replace


@pytest.fixture
def plan(capsys, monkeypatch):
  """plan(*arguments) -> (exit code, standard output, standard error)."""
  # It changes JAX's configuration for the rest of the process.
  monkeypatch.setattr(compile, 'isolate_libtpu', lambda topology: None)

  def call(*arguments):
    code = command.main(['plan', *map(str, arguments)])
    return code, *capsys.readouterr()

  return call


def test_a_plan_is_text_and_one_line_of_json(plan, compiler, monkeypatch):
  compiled, built = compiler(1000), wiring.spy(monkeypatch, experiment, 'build')
  code, output, error = plan(
    '--config=pretrain:1000', '--topology=v3:16x16', '--json', '--share=0.25'
  )
  assert (code, error) == (0, '')
  assert built[0].arguments['platform'] == 'tpu'
  *lines, last = output.splitlines()
  found = json.loads(last)
  name = 'plan_resnet50_v3-512_bfloat16.json'  # made with --once
  kept = json.loads((RESULTS / name).read_text())
  largest = {'largest_batch', 'largest_batch_from'}
  assert found.keys() == kept.keys() | largest
  assert compiled[0] == 8 and len(compiled) == 2
  assert (found['devices'], found['hosts']) == (512, 64)
  assert (found['steps'], found['per_device_batch']) == (312_784, 8)
  # 560 MB of fixed size, 100 MB an image, 15.48 GiB.
  assert found['largest_batch'] == 512 * 160
  assert found['hours'] == pytest.approx(0.041 * 312_784 / 3600)
  assert found['at_share']['hours'] == pytest.approx(4 * found['hours'])
  assert found['optimal_seconds_from'] == cost.OPTIMUM
  text = '\n'.join(lines)
  for part in (
    'v3-512 (16x16): 512 devices, 64 hosts; batch 4,096, 8 images a device',
    'of the 16,622 that a program may use of 17,180',
    'largest batch: about 81,920, 160 images a device; an estimate',
    "41.0 ms, from the compiler's optimum",
    'all-reduce: 50 operations, 152.0 MB',
    'libtpu 0.0.1',
  ):
    assert part in text, part


@pytest.mark.parametrize(
  'max_images, changes, options, compiled, fit',
  (
    # Half of what would fit if temporaries grew; twice the images at least.
    (1000, {}, (), [8, 80], [8, 80]),
    (1000, {'temp_bytes': 16_000_000_000}, (), [8, 16], [8, 16]),
    (8, {}, (), [8, 80, 4], [8, 4]),  # a smaller one if that does not fit
    (1000, {}, ('--once',), [8], None),
  ),
)
def test_the_second_compilation(
  plan, compiler, max_images, changes, options, compiled, fit
):
  found = compiler(max_images, **changes)
  code, output, _ = plan(*PAPER, '--json', *options)
  points = json.loads(output.splitlines()[-1]).get('largest_batch_from')
  assert code == 0 and found == compiled
  assert (points and [images for images, _ in points]) == fit
  assert ('largest' in output) == bool(fit)


def test_a_step_that_does_not_fit_is_one_line(plan, compiler):
  compiler(7)
  code, output, error = plan(*PAPER)
  assert code == 1
  assert error.count('\n') == 1 and 'Traceback' not in output
  assert '8 images a device do not fit v3-512' in error
  assert 'needs 20.0G, has 15.48G' in error


def test_the_roofline_is_named_where_it_is_used(plan, compiler):
  compiler(1000, optimal_seconds=-3.0, temp_bytes=10**9)
  code, output, _ = plan(*PAPER, '--json')
  assert code == 0
  found = json.loads(output.splitlines()[-1])
  assert found['optimal_seconds'] == found['roofline_seconds'] > 0
  assert found['compiler_optimal_seconds'] == -3.0
  assert found['optimal_seconds_from'] == cost.ROOFLINE
  assert 'from the roofline of FLOPs and bytes (compiler -3000.0 ms' in output
  # Two compilations of equal memory.
  assert found['largest_batch'] is None
  assert 'largest batch: unknown' in output


@pytest.mark.parametrize(
  'code, arguments, message',
  (
    (
      *(2, ('--topology=v3-512', '--config.batch_size=4000')),
      'batch_size: expected a .*multiple of the 512 devices, .* 4000; .*: 4096',
    ),
    (
      *(2, ('--topology=v3-512', '--config.batch.accumulate=3')),
      'multiple of 1536, .* 512 devices .* batch.accumulate=3, .* 4096; .*4608',
    ),
    (2, ('--topology=v3-512', '--config.network.bn_group=3'), 'bn_group: .* 3'),
    (
      2,
      ('--topology=v3-512', '--share=0'),
      r'--share: expected .* \[0\.01, 1\]',
    ),
    (3, ('--topology=v3-512', '--config.dataset=/no/such'), '/no/such'),
    (2, ('--topology=v3-512',), f'pip install {compile.LIBTPU}$'),
  ),
)
def test_an_unusable_argument_is_one_line(
  plan, monkeypatch, code, arguments, message
):
  """The last one is the missing compiler."""

  version = importlib.metadata.version

  def missing(name):
    if name == 'libtpu':
      raise importlib.metadata.PackageNotFoundError(name)
    return version(name)

  monkeypatch.setattr(importlib.metadata, 'version', missing)
  found, _, error = plan('--config=pretrain', *arguments)
  assert found == code
  assert error.count('\n') == 1
  assert re.search(message, error), error


def test_the_named_compiler_is_the_pinned_one():
  pinned = (ROOT / 'requirements-plan.txt').read_text()
  assert compile.LIBTPU in pinned.splitlines()


def run_plan(*arguments):
  """Runs the verb in another process."""
  return subprocess.run(
    [sys.executable, '-m', 'byol_jax', 'plan', *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )


@pytest.mark.libtpu
@pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None, reason='libtpu is missing'
)
class TestLibtpu:
  """With the compiler for TPUs."""

  @pytest.mark.parametrize('case', ('small', 'resident', *LIMITS))
  def test_a_plan_end_to_end(self, tmp_path, case):
    arguments = ['--config=shapes', '--topology=v3-8']
    if case == 'resident':
      tiny_folder.write(tmp_path)
      arguments += [*tiny_folder.SMALLEST, f'--config.dataset={tmp_path}']
      arguments += ['--config.data.resident=True', '--once']
    elif case in LIMITS:
      arguments = [*PAPER, '--once', f'--config.precision={case}']
    done = run_plan(*arguments, '--json')
    assert (done.returncode, done.stderr) == (0, '')
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found['collectives']) == {'all-reduce'}
    if case == 'small':
      assert found['largest_batch'] > 64
      assert found['alias_bytes'] > 0.95 * found['output_bytes']
    if case in LIMITS:
      assert found['collectives']['all-reduce']['operations'] <= 105
      assert found['alias_bytes'] > 0.99 * found['output_bytes']
      for key, limit in LIMITS[case].items():
        assert 0 < found[key] <= limit, key

  def test_a_step_that_is_too_large_is_one_line(self):
    done = run_plan(
      *('--once', '--config=shapes', '--topology=v3-8'),
      *(*tiny_folder.SMALLEST, '--config.epochs=10'),
      *('--config.image_size=1024', '--config.batch_size=4000'),
    )
    assert done.returncode == 1
    assert done.stderr.count('\n') == 1
    assert '500 images a device do not fit v3-8' in done.stderr
    # The compiler's own numbers.
    assert re.search(r'\d+\.\d+G\) exceeds available HBM', done.stderr)

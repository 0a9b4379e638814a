r"""Memory of a training step on a GPU, by XLA's compiler for one; needs no GPU.

  pip install --no-deps --target .venv/cuda jax-cuda12-plugin==0.10.2 \
    jax-cuda12-pjrt==0.10.2
  PYTHONPATH=.:.venv/cuda JAX_PLATFORMS=cpu python benchmarks/gpu_memory.py \
    imagenette 256 --output=benchmarks/results/gpu_memory_imagenette.json

`--config.section.key=value` may follow. Compiles the step that training calls
for one A100 of 40 GB. `bytes_accessed` are those of operands and results, those
of operations in a loop left out. cuDNN chooses its convolutions on a GPU only,
so what these need besides is missing. Minutes.
"""

from jax.experimental import topologies

from benchmarks import results_file
from byol_jax import configuration
from byol_jax.planning import compile

# As NVIDIA and XLA describe the device.
A100 = """
  gpu_device_info {
    threads_per_block_limit: 1024
    threads_per_warp: 32
    shared_memory_per_block: 49152
    shared_memory_per_core: 167936
    shared_memory_per_block_optin: 166912
    threads_per_core_limit: 2048
    registers_per_core_limit: 65536
    registers_per_block_limit: 65536
    core_count: 108
    fpus_per_core: 64
    block_dim_limit_x: 2147483647
    block_dim_limit_y: 65535
    block_dim_limit_z: 65535
    memory_bandwidth: 1555200000000
    l2_cache_size: 41943040
    clock_rate_ghz: 1.41
    device_memory_size: 42331013120
    cuda_compute_capability { major: 8 }
  }
  platform_name: "CUDA"
  runtime_version { major: 12 minor: 9 }
  dnn_version_info { major: 9 minor: 8 }
  device_description_str: "A100-SXM4-40GB"
"""


def main() -> None:
  """Compiles the step of a preset; prints and writes its bytes."""
  parser = results_file.make_parser(__doc__)
  parser.add_argument('preset')
  parser.add_argument('images', type=int, help='the batch, on one device')
  arguments, overrides = parser.parse_known_args()
  devices = topologies.get_topology_desc(
    'a100', 'cuda', topology='1x1x1', target_config=A100
  ).devices
  images = arguments.images
  overrides = [*overrides, f'--config.batch_size={images}']
  config = configuration.load(arguments.preset, overrides)
  run = compile.open_run(config, 'cuda')
  step = compile.compile_step(run, devices, images)
  result = {
    'device': devices[0].device_kind,
    'preset': arguments.preset,
    'images': images,
    'accumulate': config.batch.accumulate,
    'argument_bytes': step.cost.argument_bytes,
    'temp_bytes': step.cost.temp_bytes,
    'memory_bytes': step.cost.memory_bytes,
    'bytes_accessed': step.cost.bytes_accessed,
    'compile_seconds': round(step.compile_seconds, 1),
  }
  packages = ('jax-cuda12-plugin', 'jax-cuda12-pjrt')
  results_file.write_result(result, arguments.output, packages)


if __name__ == '__main__':
  main()

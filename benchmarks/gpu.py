"""Training steps on a GPU, ours beside BYOL of lightly in PyTorch.

PYTHONPATH=. python benchmarks/gpu.py [--output=FILE.json] [--programs NAME ...]

ResNet-50 at 224 pixels with heads 4096/256, views of noise on the device, no
augmentation; ours is the step of `pretrain:1000` (LARS, online classifier),
theirs is `gpu_peer.py`. Then a run of `cifar10:200` on noise against its update
alone. Each program is a separate process; those of one stage compile at the
same time, and measure one after another with the device to themselves. The
result is written after each program. About four minutes on an H100. Needs `pip
install torch torchvision lightly` beside this package.
"""

import json
import os
import pathlib
import sys
import time

from benchmarks import results_file, worker

PACKAGES = (
  *('torch', 'torchvision', 'lightly', 'triton'),
  *('jax-cuda12-plugin', 'jax-cuda13-plugin', 'nvidia-cudnn-cu12'),
  'nvidia-cudnn-cu13',
)
HERE = pathlib.Path(__file__).parent

# Name -> the worker's script and arguments.
PROGRAMS = {
  'ours bfloat16': ('gpu_ours.py', 'step', '--precision=bfloat16'),
  'ours float32': ('gpu_ours.py', 'step', '--precision=float32'),
  'resident bfloat16': ('gpu_ours.py', 'resident', '--precision=bfloat16'),
  'lightly bfloat16': ('gpu_peer.py', '--precision=bfloat16'),
  'lightly float32': ('gpu_peer.py', '--precision=float32'),
}
# What compiles at the same time, and fits the memory together.
STAGES = (
  ('ours bfloat16', 'lightly bfloat16'),
  ('ours float32', 'lightly float32'),
  ('resident bfloat16',),
)

MEASURING = 15  # seconds of a program, about, once it is compiled


def make_command(name, arguments):
  """The command of a worker."""
  script, *words = PROGRAMS[name]
  in_bfloat16 = name.endswith('bfloat16')
  batch = arguments.batch if in_bfloat16 else arguments.batch_float32
  if name.startswith('resident'):
    batch = arguments.batch_resident
    words += [f'--images={arguments.images_resident}']
  elif script == 'gpu_ours.py':
    words += [
      f'--config.network.encoder={arguments.encoder}',
      f'--config.image_size={arguments.size}',
    ]
    if in_bfloat16:
      words += [f'--product={arguments.product}']
  else:
    words += [f'--encoder={arguments.encoder}', f'--size={arguments.size}']
    words += ['--only_eager'] * arguments.only_eager
  words += [f'--batch_size={batch}', f'--rounds={arguments.rounds}']
  words += [f'--seconds={arguments.seconds}']
  return [sys.executable, str(HERE / script), *words]


def make_environment(arguments):
  """Environment of a worker: memory as it is needed, and flags of XLA."""
  root = str(HERE.parent)
  paths = [root, *filter(None, [os.environ.get('PYTHONPATH')])]
  found = os.environ | {
    'PYTHONPATH': os.pathsep.join(paths),
    'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',
  }
  if arguments.xla_flags:
    flags = [os.environ.get('XLA_FLAGS', ''), arguments.xla_flags]
    found['XLA_FLAGS'] = ' '.join(flags).strip()
  return found


def measure_stages(arguments, save):
  """Runs the programs; `save` gets {name: figures} after each of them."""
  deadline = time.monotonic() + arguments.limit
  began, found = time.monotonic(), {}
  environment = make_environment(arguments)
  stages = [[n for n in x if n in arguments.programs] for x in STAGES]
  # All start now, so that the later ones are traced when their turn comes.
  workers = {
    name: worker.Worker(make_command(name, arguments), environment)
    for stage in stages
    for name in stage
  }

  def ask(name, word, until):
    """Waits for the answer to a word; records it."""
    try:
      answer = workers[name].receive(until)
    except RuntimeError as error:
      answer = {'error': f'{word}: {error}'}
      workers[name].stop()
    found[name] = found.get(name, {}) | answer
    print(
      f'{time.monotonic() - began:4.0f} s {name}, {word}: {json.dumps(answer)}',
      flush=True,
    )
    save(found)
    return 'error' not in answer

  try:
    for stage in stages:
      for name in stage:
        workers[name].send('compile')
      # What is not compiled in time must not keep others from measuring.
      until = deadline - MEASURING * len(stage)
      compiled = [name for name in stage if ask(name, 'compile', until)]
      for name in compiled:
        workers[name].send('measure')
        ask(name, 'measure', deadline)
        workers[name].stop()
  finally:
    for each in workers.values():
      each.stop()
  return found


def start_counter(arguments):
  """A worker that counts the operations of our step, on the CPU."""
  command = [
    *(sys.executable, str(HERE / 'gpu_ours.py'), 'operations'),
    *('--precision=float32', '--batch_size=8', '--rounds=1', '--seconds=1'),
    f'--config.network.encoder={arguments.encoder}',
    f'--config.image_size={arguments.size}',
  ]
  environment = make_environment(arguments) | {'JAX_PLATFORMS': 'cpu'}
  return worker.Worker(command, environment)


def count_operations(counter):
  """Operations of our step for an image, GFLOP, from `start_counter`."""
  try:
    return counter.receive(time.monotonic() + 600)
  finally:
    counter.stop()


def summarize(result):
  """Adds the ratios, and the TFLOP/s where operations are counted."""
  found = result['programs']
  rates = {k: v.get('images_per_second') for k, v in found.items()}
  peak = found.get('ours bfloat16', {}).get('product', {}).get('tflops')
  flops = result.get('gflops_of_an_image')
  for precision in ('bfloat16', 'float32'):
    ours, theirs = (rates.get(f'{x} {precision}') for x in ('ours', 'lightly'))
    if ours and theirs:
      result[f'ours_over_lightly_{precision}'] = round(ours / theirs, 3)
    for name in (f'ours {precision}', f'lightly {precision}'):
      if rates.get(name) and flops:
        # The same operations: those of our program.
        tflops = rates[name] * flops / 1e3
        found[name]['tflops'] = round(tflops, 1)
        if peak:
          found[name]['share_of_product'] = round(tflops / peak, 3)
  return result


def main():
  parser = results_file.make_parser(__doc__, rounds=6)
  parser.add_argument('--programs', nargs='+', default=list(PROGRAMS))
  parser.add_argument('--encoder', default='ResNet50')
  parser.add_argument('--size', type=int, default=224)
  parser.add_argument('--batch', type=int, default=256)
  parser.add_argument('--batch_float32', type=int, default=128)
  parser.add_argument('--batch_resident', type=int, default=512)
  parser.add_argument('--images_resident', type=int, default=50_000)
  parser.add_argument('--product', type=int, default=8192)
  parser.add_argument('--seconds', type=float, default=1.0, help='of a round')
  parser.add_argument('--limit', type=float, default=480, help='seconds of all')
  parser.add_argument('--only_eager', action='store_true')
  parser.add_argument('--xla_flags', default='', help='for our programs')
  parser.add_argument(
    '--complete', action='store_true', help='adds TFLOP/s to the output file'
  )
  arguments = parser.parse_args()
  if arguments.complete:
    result = json.loads(arguments.output.read_text())
    result = summarize(result | count_operations(start_counter(arguments)))
    arguments.output.write_text(json.dumps(result, indent=2) + '\n')
    return
  result = {
    'what': 'training steps on a GPU, ours and lightly in PyTorch; images/s are'
    ' medians over rounds, each image in two views',
    'xla_flags': arguments.xla_flags,
  }

  def save(found):
    """Writes what is known; a run that is cut keeps it."""
    if arguments.output:
      known = summarize(result | {'programs': found})
      arguments.output.write_text(json.dumps(known))

  counter = start_counter(arguments)
  result['programs'] = measure_stages(arguments, save)
  result |= count_operations(counter)
  results_file.write_result(
    summarize(result), arguments.output, list_installed()
  )


def list_installed():
  """Those of `PACKAGES` that are installed."""
  from importlib import metadata

  return [name for name in PACKAGES if list(metadata.distributions(name=name))]


if __name__ == '__main__':
  main()

"""Plans the paper's runs for pods; keeps each as one JSON file.

  PYTHONPATH=.venv/libtpu python benchmarks/make_plans.py [NAME ...]

Half an hour on two cores; `make test-libtpu` installs what it needs. Every
plan is two compilations of the whole step, or one (`--once`).
"""

import json
from pathlib import Path
import subprocess
import sys

RESULTS = Path(__file__).parent / 'results'

_BFLOAT16 = '--config.precision=bfloat16'
PLANS = {
  'resnet50_v3-512': ('v3:16x16',),
  'resnet50_v3-512_bfloat16': ('v3:16x16', _BFLOAT16, '--once'),
  'resnet50_v4-512': ('v4-512', '--once'),
  # The setting of the ablations; the last --config counts.
  'ablations_v3-64': ('v3-64', '--config=pretrain:300', '--once'),
  'resnet50_v6e-256': ('v6e:16x16',),
  'resnet50x4_v3-512': ('v3:16x16', '--config.network.width=4', '--once'),
  'resnet200x2_v3-512': (
    *('v3:16x16', '--config.network.width=2'),
    *('--config.network.encoder=ResNet200', '--once'),  # nine minutes
  ),
  'resnet50x4_v3-512_bfloat16': (
    *('v3:16x16', '--config.network.width=4', _BFLOAT16, '--once'),
  ),
  'resnet200x2_v3-512_bfloat16': (
    *('v3:16x16', '--config.network.width=2', _BFLOAT16),
    *('--config.network.encoder=ResNet200', '--once'),
  ),
  # Host of 8 cores: the figures of a core are those of v3-512.
  'resnet50_v3-8': ('v3:2x2', '--config.batch_size=64', '--once'),
  'resnet50_v3-8_bfloat16': (
    *('v3:2x2', '--config.batch_size=64', _BFLOAT16, '--once'),
  ),
  # Each core holds its part of the momentum.
  'resnet50_v3-8_bfloat16_sharded': (
    *('v3:2x2', '--config.batch_size=64', _BFLOAT16),
    *('--config.shard_optimizer=True', '--once'),
  ),
  'resnet200x2_v3-512_bfloat16_sharded': (
    *('v3:16x16', '--config.network.width=2', _BFLOAT16),
    *('--config.network.encoder=ResNet200', '--config.shard_optimizer=True'),
    '--once',
  ),
  # The batch of 4096 on one chip.
  'resnet50_v5e-1_accumulate64': (
    *('v5e:1x1', '--config.batch.accumulate=64'),
    *('--config.data.transfer=uint8', '--once'),
  ),
}


def main() -> int:
  """Makes all plans, or those named; the exit code of the last that failed."""
  failed = 0
  for name in sys.argv[1:] or PLANS:
    topology, *overrides = PLANS[name]
    command = [sys.executable, '-m', 'byol_jax', 'plan', '--json']
    command += ['--config=pretrain:1000', f'--topology={topology}', *overrides]
    print('$', *command[1:], flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    print(done.stdout, flush=True)
    if done.returncode:
      print(f'{name}: exit code {done.returncode}', flush=True)
      failed = done.returncode
      continue
    found = json.loads(done.stdout.splitlines()[-1])
    target = RESULTS / f'plan_{name}.json'
    target.write_text(json.dumps(found, indent=1) + '\n')
  return failed


if __name__ == '__main__':
  sys.exit(main())

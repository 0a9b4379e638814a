"""The compiler's report of a step that nothing has compiled."""

from byol_jax.planning import cost


def make_cost(**changes):
  """A step of 8 images that is bound by the memory of a v3 core: 40 ms."""
  values = {
    'flops': 500e9,
    'bytes_accessed': 18e9,  # at 450 GB/s
    'optimal_seconds': 0.041,
    'argument_bytes': 460_000_000,
    'output_bytes': 450_000_000,
    'temp_bytes': 1_500_000_000,
    'alias_bytes': 450_000_000,
    'code_bytes': 100_000_000,
    'estimated_cycles': 46_000_000,
    'collectives': {'all-reduce': cost.Collective(50, 152_000_000)},
  }
  return cost.Cost(**values | changes)

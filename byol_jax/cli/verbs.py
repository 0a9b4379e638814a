"""The verbs of `byol-jax`: a function each, its arguments beside it.

A verb's docstring is its `--help`, its arguments are keywords. Heavy packages
are imported inside, so that `--help` needs none of them.
"""

from byol_jax.cli import registry, run_verbs, tool_verbs, weight_verbs  # noqa: F401

VERBS = registry.VERBS  # in the order of these modules

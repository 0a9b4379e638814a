"""The verbs of `byol-jax`: a function each, its arguments beside it.

A verb's docstring is its `--help`, its arguments are keywords. Heavy packages
are imported inside, so that `--help` needs none of them.
"""

from byol_jax.cli import run_verbs, tool_verbs, weight_verbs

# In the order of --help.
VERBS = {**run_verbs.VERBS, **weight_verbs.VERBS, **tool_verbs.VERBS}

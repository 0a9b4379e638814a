"""Files in the format of the official checkpoints, from its vectors."""

import pathlib
import re

import numpy as np

from tests.helpers import pickles

VECTORS = pathlib.Path(__file__).parents[1] / 'conformance/official_tiny.npz'


def read_vectors():
  """{key: array} of the run `official_tiny`."""
  with np.load(VECTORS) as file:
    return {key: file[key] for key in file.files}


def read_trees(vectors):
  """{field: {module: {leaf: array}}} of the state after the last step."""
  trees = {}
  for key, value in vectors.items():
    if key.startswith('final/'):
      field, module, leaf = re.fullmatch(
        r'final/(\w+)/(.*)\|(\w+)', key
      ).groups()
      trees.setdefault(field, {}).setdefault(module, {})[leaf] = value
  return trees


def write_file(path, vectors, change=lambda trees: trees, **parts):
  """Writes a checkpoint in the official format; `parts` replaces its keys.

  `change` returns trees or, for other fields, bytes.
  """
  trees = change(read_trees(vectors))
  wrap = lambda body: pickles.call(
    pickles.name(pickles.HAIKU, 'FlatMapping'), body
  )
  fields = {
    k: v if isinstance(v, bytes) else pickles.tree(v, wrap=wrap)
    for k, v in trees.items()
  }
  if 'online_params' in trees:
    fields['opt_state'] = pickles.sequence(fields['online_params'])
  state = pickles.dill_tuple(
    '_ByolExperimentState', 'byol.byol_experiment', fields
  )
  content = {
    'experiment_state': state,
    'step': pickles.integer(4),
    'rng': pickles.plain_array(np.uint32([0, 7])),
  } | parts
  content = {k: v for k, v in content.items() if v is not None}
  path.write_bytes(pickles.program(pickles.mapping(content)))
  return path


def leave_encoder(trees):
  """The online encoder's trees; its first layers have numbers."""
  rename = lambda name: re.sub('(initial_[a-z]+)', r'\1_1', name)
  return {
    field: {rename(m): v for m, v in trees[field].items() if 'tiny' in m}
    for field in ('online_params', 'online_state')
  }


def make_linear_evaluation(classifier):
  """Returns a change to the fields of a linear evaluation, `linear-eval.pkl`.

  `classifier` is {leaf: array}; the backbone has all of the online network.
  """
  return lambda trees: {
    'backbone_params': trees['online_params'],
    'classif_params': {'linear': classifier},
    'backbone_state': trees['online_state'],
    'backbone_opt_state': b'N',
    'classif_opt_state': pickles.sequence(pickles.tree({'linear': classifier})),
  }

"""Several evaluations of one encoder: `--config=evals/suite.py`.

    byol-jax suite --workdir=DIR [--config=evals/suite.py:cpu]

`paper` has the paper's protocols, `cpu` the smaller ones of `evals/linear:cpu`,
`evals/transfer:cpu`, `evals/semisup:cpu` and `evals/finetune:cpu`. Each has a
section with its keys, which its own file explains.

`cpu` was run on an encoder of `cifar10:cpu`, on CPUs (docs/results.md); `paper`
was not run.
"""

from ml_collections import config_dict

from configs.evals import finetune, knn, linear, online, semisup, transfer

VARIANTS = ('paper', 'cpu')
# Of all protocols together.
COMMON = (
  *('dataset', 'data_dir', 'labels', 'weights', 'calibration_batches', 'seed'),
)


def get_config(name: str = 'paper') -> config_dict.ConfigDict:
  """Returns the configuration of the verb `suite`, one of `VARIANTS`."""
  if name not in VARIANTS:
    raise ValueError(f'unknown argument {name!r}: expected one of {VARIANTS}')
  sections = {
    'knn': knn.get_config(),
    'online': online.get_config(),
    'linear': linear.get_config(name),
    'transfer': transfer.get_config(name),
    'semisup': semisup.get_config(name),
    'finetune': finetune.get_config(name),
  }
  for section in sections.values():
    for key in COMMON:
      if key in section:
        del section[key]
  return config_dict.ConfigDict(
    {
      # Names of the sections below, with commas, in the order of the table.
      'protocols': ','.join(sections),
      # Of all of them; transfer has its own `datasets`.
      **knn.make_common(),
      # Whether the encoder before its pretraining, with estimated batch-norm
      # averages, is evaluated too, and chance shown: twice the time.
      'beside_random': False,
      # The set of the pretraining, 'imagenet2012', for the paper's numbers;
      # default: what the run, or the card of the weights, says.
      'pretrained_on': config_dict.placeholder(str),
      **sections,
    }
  )

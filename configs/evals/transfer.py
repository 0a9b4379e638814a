"""Linear classifiers on other sets: `--config=evals/transfer.py`.

    byol-jax transfer --workdir=DIR [--config=evals/transfer.py:cpu]

The paper's protocol (appendix D.2; method.md 5.4): on each of twelve sets a
logistic regression on frozen representations, its penalty chosen among 45 on
the set's `valid`. A set that is not there is named and left out.

`cpu` tries 12 penalties, a decade apart. Both were run from an encoder of
`cifar10:cpu` to Imagenette, on CPUs: 49.3 % (docs/results.md), and on none of
the twelve sets.
"""

from ml_collections import config_dict

from configs.evals import knn


def get_config(name: str = 'paper') -> config_dict.ConfigDict:
  """Returns the configuration of the verb `transfer`: 'paper' or 'cpu'."""
  if name not in ('paper', 'cpu'):
    raise ValueError(f"unknown argument {name!r}: expected 'paper' or 'cpu'")
  common = knn.make_common()
  del common['dataset']
  return config_dict.ConfigDict(
    {
      # The sets, with commas: any of food101, cifar10, cifar100, birdsnap,
      # sun397, cars, aircraft, voc2007, dtd, pets, caltech101 and flowers, and
      # whatever `dataset` takes elsewhere. 'paper' is all of these.
      'datasets': 'paper',
      **common,
      'batch_size': 256,  # images of a forward pass, of all devices
      # 'whole': the shorter side becomes the image size, bicubic; then a centre
      # crop. Or 'resize', 'crop', see `data.eval_crop` of configs/pretrain.py.
      'eval_crop': 'whole',
      # The least penalty: a factor of half the squared norm of the weights
      # against the sum of the losses.
      'min_lambda': 1e-6,
      'max_lambda': 1e5,  # the greatest penalty
      # Penalties that are tried, evenly on a logarithmic scale. The best on the
      # set's `valid` is reported.
      'num_lambdas': 45 if name == 'paper' else 12,
      'max_iterations': 1000,  # most iterations of L-BFGS for one penalty
    }
  )

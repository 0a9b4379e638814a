"""Linear classifier on a frozen encoder: `--config=evals/linear.py`.

    byol-jax linear --workdir=DIR [--config=evals/linear.py:cpu]
    byol-jax linear --workdir=DIR --config=evals/linear.py:places365

The default is the paper's (appendix C.1; method.md 5.1): 74.3 % top-1 for
ResNet-50 after 1,000 epochs. Each of the 80 epochs is one forward pass over
the training split for all rates together.

`cpu` is not the paper's: after one forward pass over centre crops the
classifiers train on the stored features, in seconds for small sets. Features
of small networks are small, so its rates are higher.

`places365` is the paper's, on Places365 (appendix E): 53.2 % top-1 after
pretraining on it. The paper names no hold-out of this set: a share of
`data.heldout_share` of the training images chooses the rate.
"""

from ml_collections import config_dict


def get_config(name: str = 'paper') -> config_dict.ConfigDict:
  """Returns the configuration of the verb `linear`; see above."""
  names = ('paper', 'cpu', 'places365')
  if name not in names:
    raise ValueError(f'unknown argument {name!r}: expected one of {[*names]}')
  config = config_dict.ConfigDict(
    {
      # Default: the set of the pretraining.
      'dataset': config_dict.placeholder(str),
      'data_dir': config_dict.placeholder(str),
      # 'online', 'target', 'random' or 'random_calibrated'.
      'weights': 'online',
      'calibration_batches': 50,
      'seed': 0,
      'batch_size': 1024,
      'epochs': 80.0,
      # Base rates; each is multiplied by batch_size / 256.
      'rates': (0.4, 0.3, 0.2, 0.1, 0.05),
      'momentum': 0.9,
      # 'augmented': a random crop and flip at each step; 'cached': features of
      # centre crops, computed once.
      'features': 'augmented',
      # Whether cached features are standardised by the mean and deviation of
      # the training part.
      'standardize': False,
    }
  )
  if name == 'places365':
    config.dataset = 'places365_small'
  if name == 'cpu':
    config.update(
      {
        'batch_size': 256,
        'epochs': 50.0,
        'rates': (30.0, 10.0, 3.0, 1.0, 0.3, 0.1),
        'features': 'cached',
      }
    )
  return config

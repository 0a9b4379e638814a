"""Nearest neighbours in a frozen encoder's features: `--config=evals/knn.py`.

    byol-jax knn --workdir=DIR

Cosine similarity; each neighbour votes with the weight exp(similarity /
temperature). Takes one forward pass over the training and the test split, and
seconds. Was run on encoders of the small presets, on CPUs (docs/results.md).
"""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
  """Returns the configuration of the verb `knn`."""
  return config_dict.ConfigDict(
    {
      # Default: the set of the pretraining.
      'dataset': config_dict.placeholder(str),
      'data_dir': config_dict.placeholder(str),
      # 'online', 'target', 'random' or 'random_calibrated'.
      'weights': 'online',
      'calibration_batches': 50,
      'seed': 0,
      'batch_size': 256,
      # Each k with each temperature; a k of more than the images of the
      # training split is left out.
      'ks': (1, 20, 200),
      'temperatures': (0.07, 0.1),
    }
  )

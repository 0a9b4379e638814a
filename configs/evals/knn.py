"""Nearest neighbours of a frozen encoder: `--config=evals/knn.py`.

    python -m byol_jax knn --workdir=DIR

Cosine, weights exp(cosine / 0.1); seconds after the features, which take one
forward pass over the training and the test split.
"""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
  """The configuration of the verb `knn`."""
  return config_dict.ConfigDict(
    {
      # Of the pretraining, unless given.
      'dataset': config_dict.placeholder(str),
      'data_dir': config_dict.placeholder(str),
      # 'online', 'target', 'random' or 'random_calibrated'.
      'weights': 'online',
      'calibration_batches': 50,
      'seed': 0,
      'batch_size': 256,
      'ks': (1, 20, 200),
      'temperature': 0.1,
    }
  )

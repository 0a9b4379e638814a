"""Nearest neighbours in a frozen encoder's features: `--config=evals/knn.py`.

    byol-jax knn --workdir=DIR

Cosine similarity; each neighbour votes with the weight exp(similarity /
temperature). Takes one forward pass over the training and the test split, and
seconds. Was run on encoders of the small presets, on CPUs (docs/results.md).
"""

from typing import Any

from ml_collections import config_dict


def make_common() -> dict[str, Any]:
  """Returns the keys that most evaluations have."""
  return {
    # A labelled set of images, as of a pretraining. Without a value: the set of
    # the pretraining.
    'dataset': config_dict.placeholder(str),
    # The folder with the prepared sets of TFDS. Without a value: that of the
    # pretraining.
    'data_dir': config_dict.placeholder(str),
    # Whether the folders of these images are classes: 'auto', 'folders' or
    # 'none', see `data.labels` of a pretraining. 'pretraining': as there, but
    # 'auto' for its 'none' on other images.
    'labels': 'pretraining',
    # Which encoder: the 'online' or the 'target' network; as the run began,
    # 'random'; or this with batch-norm averages that are estimated on training
    # images, 'random_calibrated'. The better of these two is what to compare
    # with.
    'weights': 'online',
    # Batches of training images for the averages of 'random_calibrated'.
    'calibration_batches': 50,
    # Seed of order, crops, new classifiers and held-out images, and of the
    # resampled test images in the interval of a mean precision.
    'seed': 0,
  }


def get_config() -> config_dict.ConfigDict:
  """Returns the configuration of the verb `knn`."""
  return config_dict.ConfigDict(
    {
      **make_common(),
      'batch_size': 256,  # images of a forward pass, of all devices
      # Numbers of neighbours, each with each temperature; one of more than the
      # images of the training split is left out.
      'ks': (1, 20, 200),
      # A neighbour votes with exp(similarity / temperature).
      'temperatures': (0.07, 0.1),
    }
  )

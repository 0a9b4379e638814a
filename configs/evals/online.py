"""The classifier trained along with the encoder: `--config=evals/online.py`.

    byol-jax online --workdir=DIR

Nothing is trained: one forward pass over the test split. The paper's encoders
are compared by `linear`; this number follows a pretraining, in seconds. Was run
on an encoder of `cifar10:cpu`, on CPUs: 46.4 % (docs/results.md).
"""

from ml_collections import config_dict

from configs.evals import knn


def get_config() -> config_dict.ConfigDict:
  """Returns the configuration of the verb `online`."""
  return config_dict.ConfigDict(
    {
      **knn.make_common(),
      'batch_size': 256,  # images of a forward pass, of all devices
    }
  )

"""Fine-tuning on few labels: `--config=evals/semisup.py`.

    byol-jax semisup --workdir=DIR [--config=evals/semisup.py:cpu]

`paper` is the protocol for 1 % and 10 % of ImageNet's labels (appendix C.1;
method.md 5.2): 53.2 % and 68.8 % top-1 for ResNet-50 after 1,000 epochs. What
the paper leaves open is in docs/faithfulness.md.

`cpu` is not the paper's: a small grid of equally long trainings, for minutes
on a small set. Was run on an encoder of `cifar10:cpu`, on CPUs: 48.0 % on 1 %
of the labels, 55.8 % on 10 % (docs/results.md); `paper` was not run.
"""

from ml_collections import config_dict

from configs.evals import finetune


def get_config(name: str = 'paper') -> config_dict.ConfigDict:
  """Returns the configuration of the verb `semisup`: 'paper' or 'cpu'."""
  if name not in ('paper', 'cpu'):
    raise ValueError(f"unknown argument {name!r}: expected 'paper' or 'cpu'")
  # The keys that are not here are explained in finetune.py.
  config = finetune.get_config(name)
  del config.refit
  config.update(
    {
      # Shares of the training images that are not held out, whose labels are
      # used.
      'fractions': (0.01, 0.1),
      # 'published': of ImageNet those lists of images that TFDS prepares as
      # imagenet2012_subset, without held-out images; 'own': class-balanced
      # parts, drawn from the seed, as for any other set or fraction.
      'lists': 'published',
    }
  )
  if name == 'cpu':
    config.lengths = (400.0,)
  return config

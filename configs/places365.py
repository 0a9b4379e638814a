"""BYOL pretraining on Places365-Standard: `configs/places365.py[:PRESET]`.

The values are those of ImageNet, `configs/pretrain.py` (paper, appendix E;
method.md 5.9), by default for 1,000 epochs: 440,297 steps. The set is TFDS'
`places365_small`, 256 x 256 pixels: 1,803,460 training images; the test set is
`validation`, 36,500 images, as the labels of `test` are not published.

    tfds build places365_small --data_dir=DATA
    byol-jax pretrain --config=places365 --config.data_dir=DATA --workdir=DIR
    byol-jax linear --config=evals/linear:places365 --workdir=DIR

The authors report 53.2 % top-1 on Places365 and 58.5 % on ImageNet by linear
evaluation, where an encoder of ImageNet has 51.0 and 74.3 %. Not run here.
"""

from ml_collections import config_dict

from configs import pretrain


def get_config(preset: str = '1000') -> config_dict.ConfigDict:
  """Returns the configuration of a preset of `configs/pretrain.py`."""
  config = pretrain.get_config(preset)
  config.dataset = 'places365_small'
  return config

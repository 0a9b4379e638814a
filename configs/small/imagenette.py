"""Imagenette at 128 pixels: `configs/small/imagenette.py[:cpu]`.

The default is the official code's quick setup (method.md 4.5): ResNet-18, batch
256, LARS with base rate 2.0, 1000 epochs; its authors report about 92.3 %
online top-1 after 4 hours on one V100. Not run here.

`cpu` is not the paper's: a small network, 14 epochs at 48 pixels. Was run with
one seed on two CPU cores, 18 minutes beside other work: kNN (k = 20) 38.9 %,
linear 45.9 %, 3.2 and 10.2 points above the better random encoder
(docs/results.md; square 128-pixel versions of the images).
"""

from ml_collections import config_dict

from configs import pretrain
from configs.small import shapes


def get_config(variant: str = 'gpu') -> config_dict.ConfigDict:
  """Returns the variant `gpu` (the official quick setup) or `cpu`."""
  if variant not in ('gpu', 'cpu'):
    raise ValueError(f"expected 'gpu' or 'cpu', found {variant!r}")
  config = pretrain.get_config('1000')
  config.preset = 'imagenette'
  config.dataset = 'imagenette/160px-v2'
  config.image_size = 128
  config.epochs, config.batch_size = 1000.0, 256
  config.network.encoder = 'ResNet18'
  config.optimizer.weight_decay = 1e-6
  config.schedule.base_rate = 2.0
  if variant == 'cpu':
    shapes.for_cpu(config)
    config.preset = 'imagenette cpu'
    # The groups end at 6x6. At 64 pixels with the 7x7 stem a step takes several
    # times as long.
    config.image_size = 48
    config.epochs, config.batch_size = 14.0, 64
    shapes.easier_views(config)
  config.preset_epochs = int(config.epochs)
  config.preset_batch_size = config.batch_size
  return config

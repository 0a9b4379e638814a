"""A folder of your own images: `configs/small/folder.py[:cpu]`.

  byol-jax pretrain --config=folder --config.dataset=FOLDER --workdir=DIR

The length is counted in steps and follows from the number of images
(`steps='auto'`). The default is for one GPU: Imagenette's (ResNet-18, 128
pixels, batch 256); not run here. `cpu` has the network and the views of
`cifar10:cpu` at 32 pixels and takes two CPU cores minutes; docs/own_data.md
has its accuracy on 300 to 9,000 photographs.
"""

from ml_collections import config_dict

from configs.small import cifar10, imagenette


def get_config(variant: str = 'gpu') -> config_dict.ConfigDict:
  """Returns the variant `gpu` or `cpu`."""
  base = cifar10 if variant == 'cpu' else imagenette
  config = base.get_config(variant)
  config.preset = 'folder cpu' if variant == 'cpu' else 'folder'
  config.dataset = 'path/to/images'
  config.epochs, config.preset_epochs = 0.0, 0
  with config.ignore_type():
    config.steps = 'auto'
  config.schedule.max_warmup_share = 0.1
  config.data.eval_crop = 'resize'
  return config

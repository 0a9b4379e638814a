"""A folder of your own images: `configs/small/folder.py[:cpu]`.

  byol-jax pretrain --config=folder --config.dataset=FOLDER --workdir=DIR

The length is counted in steps and follows from the number of images
(`steps='auto'`). The default, for one GPU, is `cifar10` at 128 pixels: its
optimizer, with the stem and the blur of ImageNet. Not run here.

`cpu` is `cifar10:cpu`, whose settings were chosen on other images. Was run on
300, 3,000 and 9,000 photographs on two CPU cores, 7 to 9 minutes of CPU time
each: docs/own_data.md has the accuracies.
"""

from ml_collections import config_dict

from configs.small import cifar10


def get_config(variant: str = 'gpu') -> config_dict.ConfigDict:
  """Returns the variant `gpu` or `cpu`."""
  config = cifar10.get_config(variant)
  config.preset = 'folder' if variant == 'gpu' else f'folder {variant}'
  config.dataset = 'path/to/images'
  config.epochs, config.preset_epochs = 0.0, 0
  with config.ignore_type():
    config.steps = 'auto'
  config.schedule.max_warmup_share = 0.1
  config.data.eval_crop = 'resize'
  if variant == 'gpu':
    config.image_size = 128
    config.network.stem = 'imagenet'
    config.augment.view1.blur.probability = 1.0
    config.augment.view2.blur.probability = 0.1
  return config

"""BYOL pretraining on ImageNet: `configs/pretrain.py:1000`.

Presets (method.md 4.3, 4.4), all with ResNet-50, warm-up 10 epochs, LARS:

  40 100 300 1000   batch 4096; 300 and 1000 are the paper's, 40 and 100 only
                    in the official code
  1000_batch512     batch 512 (paper, appendix G)

Any other number of epochs takes the values of the published preset with the
nearest ratio, and the log of the run says so; its warm-up is at most a quarter
of the run.

The authors report 74.3 % top-1 by linear evaluation for `1000`, about 8 hours
on 512 TPU v3 cores, and 72.5 % for `300`. None was run here: loss,
update and schedules equal those of the official code (`conformance`), and
`byol-jax plan` compiled the step of `1000` for 512 TPU cores (docs/pods.md).
"""

import math
from typing import Any

from ml_collections import config_dict

# epochs, batch size, base learning rate, weight decay, base tau
PRESETS = {
  '40': (40, 4096, 0.45, 1e-6, 0.97),
  '100': (100, 4096, 0.45, 1e-6, 0.99),
  '300': (300, 4096, 0.3, 1e-6, 0.99),
  '1000': (1000, 4096, 0.2, 1.5e-6, 0.996),
  '1000_batch512': (1000, 512, 0.4, 1.5e-6, 0.9995),
}

# The settings of each optimizer: the section `optimizer` holds its name and
# these. --config.optimizer.name=adamw replaces them all; the learning rate
# stays, so set schedule.base_rate too (shapes.py has one for AdamW).
OPTIMIZERS: dict[str, dict[str, Any]] = {
  'lars': {
    'weight_decay': 1.5e-6,
    'momentum': 0.9,  # share of the last update that is added to a new one
    # Scales the update of each kernel: this times |kernel| / |update|.
    'trust_coefficient': 1e-3,
    # True: a kernel moves at the smaller of trust ratio and learning rate,
    # not at their product (method.md 4.1); for larger coefficients.
    'clip_trust_ratio': False,
  },
  'adamw': {'weight_decay': 1e-4},
  'sgd': {'weight_decay': 1e-4, 'momentum': 0.9},
}

# The settings of each objective, in the same way (method.md 1.2, 4.6, 4.7).
OBJECTIVES: dict[str, dict[str, Any]] = {
  # BYOL's loss: the squared distance of prediction and projection.
  'regression': {
    # Of both. 'l2', the paper's: to unit length; 'layer_norm': over the
    # features of an image; 'batch_norm': over the batch of all devices; 'none'.
    'normalization': 'l2',
    # Whether it is the sum of both directions, or only view 1 predicts view 2.
    'symmetric': True,
  },
  # BYOL's loss and SimCLR's as two cases of one.
  'info_nce': {
    'temperature': 0.1,  # that divides the cosines, alpha of the paper
    # Weight of the term that keeps images apart, beta of the paper: 1 in
    # SimCLR, 0 in BYOL.
    'negatives_weight': 1.0,
    # What is compared with the target's projections: predictions or, as in
    # SimCLR, projections.
    'from_prediction': True,
    # Whether the loss is times 2 temperature, as in the paper; SimCLR as it was
    # published is without it.
    'scale_by_temperature': True,
  },
  # BYOL's loss with the best linear predictor of the batch instead of the
  # network's, for network.predictor=().
  'optimal_linear': {
    # Added to the diagonal of the projections' moments, as a share of its mean.
    'ridge': 1e-3,
    # Whether no gradient flows through that predictor itself.
    'stop_predictor_gradient': True,
  },
}


def nearest(epochs: float) -> str:
  """Returns the batch-4096 preset whose length is nearest in ratio."""
  names = ('40', '100', '300', '1000')
  return min(names, key=lambda name: abs(math.log(epochs / float(name))))


def view(
  blur_probability: float, solarize_probability: float
) -> config_dict.ConfigDict:
  """Returns one of the paper's two augmentations (table 6; method.md 3.1).

  A probability of 0 leaves an operation out of the compiled step.
  """
  return config_dict.ConfigDict(
    {
      'crop': {
        'area': (0.08, 1.0),  # least and greatest share of the image
        'ratio': (3 / 4, 4 / 3),  # least and greatest width divided by height
      },
      'flip': {
        'probability': 0.5,  # share of the images that are mirrored
      },
      'jitter': {
        'probability': 0.8,  # share of the images that get these changes
        'brightness': 0.4,  # most that is added to, or taken from, [0, 1]
        'contrast': 0.4,  # is multiplied by 1 - this to 1 + this
        'saturation': 0.2,  # is multiplied by 1 - this to 1 + this
        'hue': 0.1,  # greatest turn, as a share of the circle of colours
      },
      'grayscale': {
        'probability': 0.2,  # share of the images that lose their colours
      },
      'blur': {
        'probability': blur_probability,  # share of the images that are blurred
        # Least and greatest standard deviation of the blur, in pixels.
        'sigma': (0.1, 2.0),
      },
      'solarize': {
        # Share of the images whose bright values are inverted.
        'probability': solarize_probability,
        'threshold': 0.5,  # least value in [0, 1] that is inverted
      },
    }
  )


def get_config(preset: str = '1000') -> config_dict.ConfigDict:
  """Returns the configuration of a preset, or of any number of epochs."""
  if preset in PRESETS:
    name = preset
    epochs = PRESETS[name][0]
  else:
    try:
      epochs = int(preset)
      name = nearest(epochs)
    except ValueError as error:
      raise ValueError(
        f'unknown preset {preset!r}: expected one of {sorted(PRESETS)} or'
        ' a number of epochs'
      ) from error
  _, batch_size, base_rate, weight_decay, base_tau = PRESETS[name]
  return config_dict.ConfigDict(
    {
      # The preset of the rates below; the log of a run names it.
      'preset': name,
      'preset_epochs': PRESETS[name][0],  # length that its rates are for
      'preset_batch_size': batch_size,  # batch size that its rates are for
      # Seed of all random numbers: weights, order, crops, augmentations.
      'seed': 0,
      # The images: 'shapes', which are generated; a folder, a .tar of one, a
      # .txt with a path a line, or several of these with commas between them;
      # WebDataset shards, a .csv of files and labels, a .parquet, an .npz of
      # arrays, CIFAR's binary archive, a prepared TFDS directory, the name of
      # a TFDS set; docs/own_data.md describes each.
      'dataset': 'imagenet2012',
      # The folder with the prepared sets of TFDS. Without a value: TFDS's own,
      # ~/tensorflow_datasets.
      'data_dir': config_dict.placeholder(str),
      'image_size': 224,  # side of the square views, in pixels
      # Length, in passes over the training images; 0 if `steps` is given.
      'epochs': float(epochs),
      # Length, in steps; 0 if `epochs` is given. 'auto' is half the number of
      # training images, at least 4000.
      'steps': 0,
      'batch_size': batch_size,  # images of a step, of all devices together
      # Of the activations and operands in the networks of the training step.
      # 'bfloat16' halves their memory; parameters, statistics of batch norm and
      # losses stay float32, and evaluations are in float32.
      'precision': 'float32',
      # Whether each device holds only its part of the optimizer's large arrays.
      # The same results with less memory, for an exchange of them between the
      # devices in every step; may change when a run resumes.
      'shard_optimizer': False,
      # Whether the activations of a residual block are computed again for the
      # gradient instead of kept: larger batches fit a device, at about a
      # quarter more operations; may change when a run resumes.
      'recompute_blocks': False,
      'batch': {
        # Sub-batches into which each device divides its images of a step. They
        # are computed one after another, in the memory of one, each with its
        # own statistics of batch norm; the step takes the mean gradient.
        'accumulate': 1,
      },
      'network': {
        'encoder': 'ResNet50',  # the two smallest ones are for CPUs
        'width': 1.0,  # factor of all channel counts; 1 to 4 in the paper
        'version': 1,  # of the ResNet; 2: batch norm before convolutions
        # Scale of the last batch norm of each residual block at the start.
        'gamma_init': 'ones',
        # The first convolution: 'imagenet' has a 7x7 kernel, stride 2 and
        # pooling, 'small' a 3x3 kernel, 'small_stride2' the same with stride 2.
        'stem': 'imagenet',
        # 'same' is the paper's. 'torch' pads both sides alike, so that an
        # export fits an unchanged torchvision or timm network.
        'padding': 'same',
        # Widths of its hidden layers and its output; () for none: then the
        # predictor predicts the representation.
        'projector': (4096, 256),
        # Widths of its hidden layers and its output, which is that of the
        # projector; () for none.
        'predictor': (4096, 256),
        # Share of the old moving averages of batch norm that a step keeps.
        'bn_decay': 0.9,
        'bn_epsilon': 1e-5,  # added to the variances of batch norm
        # After each hidden layer of projector and predictor: 'batch' norm, as
        # in the paper, 'none', 'layer' norm, or 'group' norm with 16 groups and
        # standardized weights.
        'head_norm': 'batch',
        # Factor of the variance of all initial weights, which is 1 / inputs;
        # 2 is that of He et al. 2015.
        'init_scale': 1.0,
        # Devices, neighbours, whose images share the statistics of batch norm;
        # 0: all devices.
        'bn_group': 0,
      },
      'init': {
        # A workdir, an exported encoder or a published checkpoint: the run
        # starts from its weights, both networks and the heads of equal shapes;
        # '': from random ones.
        'checkpoint': '',
      },
      # What is done to each of the two views of an image, in the order below
      # for crop, flip, jitter, grayscale, blur and solarize.
      'augment': {
        'view1': view(1.0, 0.0),  # always blurred
        'view2': view(0.1, 0.2),  # at times solarized, rarely blurred
      },
      # The target network: a moving average of the online network.
      'target': {
        # The target network's parameters. 'average': those of the moving
        # average; 'online_stopped': the online network's, into which no
        # gradient flows; 'online': the same, with a gradient.
        'parameters': 'average',
        # How the average starts. 'random': with other random weights than the
        # online network; 'online': with the same.
        'start': 'random',
        'base_tau': base_tau,  # share of the average that step 0 keeps
        'schedule': 'cosine',  # of that share: a cosine up to 1, or constant
      },
      # The settings are those of the objective of this name; another name
      # brings its own, see OBJECTIVES of configs/pretrain.py.
      'objective': {
        # 'regression': BYOL's loss; 'info_nce': InfoNCE, of which SimCLR and
        # BYOL are two cases; 'optimal_linear': BYOL's with the best linear
        # predictor of each batch.
        'name': 'regression',
        **OBJECTIVES['regression'],
      },
      # The settings are those of the optimizer of this name; another name
      # brings its own, see OPTIMIZERS of configs/pretrain.py.
      'optimizer': {
        # Another one needs another schedule.base_rate: 0.002 suits AdamW, with
        # schedule.scale_with_batch=False.
        'name': 'lars',
        **OPTIMIZERS['lars'],
        # Share of each kernel: added to its gradient, or with AdamW, times the
        # rate, taken off the kernel. Biases and batch norm have none.
        'weight_decay': weight_decay,
      },
      # The learning rate rises from 0 and falls to 0 by a cosine.
      'schedule': {
        'base_rate': base_rate,  # the highest learning rate, for batches of 256
        # Length of the rise, in epochs, of a run whose length is in epochs.
        'warmup_epochs': 10.0,
        # Greatest share of the run that the rise may take, as in the shortest
        # published preset, 10 of 40 epochs; a longer one is cut. With `steps`
        # the rise is this share.
        'max_warmup_share': 0.25,
        'scale_with_batch': True,  # whether the rate is times batch_size / 256
        'predictor_rate': 1.0,  # factor of the rate of the predictor
        'projector_rate': 1.0,  # factor of the rate of the projector
      },
      'data': {
        # The images of imagenet2012 that are held out of train: the last 10,009
        # as in the paper, or the first 10,000 as in the official code.
        'holdout': 'paper',
        # Share of train that is held out of any other set, to choose rates; and
        # another one as test images where a folder has none.
        'heldout_share': 0.1,
        # Of a folder of images. 'auto': its folders are classes if every image
        # lies in one and there are several; 'folders': they are, images beside
        # them have none; 'none': they are not. All images pretrain.
        'labels': 'auto',
        # Crop of images in evaluations. 'resize': the shorter side becomes
        # 256/224 of image_size, then the centre (paper). 'crop': the centre
        # square of 0.875 of the shorter side (official code). 'whole': the
        # shorter side becomes image_size, then the centre.
        'eval_crop': 'resize',
        # 'once': an image is decoded once for both views; 'crops': each view's
        # window on its own.
        'decoding': 'once',
        # EXIF orientation: 'apply', 'ignore', or 'auto': applied to files,
        # ignored in sets that TFDS prepared, as in the official code.
        'exif': 'auto',
        # Below transparent pixels: 'white', 'black', or 'drop': the colour
        # that the file has there.
        'background': 'white',
        # What becomes black and white in grey images of more than 8 bits:
        # (0, 4095) for 12 bits.
        'grey_range': (0.0, 65535.0),
        # How views are sent to the devices. 'uint8' sends a quarter of the
        # bytes, rounded to 1/255.
        'transfer': 'float32',
        # Keeps the set on the devices and makes its views there, without
        # TensorFlow, for sets that fit. Pixels differ in their last bits;
        # data.decoding and data.transfer are ignored.
        'resident': False,
      },
      # These keys and those of the sections below may differ when a run
      # resumes. They do not change the result, except input.steps_per_call and
      # what follows a step that is not finite.
      'input': {
        # What decodes images, to the same pixels. 'auto': what a run that
        # resumes began with, else TensorFlow where it is installed; the run
        # records which. Pixels, and the embedded set, are read by threads.
        'engine': 'auto',
        'threads': 0,  # threads that decode images; 0: one per core
        # Whether the whole set stays in memory, up to input.cache_gib: as the
        # encoded files, or as decoded pixels.
        'cache': 'none',
        'cache_gib': 0.0,  # most GiB of the cache; 0: 4/5 of the free ones
        # More unusable images than max(10, this share) stop the run.
        'max_bad_share': 0.001,
        'resident_gib': 8.0,  # most GiB on each device of a resident set
        # Most steps per device call of a resident set. 0: 25, on a CPU 1,
        # where compiled loops are slow. Changes the last bits of the result.
        'steps_per_call': 0,
      },
      # The last step, and that at a signal, are always saved.
      'checkpoint': {
        'every_steps': 1000,  # steps between two saves; 0: never
        # Minutes between two saves, with one process only; 0: never.
        'every_minutes': 10.0,
        'keep': 3,  # newest checkpoints that are not deleted
        # Where checkpoints are; '': in the workdir.
        'folder': '',
      },
      'faults': {
        # More steps in a row than this that are not finite: back to the last
        # checkpoint, with other images.
        'max_skips': 10,
        # How often a run may go back; the next time it ends with exit code 4.
        'max_rollbacks': 2,
        # A run ends after this time, in seconds, without images, or 1.1 times
        # this time without a step; 0: never.
        'stall_seconds': 600.0,
        # What a collapse does, when all images get almost the same projection
        # (docs/logs.md): a warning, an end with exit code 4, or nothing.
        'collapse': 'warn',
      },
      'log': {
        'every_steps': 50,  # steps between two points of the curves
        # Seconds between two lines on the console; 0: one for each point.
        'every_seconds': 10.0,
        'tensorboard': True,  # whether WORKDIR/tensorboard is written too
      },
      'eval': {
        # kNN accuracy on the test set after each multiple of these steps and
        # the last, in the process that trains; 0: never.
        'knn_every_steps': 0,
      },
    }
  )

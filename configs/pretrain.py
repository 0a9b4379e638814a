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
OPTIMIZERS = {
  'lars': {
    'weight_decay': 1.5e-6,
    'momentum': 0.9,
    'trust_coefficient': 1e-3,
    # True: a kernel moves at the smaller of trust ratio and learning rate,
    # not at their product (method.md 4.1); for larger coefficients.
    'clip_trust_ratio': False,
  },
  'adamw': {'weight_decay': 1e-4},
  'sgd': {'weight_decay': 1e-4, 'momentum': 0.9},
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
      'crop': {'area': (0.08, 1.0), 'ratio': (3 / 4, 4 / 3)},
      'flip': {'probability': 0.5},
      'jitter': {
        'probability': 0.8,
        'brightness': 0.4,
        'contrast': 0.4,
        'saturation': 0.2,
        'hue': 0.1,
      },
      'grayscale': {'probability': 0.2},
      'blur': {'probability': blur_probability, 'sigma': (0.1, 2.0)},
      'solarize': {'probability': solarize_probability, 'threshold': 0.5},
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
      'preset': name,  # source of the rates, named in the log
      'preset_epochs': PRESETS[name][0],
      'preset_batch_size': batch_size,
      'seed': 0,
      'dataset': 'imagenet2012',
      'data_dir': config_dict.placeholder(str),
      'image_size': 224,
      'epochs': float(epochs),
      'batch_size': batch_size,
      'network': {
        'encoder': 'ResNet50',
        'width': 1.0,
        'version': 1,
        'gamma_init': 'ones',
        'stem': 'imagenet',
        # 'same' is the paper's. 'torch' pads both sides alike, so that an
        # export fits an unchanged torchvision or timm network.
        'padding': 'same',
        'projector': (4096, 256),
        'predictor': (4096, 256),
        'bn_decay': 0.9,
        'bn_epsilon': 1e-5,
      },
      # A workdir, an exported encoder or a published checkpoint: the run starts
      # from its weights, both networks and the heads of equal shapes; '': from
      # random ones.
      'init': {'checkpoint': ''},
      'augment': {'view1': view(1.0, 0.0), 'view2': view(0.1, 0.2)},
      'target': {'base_tau': base_tau, 'schedule': 'cosine'},
      'objective': {'name': 'regression'},
      'optimizer': {
        'name': 'lars',
        **OPTIMIZERS['lars'],
        'weight_decay': weight_decay,
      },
      'schedule': {
        'base_rate': base_rate,
        'warmup_epochs': 10.0,
        # Of the run: a longer warm-up is cut to it, as in the shortest
        # published preset, 10 of 40 epochs.
        'max_warmup_share': 0.25,
        'scale_with_batch': True,
      },
      'data': {
        'holdout': 'paper',
        'heldout_share': 0.1,
        'eval_crop': 'resize',
        # 'once': an image is decoded once for both views; 'crops': each view's
        # window on its own.
        'decoding': 'once',
        # 'uint8' sends a quarter of the bytes, rounded to 1/255.
        'transfer': 'float32',
        # Keeps the set on the devices and makes its views there, without
        # TensorFlow, for sets that fit. Pixels differ in their last bits; the
        # two keys above are ignored.
        'resident': False,
      },
      # The keys below may differ when a run resumes. They do not change the
      # result, except steps_per_call and what follows a step not finite.
      'input': {
        'threads': 0,  # 0: one per core
        # 'none', 'encoded' or 'decoded': keeps the whole set in memory, up to
        # cache_gib (0: four fifths of the free memory).
        'cache': 'none',
        'cache_gib': 0.0,
        # More unusable images than max(10, this share) stop the run.
        'max_bad_share': 0.001,
        'resident_gib': 8.0,  # on each device, for a resident set
        # Most steps per device call of a resident set. 0: 25, on a CPU 1,
        # where compiled loops are slow. Changes the last bits of the result.
        'steps_per_call': 0,
      },
      'checkpoint': {
        'every_steps': 1000,
        'every_minutes': 10.0,
        'keep': 3,
        # A folder or gs://BUCKET/RUN; '' is a folder in the workdir.
        'folder': '',
      },
      'faults': {
        # More than max_skips steps in a row that are not finite: back to the
        # last checkpoint, with other images, at most max_rollbacks times.
        'max_skips': 10,
        'max_rollbacks': 2,
        # A run ends after this time without images, or 1.1 times this time
        # without a step; 0: never.
        'stall_seconds': 600.0,
      },
      'log': {'every_steps': 50, 'tensorboard': True},
      # kNN accuracy on the test set after each multiple of these steps and the
      # last, in the process that trains; 0: never.
      'eval': {'knn_every_steps': 0},
    }
  )

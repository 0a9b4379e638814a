"""Linear classifier on a frozen encoder: `--config=evals/linear.py`.

    byol-jax linear --workdir=DIR [--config=evals/linear.py:NAME]

The default, `paper`, is the paper's (appendix C.1; method.md 5.1): 74.3 % top-1
for ResNet-50 after 1,000 epochs. Each of the 80 epochs is one forward pass over
the training split for all rates together.

The variants of the paper's table 7 (method.md 6.3), for the same network:
`pretrain_aug`, the augmentations of the pretraining, 74.4 %; `regularised`,
clipped logits and a penalty on their size, 74.7 %; `both`, 74.8 %.

`places365` is the paper's, on Places365 (appendix E): 53.2 % top-1 after
pretraining on it. The paper names no hold-out of this set: a share of
`data.heldout_share` of the training images chooses the rate.

`cpu` is not the paper's: after one forward pass over centre crops the
classifiers train on the stored features, in seconds for small sets. Features
of small networks are small, so its rates are higher.

`cpu` was run on encoders of the small presets, on CPUs (docs/results.md); the
others were run by tests only, on tiny networks.
"""

from ml_collections import config_dict

from configs.evals import knn

_AUGMENTED = {'augmentation': 'pretraining'}
_REGULARISED = {'logit_clip': 20.0, 'logit_penalty': 0.01}
VARIANTS = {
  'paper': {},
  'pretrain_aug': _AUGMENTED,
  'regularised': _REGULARISED,
  'both': _AUGMENTED | _REGULARISED,
  'places365': {'dataset': 'places365_small'},
  'cpu': {
    'batch_size': 256,
    'epochs': 50.0,
    'rates': (30.0, 10.0, 3.0, 1.0, 0.3, 0.1),
    'features': 'cached',
  },
}


def get_config(name: str = 'paper') -> config_dict.ConfigDict:
  """Returns the configuration of the verb `linear`, a key of `VARIANTS`."""
  if name not in VARIANTS:
    raise ValueError(
      f'unknown argument {name!r}: expected one of {list(VARIANTS)}'
    )
  config = config_dict.ConfigDict(
    {
      **knn.make_common(),
      'batch_size': 1024,  # images of a step, of all devices together
      'epochs': 80.0,  # passes over the training images
      # Base learning rates, trained side by side; each is multiplied by
      # batch_size / 256. The best on held-out images is reported.
      'rates': (0.4, 0.3, 0.2, 0.1, 0.05),
      'momentum': 0.9,  # momentum of SGD, Nesterov's
      # Limit of the logits: alpha of alpha * tanh(logits / alpha); 0: none.
      'logit_clip': 0.0,
      # This times the mean square of the (clipped) logits, added to the loss.
      'logit_penalty': 0.0,
      # 'augmented': a random crop and flip at each step; 'cached': features of
      # centre crops, computed once.
      'features': 'augmented',
      # 'crop_flip', or 'pretraining': all that view 1 of the pretraining has.
      'augmentation': 'crop_flip',
    }
  )
  config.update(VARIANTS[name])
  return config

"""Fine-tuning of the whole encoder: `--config=evals/finetune.py`.

    byol-jax finetune --workdir=DIR [--config=evals/finetune.py:cpu]

`paper` is the protocol for all labels of ImageNet (appendix C.1; method.md
5.2): 77.7 % top-1 for ResNet-50 after 1,000 epochs. `transfer` is that for
other sets (appendix D.3; method.md 5.5): 56 trainings of 20,000 steps. What
the paper leaves open is in docs/faithfulness.md.

`supervised` is the paper's baseline with labels (tables 1 and 9, appendix C.2;
method.md 5.1): from random weights, 200 epochs with 5 of warm-up, label
smoothing and weight decay 1e-4; 76.4 % top-1 for ResNet-50. The paper does not
give the rate; its RandAugment is left out.

`cpu` is not the paper's: a small grid, for minutes on a small set. Was run on
an encoder of `cifar10:cpu`, on CPUs: 58.9 % (docs/results.md); `paper`,
`transfer` and `supervised` were not run.
"""

from ml_collections import config_dict

from configs.evals import knn

VARIANTS = ('paper', 'transfer', 'supervised', 'cpu')


def get_config(name: str = 'paper') -> config_dict.ConfigDict:
  """Returns the configuration of the verb `finetune`, of `VARIANTS`."""
  if name not in VARIANTS:
    raise ValueError(f'unknown argument {name!r}: expected one of {VARIANTS}')
  config = config_dict.ConfigDict(
    {
      **knn.make_common(),
      # Where it starts: the 'online' or the 'target' network; as the run began,
      # 'random', which trains from scratch; or this with batch-norm averages,
      # which batch_norm='frozen' needs, 'random_calibrated'.
      'weights': 'online',
      'batch_size': 1024,  # images of a step, of all devices together
      # Base learning rates, each multiplied by batch_size / 256. The grid is
      # every rate with every weight decay and every length; its best point on
      # held-out images is reported.
      'rates': (0.005, 0.01, 0.02, 0.05, 0.1),
      # Weight decays, divided by the rate, so that a plain step at the peak
      # rate shrinks each kernel by this share of itself.
      'weight_decays': (0.0,),
      'lengths': (30.0, 50.0),  # lengths of the trainings, see length_unit
      'length_unit': 'epochs',  # unit of `lengths`
      'momentum': 0.9,  # momentum of SGD, Nesterov's
      # The encoder's rate as a multiple of the classifier's.
      'encoder_rate': 1.0,
      # Statistics of the batch of each device, 'local', or of all devices,
      # 'cross_replica'; 'frozen': moving averages, which are not updated.
      'batch_norm': 'cross_replica',
      # Share of the old moving averages that a step keeps; 0: max(1 - 10 /
      # steps per epoch, 0.9).
      'bn_decay': 0.9,
      # Share of the steps in which the rate rises from 0; then it falls to 0 by
      # a cosine.
      'warmup_share': 0.0,
      # Share of each target that all classes have alike.
      'label_smoothing': 0.0,
      # The accuracy that selects on the held-out images.
      'metric': 'top1',
      # Whether the selected point is trained again, on fit and valid.
      'refit': False,
    }
  )
  if name == 'transfer':
    config.update(
      {
        'batch_size': 256,
        'rates': tuple(10 ** (i / 2 - 4) for i in range(7)),
        'weight_decays': (0.0, *(10 ** (i / 2 - 6) for i in range(7))),
        'lengths': (20_000.0,),
        'length_unit': 'steps',
        'bn_decay': 0.0,
        'refit': True,
      }
    )
  if name == 'supervised':
    config.update(
      {
        'weights': 'random',
        'rates': (0.1,),
        'weight_decays': (4e-5,),  # 1e-4 times the peak rate, 0.4
        'lengths': (200.0,),
        'warmup_share': 5 / 200,
        'label_smoothing': 0.1,
      }
    )
  if name == 'cpu':
    config.update(
      {
        'batch_size': 64,
        'rates': (0.3, 1.0, 3.0),
        'lengths': (1000.0,),
        'length_unit': 'steps',
      }
    )
  return config

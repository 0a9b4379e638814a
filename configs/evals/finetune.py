"""Fine-tuning of the whole encoder: `--config=evals/finetune.py`.

    byol-jax finetune --workdir=DIR [--config=evals/finetune.py:cpu]

`paper` is the protocol for all labels of ImageNet (appendix C.1; method.md
5.2): 77.7 % top-1 for ResNet-50 after 1,000 epochs. `transfer` is that for
other sets (appendix D.3; method.md 5.5): 56 trainings of 20,000 steps. What
the paper leaves open is in docs/faithfulness.md.

`cpu` is not the paper's: a small grid, for minutes on a small set. Was run on
an encoder of `cifar10:cpu`, on CPUs: 58.9 % (docs/results.md); `paper` and
`transfer` were not run.
"""

from ml_collections import config_dict

VARIANTS = ('paper', 'transfer', 'cpu')


def get_config(name: str = 'paper') -> config_dict.ConfigDict:
  """Returns the configuration of the verb `finetune`, of `VARIANTS`."""
  if name not in VARIANTS:
    raise ValueError(f'unknown argument {name!r}: expected one of {VARIANTS}')
  config = config_dict.ConfigDict(
    {
      # Default: the set of the pretraining.
      'dataset': config_dict.placeholder(str),
      'data_dir': config_dict.placeholder(str),
      # Where it starts: 'online', 'target'; 'random' trains from scratch.
      'weights': 'online',
      'calibration_batches': 50,
      'seed': 0,
      'batch_size': 1024,
      # The grid: every rate with every weight decay and every length. Base
      # rates; each is multiplied by batch_size / 256.
      'rates': (0.005, 0.01, 0.02, 0.05, 0.1),
      # Divided by the rate, so that a plain step at the peak rate shrinks each
      # kernel by this share of itself.
      'weight_decays': (0.0,),
      'lengths': (30.0, 50.0),
      # Of the lengths: 'epochs' or 'steps'.
      'length_unit': 'epochs',
      'momentum': 0.9,
      # The encoder's rate as a multiple of the classifier's.
      'encoder_rate': 1.0,
      # Statistics of the batch of each device, 'local', or of all devices,
      # 'cross_replica'; 'frozen': moving averages, which are not updated.
      'batch_norm': 'cross_replica',
      # Of the moving averages; 0: max(1 - 10 / steps per epoch, 0.9).
      'bn_decay': 0.9,
      # What selects on the held-out images: 'top1' or 'mean_per_class'.
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

"""Accuracy of a fine-tuned encoder (paper, appendices C.1 and D.3).

Every point of a grid (learning rate, weight decay, length) trains the encoder
with a new classifier on `fit`, the part of the training split that is not held
out. The point with the best accuracy on the held-out `valid` is evaluated on
`test`, once; before that it may be trained anew on `fit` and `valid` together
(method.md 5.2, 5.5). Before the training, images of `test` are only compared
with those of `valid`.
"""

from collections.abc import Callable, Mapping
import dataclasses
import itertools
from typing import Any, NamedTuple

from byol_jax import errors, schedules
from byol_jax.distributed import placement
from byol_jax.evals import features, headlines, splits, supervised, tuning


@dataclasses.dataclass(frozen=True)
class GridOptions:
  """Options of a search."""

  seed: int
  batch_size: int
  rates: tuple[float, ...]
  weight_decays: tuple[float, ...]
  lengths: tuple[float, ...]
  length_unit: str
  momentum: float
  encoder_rate: float
  batch_norm: str
  bn_decay: float
  warmup_share: float
  label_smoothing: float
  metric: str


@dataclasses.dataclass(frozen=True)
class Options(GridOptions):
  refit: bool


class Point(NamedTuple):
  """A point of the grid."""

  rate: float  # at batch size 256
  weight_decay: float  # times the rate: what a kernel loses per step
  length: float  # in `Options.length_unit`


# Called with parameters and batch-norm averages, the classifier among them.
Save = Callable[[Any, Any], None]


def measure_accuracy(
  options: Options,
  encoder: features.Encoder,
  load: splits.Load,
  train: Callable,
  log: Callable[[str], None] = lambda text: None,
  save: Save = lambda params, net_state: None,
) -> dict[str, Any]:
  """Trains every point of the grid, selects one and tests it.

  Opens 'fit', 'valid', 'test' and 'fit+valid'; calls `save` with the network
  that was tested.

  Returns:
    Of the selected point `rate`, `weight_decay` and `length`; on test `top1`,
    `top5` of more than five classes, and `mean_per_class`, in [0, 1]; its
    `valid_top1`, `fit_loss` and `steps`; `grid`, with the same of each point;
    `refit`; `fit`, `valid` and `test` (images), `num_classes`.
  """
  named, num_classes = splits.open_splits(load, ('fit', 'valid', 'test'))
  tuner = Tuner(options, encoder, num_classes, train, log)
  tuner.check_test(named)
  best, state, results = tuner.search(named['fit'], named['valid'])
  trained_on = named['fit']
  if options.refit:
    trained_on = load('fit+valid')
    log(f'training {tuner.describe(best)} on fit and valid')
    state, _ = tuner.train(best, trained_on, 'refit')
  scores = tuner.test(state, trained_on, named['test'], 'test')
  save(state.params, state.net_state)
  return (
    scores
    | results
    | {
      'refit': options.refit,
      **{name: split.num_examples for name, split in named.items()},
      'num_classes': num_classes,
    }
  )


def list_headlines(results: dict[str, Any]) -> list[headlines.Headline]:
  """Returns the accuracies on test."""
  return headlines.list_accuracies('fine-tuned', results, results['test'])


class Tuner:
  """Trains an encoder with a classifier at the points of a grid.

  Raises:
    ConfigError: a value that cannot be used.
  """

  def __init__(
    self,
    options: GridOptions,
    encoder: features.Encoder,
    num_classes: int,
    train: Callable,
    log: Callable[[str], None],
  ) -> None:
    placement.check_batch_size('batch_size', options.batch_size)
    assert encoder.network is not None
    if options.batch_norm == 'frozen' and not tuning.has_averages(
      encoder.state
    ):
      raise errors.ConfigError(
        f"batch_norm: 'frozen' needs averages, which {encoder.name} weights"
        ' do not have: they have seen no batch; expected cross_replica or'
        ' local, or --config.weights=random_calibrated'
      )
    self._options = options
    self._encoder = encoder
    self._num_classes = num_classes
    self._train = train
    self._log = log
    self._trainers: dict[float, tuning.Trainer] = {}  # by bn_decay

  def check_test(self, named: Mapping[str, splits.Split]) -> None:
    """Raises DataError if 'test' and 'valid' have images in common.

    Before the training, which would be lost; see `splits.check_test`.
    """
    valid, test = (
      splits.encode_split(
        self._encoder, named, self._options.batch_size, self._log, name
      )
      for name in ('valid', 'test')
    )
    splits.check_test(test, {'valid': valid}, self._num_classes, self._log)

  def search(
    self, fit: splits.Split, valid: splits.Split, prefix: str = ''
  ) -> tuple[Point, supervised.TrainState, dict[str, Any]]:
    """Trains every point on `fit`; returns the best on `valid`, and results.

    Of equal points the first: the lowest rate, decay, length. `prefix` begins
    the names of the trainings.

    Raises:
      DivergedError: no point has finite losses.
    """
    options, log = self._options, self._log
    grid = [
      Point(*values)
      for values in itertools.product(
        *map(sorted, (options.rates, options.weight_decays, options.lengths))
      )
    ]
    found, best, last = [], None, None
    for number, point in enumerate(grid, 1):
      name = prefix + self.describe(point)
      result = {**point._asdict(), 'steps': self.count_steps(point, fit)}
      try:
        state, result['fit_loss'] = self.train(point, fit, name)
        scores = self.test(state, fit, valid, 'valid')
      except errors.DivergedError as error:
        log(f'{errors.first_line(error)}; point {number} of {len(grid)} is out')
        found.append(result | {'diverged': True})
        continue
      result |= {f'valid_{key}': value for key, value in scores.items()}
      found.append(result)
      value = result[f'valid_{options.metric}']
      log(f'{name}: {100 * value:.1f} % on valid, {number} of {len(grid)}')
      if best is None or value > best[1][f'valid_{options.metric}']:
        best, last = (point, result), state
    if best is None or last is None:
      raise errors.DivergedError(
        f'the losses of all {len(grid)} points of the grid are not finite;'
        ' lower --config.rates'
      )
    log(f'{prefix}{self.describe(best[0])} is best on valid')
    return best[0], last, best[1] | {'grid': found}

  def train(
    self, point: Point, split: splits.Split, name: str
  ) -> tuple[supervised.TrainState, float]:
    """Trains one point; returns its last state and its last loss."""
    options = self._options
    peak = point.rate * options.batch_size / 256
    trainer = self._find_trainer(split)
    state = tuning.init_state(
      trainer,
      self._encoder,
      self._num_classes,
      options.seed,
      rate=peak,
      weight_decay=point.weight_decay / peak,
      num_steps=self.count_steps(point, split),
    )
    what = trainer, state, split, options.batch_size
    return tuning.train_classifier(*what, self._train, name, self._log)

  def test(
    self,
    state: supervised.TrainState,
    trained_on: splits.Split,
    split: splits.Split,
    name: str,
  ) -> dict[str, float]:
    """Returns `tuning.compute_scores` of a split."""
    trainer, size = self._find_trainer(trained_on), self._options.batch_size
    found = tuning.encode_split(trainer, state, split, size, name)
    return tuning.compute_scores(state.params[tuning.CLASSIFIER], found)

  def count_steps(self, point: Point, split: splits.Split) -> int:
    """Returns the steps of a training; ConfigError if there are none."""
    options, images = self._options, split.num_examples
    if options.length_unit == 'steps':
      return max(1, round(point.length))
    steps = schedules.count_steps(point.length, images, options.batch_size)
    if steps < 1:
      raise errors.ConfigError(
        f'lengths: {point.length:g} epochs of {images} images make no step of'
        f' batch_size {options.batch_size}; raise lengths or lower batch_size'
      )
    return steps

  def describe(self, point: Point) -> str:
    """Returns e.g. 'rate 0.1, weight decay 1e-05, 30 epochs'."""
    decay = f', weight decay {point.weight_decay:g}'
    return (
      f'rate {point.rate:g}{decay if any(self._options.weight_decays) else ""},'
      f' {point.length:g} {self._options.length_unit}'
    )

  def _find_trainer(self, split: splits.Split) -> tuning.Trainer:
    options = self._options
    decay = options.bn_decay or tuning.compute_bn_decay(
      split.num_examples, options.batch_size
    )
    if decay not in self._trainers:
      self._trainers[decay] = tuning.make_trainer(
        self._encoder.network or {},
        batch_norm=options.batch_norm,
        bn_decay=decay,
        momentum=options.momentum,
        encoder_rate=options.encoder_rate,
        warmup_share=options.warmup_share,
        label_smoothing=options.label_smoothing,
      )
    return self._trainers[decay]

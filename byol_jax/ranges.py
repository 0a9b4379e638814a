"""Which values each key of a configuration may have.

Only light packages are imported: names of encoders, objectives and optimizers
are repeated here, and a test compares them with the tables of the method.
"""

from collections.abc import Mapping, Sequence
import difflib
import re
from typing import Any

from byol_jax import errors, files

# Interval -> the keys whose number, or numbers in a tuple, must lie in it. Keys
# of a view are given without `augment.view1.`. The ends beyond use only keep
# away numbers that another library cannot take.
_RANGES = {
  '[0, 1)': """
    network.bn_decay bn_decay optimizer.momentum momentum
    data.heldout_share warmup_share label_smoothing""",
  '[0, 1]': """
    target.base_tau schedule.max_warmup_share input.max_bad_share
    flip.probability jitter.probability jitter.brightness jitter.contrast
    jitter.saturation grayscale.probability blur.probability
    solarize.probability solarize.threshold weight_decays""",
  '[0, 0.5]': 'jitter.hue',
  '(0, 1]': """
    crop.area network.bn_epsilon optimizer.trust_coefficient fractions""",
  '[0.01, 100]': 'crop.ratio blur.sigma temperatures',
  '[0.125, 16]': 'network.width',
  '[0, 10]': 'optimizer.weight_decay encoder_rate logit_penalty',
  '[0, 1e4]': 'logit_clip',
  '(0, 1e5]': 'rates',
  '[0, 1e5]': """
    epochs preset_epochs schedule.base_rate schedule.warmup_epochs""",
  '[0, 1000]': """
    schedule.predictor_rate schedule.projector_rate
    objective.negatives_weight""",
  '[0.001, 1000]': 'objective.temperature network.init_scale',
  '[1e-6, 1]': 'objective.ridge',
  '(0, 1e6]': 'input.resident_gib',
  '(0, 1e9]': 'min_lambda max_lambda lengths',
  '[-1e9, 1e9]': 'data.grey_range',
  '[1, 1e5]': 'num_lambdas max_iterations',
  '[0, 1e6]': """
    input.cache_gib faults.max_skips faults.max_rollbacks faults.stall_seconds
    log.every_seconds
    checkpoint.every_minutes""",
  '[0, 4096]': 'input.threads input.steps_per_call network.bn_group',
  '[0, 1e9]': 'steps checkpoint.every_steps eval.knn_every_steps',
  '[1, 1e9]': 'log.every_steps',
  '[1, 1e6]': 'checkpoint.keep ks calibration_batches',
  '[1, 65536]': 'network.projector network.predictor batch.accumulate',
  '[2, 131072]': 'batch_size preset_batch_size',
  '[8, 4096]': 'image_size',
  f'[0, {2**32})': 'seed',
}
RANGE_OF = {k: span for span, keys in _RANGES.items() for k in keys.split()}
# Tuples whose numbers differ in six digits: by these results and trainings are
# named.
_DISTINCT = (
  *('ks', 'temperatures', 'rates', 'weight_decays', 'lengths', 'fractions'),
)
# Tuple -> its least and its greatest length; pairs are a lower and an upper
# bound.
_LENGTHS = {
  **{'crop.area': (2, 2), 'crop.ratio': (2, 2), 'blur.sigma': (2, 2)},
  **{'data.grey_range': (2, 2)},
  **{'network.projector': (0, 3), 'network.predictor': (0, 3)},
  **dict.fromkeys(_DISTINCT, (1, 64)),
}
# A key of numbers -> the words that it takes too.
WORDS: dict[str, tuple[str, ...]] = {'steps': ('auto',)}
# A key -> another one, and its value when only the key is given.
EXCLUSIVE = {'epochs': ('steps', 0), 'steps': ('epochs', 0.0)}
# Encoder -> channels of its representation at width 1.
CHANNELS = {
  **{'ResNet18': 512, 'ResNet34': 512, 'ResNet50': 2048, 'ResNet101': 2048},
  **{'ResNet152': 2048, 'ResNet200': 2048, 'TinyResNet': 8, 'MiniResNet': 64},
}
CHOICES = {
  'precision': ('float32', 'bfloat16'),
  'network.encoder': tuple(CHANNELS),
  'network.version': (1, 2),
  'network.gamma_init': ('ones', 'zeros'),
  'network.stem': ('imagenet', 'small', 'small_stride2'),
  'network.padding': ('same', 'torch'),
  'network.head_norm': ('batch', 'none', 'layer', 'group'),
  'target.parameters': ('average', 'online_stopped', 'online'),
  'target.start': ('random', 'online'),
  'target.schedule': ('cosine', 'constant'),
  'objective.name': ('regression', 'info_nce', 'optimal_linear'),
  'objective.normalization': ('l2', 'layer_norm', 'batch_norm', 'none'),
  'optimizer.name': ('lars', 'adamw', 'sgd'),
  'faults.collapse': ('warn', 'stop', 'ignore'),
  'data.holdout': ('paper', 'official'),
  **dict.fromkeys(('data.eval_crop', 'eval_crop'), ('resize', 'crop', 'whole')),
  'data.labels': ('auto', 'folders', 'none'),
  'labels': ('pretraining', 'auto', 'folders', 'none'),
  'data.decoding': ('once', 'crops'),
  'data.exif': ('auto', 'apply', 'ignore'),
  'data.background': ('white', 'black', 'drop'),
  'data.transfer': ('float32', 'uint8'),
  'input.engine': ('auto', 'tensorflow', 'threads'),
  'input.cache': ('none', 'encoded', 'decoded'),
  'features': ('augmented', 'cached'),
  'augmentation': ('crop_flip', 'pretraining'),
  'length_unit': ('epochs', 'steps'),
  'batch_norm': ('local', 'cross_replica', 'frozen'),
  'metric': ('top1', 'mean_per_class'),
  'lists': ('published', 'own'),
  'weights': ('online', 'target', 'random', 'random_calibrated'),
}
# Paths or names; None, or '', is the default.
_PATHS = (
  'dataset',
  'datasets',
  'data_dir',
  'pretrained_on',
  'init.checkpoint',
  'checkpoint.folder',
)
_TEXTS = ('preset', 'protocols')
# A view, or a protocol of evaluation.
_SECTION = re.compile(
  r'^(augment\.view\d|knn|online|linear|transfer|semisup|finetune)\.'
)


def check_values(values: Mapping[str, Any]) -> None:
  """Checks the values of a configuration, {'section.key': value}.

  A value out of its range would fail late, in the words of another library, or
  not at all. Keys that are not in the tables are ignored.

  Raises:
    ConfigError: names the key, what it expects and the value.
  """
  for key, value in values.items():
    if value not in WORDS.get(key, ()) and not _fits(get_rule(key), value):
      expected = describe_values(key)
      raise errors.ConfigError(
        f'{key}: expected {expected}, found {errors.quote(value)}'
      )
  _check_combinations(values)


def find_near_keys(key: str, known: Sequence[str]) -> list[str]:
  """Returns at most three keys or sections that may have been meant."""
  last = key.rpartition('.')[2]
  near = difflib.get_close_matches(key, known, cutoff=0.85)
  parts = [name.split('.') for name in known]
  names = ['.'.join(x[:i]) for i in range(1, 5) for x in parts]
  last_parts = {name: name.rpartition('.')[2] for name in names}
  for part in difflib.get_close_matches(
    last, dict.fromkeys(last_parts.values()), cutoff=0.7
  ):
    near += [name for name in last_parts if last_parts[name] == part]
  if len(last) > 3:
    near += [name for name in last_parts if last in last_parts[name]]
  return [*dict.fromkeys(near)][:3]


def describe_unknown(key: str, known: Sequence[str], prefix: str) -> str:
  """Returns the message for a key that a configuration does not have."""
  shown = key if re.fullmatch(r'[\w.]{1,99}', key) else errors.quote(key)
  section = key.rpartition('.')[0]
  inside = [name for name in known if name.startswith(f'{key}.')]
  beside = [name for name in known if name.startswith(f'{section}.')]
  if inside:
    problem, names = 'is a section; keys', inside
  elif near := find_near_keys(key, known):
    problem, names = 'no such key; nearest', near
  elif beside:
    problem, names = f'no such key; keys of {section}', beside
  else:
    listed = ', '.join(dict.fromkeys(name.partition('.')[0] for name in known))
    return f'{prefix}{shown}: no such key; keys and sections: {listed}'
  listed = ', '.join(f'{prefix}{name}' for name in names)
  return f'{prefix}{shown}: {problem}: {listed}'


def get_rule(key: str) -> str:
  """Returns the key by which the tables know a key."""
  return _SECTION.sub('', key)


def describe_values(key: str) -> str:
  """Returns what values a key may have, '' of one that no table has."""
  rule = get_rule(key)
  if rule in CHOICES:
    return f'one of {[*CHOICES[rule]]}'
  if rule in RANGE_OF:
    return ' or '.join((_describe_range(rule), *WORDS.get(key, ())))
  if rule in _PATHS:
    return files.EXPECTED_PATH
  return 'at most 100 printable characters' if rule in _TEXTS else ''


def _fits(rule: str, value: Any) -> bool:
  if rule in CHOICES:
    return value in CHOICES[rule]
  if rule in RANGE_OF:
    return _is_in_range(rule, value)
  if rule in _PATHS:
    return value in (None, '') or files.is_path(value)
  return rule not in _TEXTS or _is_text(value)


def _check_combinations(values: Mapping[str, Any]) -> None:
  """Raises ConfigError for values that do not go together."""
  if 'steps' in values and bool(values['steps']) == bool(values['epochs']):
    raise errors.ConfigError(
      'epochs, steps: expected one of them and 0 for the other, found epochs'
      f' {values["epochs"]:g} and steps {values["steps"]}'
    )
  if 'network.projector' in values:
    _check_heads(values)
  least, greatest = (values.get(f'{x}_lambda', 1) for x in ('min', 'max'))
  if least > greatest:
    raise errors.ConfigError(
      f'min_lambda: expected at most max_lambda, {greatest:g}, found {least:g}'
    )
  for key in ('augment.view1.crop', 'augment.view2.crop'):
    if key in values and values['data.resident']:  # it is None, else a section
      raise errors.ConfigError(
        f'{key}: expected a random crop with data.resident, found none'
      )
  engine = values.get('input.engine', 'auto')
  if engine == 'threads' and values['data.decoding'] != 'once':
    raise errors.ConfigError(
      "input.engine: 'threads' needs data.decoding='once', found"
      f' {values["data.decoding"]!r}'
    )
  cache = values.get('input.cache', 'none')
  if cache != 'none' and values['data.resident']:
    raise errors.ConfigError(
      f"input.cache: expected 'none' with data.resident, found {cache!r}"
    )
  if cache == 'decoded' and values['data.decoding'] != 'once':
    raise errors.ConfigError(
      "input.cache: 'decoded' needs data.decoding='once', found"
      f' {values["data.decoding"]!r}'
    )


def find_projection_width(
  encoder: str, width: float, projector: Sequence[int]
) -> int:
  """Returns the width of projections, without a projector the encoder's."""
  return (max(1, round(CHANNELS[encoder] * width)), *projector)[-1]


def _check_heads(values: Mapping[str, Any]) -> None:
  """Raises ConfigError for widths of the heads that do not fit."""
  projector, predictor = (
    values[f'network.{head}'] for head in ('projector', 'predictor')
  )
  last = find_projection_width(
    values['network.encoder'], values['network.width'], projector
  )
  if predictor and predictor[-1] != last:
    predicted = 'network.projector' if projector else 'the representation'
    raise errors.ConfigError(
      f'network.predictor: its last width {predictor[-1]} must be that of'
      f' {predicted}, {last}, which it predicts'
    )
  hidden = (*projector[:-1], *predictor[:-1])
  if values['network.head_norm'] == 'group' and any(x % 32 for x in hidden):
    raise errors.ConfigError(
      "network.head_norm: 'group' needs hidden widths of network.projector and"
      f' network.predictor that 32 divides, found {errors.quote(hidden)}'
    )


def _describe_range(rule: str) -> str:
  numbers = 'a number'
  if rule in _LENGTHS:
    few, many = _LENGTHS[rule]
    numbers = 'two rising' if few == many else f'{few} to {many}'
    numbers += ' numbers'
    numbers += ' that differ in six digits' if rule in _DISTINCT else ''
  return f'{numbers} in {RANGE_OF[rule]}'


def _is_in_range(rule: str, value: Any) -> bool:
  if rule not in _LENGTHS:
    return _is_in_interval(RANGE_OF[rule], value)
  few, many = _LENGTHS[rule]
  return (
    isinstance(value, list | tuple)
    and few <= len(value) <= many
    and all(_is_in_interval(RANGE_OF[rule], x) for x in value)
    and (rule not in _DISTINCT or len(value) == len({f'{x:g}' for x in value}))
    and (few < many or value[0] <= value[1])
  )


def _is_in_interval(interval: str, value: Any) -> bool:
  if not isinstance(value, int | float):
    return False
  low, high = map(float, interval[1:-1].split(','))
  # Written so that NaN is in no interval.
  above = value >= low if interval[0] == '[' else value > low
  return above and (value <= high if interval[-1] == ']' else value < high)


def _is_text(value: Any) -> bool:
  return isinstance(value, str) and len(value) <= 100 and value.isprintable()

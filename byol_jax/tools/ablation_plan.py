"""Which runs a table of ablations takes on a base, and their configurations."""

from collections.abc import Mapping, Sequence
import functools
import hashlib
import json
import pathlib
from typing import Any, NamedTuple

from ml_collections import config_dict

from byol_jax import configuration, errors, ranges
from byol_jax.training import old_values, provenance, workdir

BASELINE = 'ablations/baseline'
# A row is a change of BYOL: a base has the paper's values of these.
_OF_BYOL = (
  *('objective.name', 'objective.normalization', 'objective.symmetric'),
  *('target.parameters', 'target.start'),
)
_DIGITS = 12  # of the digest in the name of a workdir


class Plan(NamedTuple):
  """What to run: the rows of a table on a base."""

  table: str  # as in configs/ablations/
  rows: Mapping[str, Any]  # name -> configs.ablations.baseline.Row
  base: str  # a preset
  overrides: Sequence[str]  # of the base, as on the command line
  seeds: int  # as many, from that of the base on
  evaluations: Mapping[str, str]  # protocol -> preset, of `knn` and `linear`


class Trial(NamedTuple):
  """A row with a seed."""

  row: str
  seed: int
  config: config_dict.ConfigDict
  folder: pathlib.Path  # the workdir of its run


def make_config(
  base: str, overrides: Sequence[str], changes: Mapping[str, Any]
) -> config_dict.ConfigDict:
  """Returns a base with a row's changes.

  Args:
    base: a preset.
    overrides: of it, as on the command line.
    changes: of the row, to the paper's setting; see `scale_changes`.

  Raises:
    ConfigError: a value cannot be used with this base.
  """
  values = scale_changes(changes, _load(base, tuple(overrides)))
  words = [f'--config.{key}={value}' for key, value in values.items()]
  return configuration.load(base, [*overrides, *words], 'pretrain')


@functools.cache
def _load(spec: str, overrides: tuple[str, ...] = ()) -> config_dict.ConfigDict:
  return configuration.load(spec, overrides, 'pretrain')


def scale_changes(
  changes: Mapping[str, Any], base: config_dict.ConfigDict
) -> dict[str, Any]:
  """Returns what a row changes in a base, {'section.key': value}.

  The learning rate, the weight decay, 1 - tau and the widths of the heads are
  to the base as the row's are to the paper's setting; all else is the row's.
  """
  paper = _load(BASELINE)
  values = dict(changes)
  for key, value in changes.items():
    section, _, name = key.partition('.')
    own, usual = base[section].get(name), paper[section].get(name)
    if key in ('schedule.base_rate', 'optimizer.weight_decay'):
      values[key] = own * (value / usual)  # exactly `own` for the usual value
    elif key == 'target.base_tau':
      share = (1 - value) * (1 - own) / (1 - usual)
      values[key] = max(0.0, round(1 - share, 9))
    elif key in ('network.projector', 'network.predictor') and own:
      widths = [width * own[0] // usual[0] for width in value[:-1]]
      widths += [width * own[-1] // usual[-1] for width in value[-1:]]
      values[key] = tuple(max(1, width) for width in widths)
  if values.get('network.projector') == ():  # the representation is predicted
    channels = ranges.CHANNELS[base.network.encoder]
    size = max(1, round(channels * base.network.width))
    values['network.predictor'] = (*values['network.predictor'][:-1], size)
  return values


def list_trials(plan: Plan, folder: pathlib.Path) -> list[Trial]:
  """Returns every row with every seed, seed by seed.

  Trials of the same configuration have the same workdir, whose name is that of
  the first of them in any table.

  Raises:
    ConfigError: see `make_config`.
  """
  _check_base(plan)
  first = _load(plan.base, tuple(plan.overrides)).seed
  names = {path.name[-_DIGITS:]: path.name for path in folder.glob('*-seed*')}
  trials = []
  for seed in range(first, first + plan.seeds):
    overrides = [*plan.overrides, f'--config.seed={seed}']
    for row, (_, changes, *_) in plan.rows.items():
      config = make_config(plan.base, overrides, changes)
      key = digest(list_changes(config))
      name = names.setdefault(key, f'{plan.table}-{row}-seed{seed}-{key}')
      trials.append(Trial(row, seed, config, folder / name))
  return trials


def _check_base(plan: Plan) -> None:
  """Raises ConfigError for a base that is not BYOL."""
  usual = configuration.flatten(_load(BASELINE))
  base = configuration.flatten(_load(plan.base, tuple(plan.overrides)))
  for key in _OF_BYOL:
    if base[key] != usual[key]:
      raise errors.ConfigError(
        f'base: {errors.quote(plan.base)}: rows are changes of BYOL; expected'
        f' {key}={usual[key]!r}, found {errors.quote(base[key])}; take another'
        ' --base'
      )


def list_changes(config: config_dict.ConfigDict) -> dict[str, Any]:
  """Returns what identifies a run, {'section.key': value}.

  A key that has the value of versions before it is left out, so that a new key
  leaves the runs of before as they are.
  """
  flat = provenance.flatten_config(
    config.to_dict(), workdir.KEYS_THAT_MAY_CHANGE
  )
  old = provenance.flatten_config(old_values.OLD_VALUES)
  return {k: x for k, x in flat.items() if k not in old or x != old[k]}


def digest(values: Any) -> str:
  """Returns the first digits of the SHA-256 of values."""
  text = json.dumps(values, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]

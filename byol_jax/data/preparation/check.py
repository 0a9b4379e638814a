"""Reads all of a set and says what it holds: broken and double files too."""

import argparse
from collections.abc import Mapping, Sequence
import functools
from typing import Any

import tqdm

import byol_jax
from byol_jax import configuration, errors
from byol_jax.data import from_config
from byol_jax.data.loading import threads
from byol_jax.data.preparation import manifest, survey
from byol_jax.data.sources import base, lookup

_NAMED = 5  # in one line; the manifest names all


def run(arguments: argparse.Namespace) -> dict[str, Any]:
  """Checks the set of the verb's arguments; returns the manifest.

  Raises:
    DataError: the set cannot be opened.
    CheckFailed: an image is broken; the manifest is written before.
  """
  config = configuration.load('pretrain')
  where = {'data_dir': arguments.data_dir, **from_config.source_facts(config)}
  whole = lookup.open_source(arguments.dataset, 'all', **where)
  found = survey.splits(arguments.dataset, **where)
  if arguments.split != 'all':
    found = {arguments.split: _one(found, arguments.split)}
  # Before the work, not after: to read all of ImageNet takes long.
  path = manifest.place(whole.fingerprint, arguments.output)
  seen, splits = {}, {}
  for split, source in found.items():
    bar = functools.partial(
      tqdm.tqdm, desc=split, total=len(source), unit=' images', disable=None
    )
    seen[split] = survey.read(source, threads.count(arguments.threads), bar)
    splits[split] = survey.summary(source, seen[split])
    for line in describe(split, splits[split]):
      print(line)
  groups = survey.duplicates(found, seen)
  for line in repeated(groups, list(found)):
    print(line)
  for split in splits:
    splits[split]['duplicates'] = [
      group for group in groups if any(one['split'] == split for one in group)
    ]
  made = {
    'version': byol_jax.__version__,
    'dataset': arguments.dataset,
    'fingerprint': whole.fingerprint,
    'splits': splits,
  }
  manifest.write(path, made)
  print(f'manifest: {path}')
  broken = sum(len(split['broken']) for split in splits.values())
  if broken:
    count = sum(split['num_images'] for split in splits.values())
    raise errors.CheckFailed(
      f'{arguments.dataset}: {broken:,} of {count:,} images are broken; all of'
      f' them: {path}'
    )
  return made


def _one(found: Mapping[str, base.Source], split: str) -> base.Source:
  if split not in found:
    raise errors.ConfigError(
      f'--split={split}: expected one of all, {", ".join(found)}; what is held'
      ' out of train is checked with train'
    )
  return found[split]


def describe(split: str, summary: Mapping[str, Any]) -> list[str]:
  """What is printed of a split."""
  count, size = summary['num_images'], summary['encoded_bytes']
  decoded = len_text(summary['decoded_bytes'])
  rows = [('bytes', f'{len_text(size)}, {len_text(size / count)} an image')]
  rows.append(('decoded', f'{decoded} of pixels'))
  for key in ('shorter_side', 'longer_side'):
    if summary[key]:
      rows.append((key.replace('_', ' '), sides_text(summary[key])))
  kinds = (f'{kind} {n:,}' for kind, n in summary['kinds'].items())
  rows.append(('kinds', ', '.join(kinds) or 'none'))
  rotated = summary['rotated_by_exif']
  if rotated:
    rows.append(('EXIF', f'{rotated:,} ask to be rotated, which we ignore'))
  broken = summary['broken']
  rows.append(('broken', f'{len(broken):,}' if broken else 'none'))
  rows += [('', f'{one["name"]} {one["reason"]}') for one in broken[:_NAMED]]
  if len(broken) > _NAMED:
    rows.append(('', f'and {len(broken) - _NAMED:,} more'))
  return [
    f'{split}: {count:,} images{classes_text(summary["classes"])}',
    *(f'  {label:<13} {text}' for label, text in rows),
  ]


def classes_text(classes: Mapping[str, Any] | None) -> str:
  """The classes of a split, in half a line."""
  if classes is None:
    return ', no labels'
  text = f' of {classes["number"]:,} classes'
  if classes['empty']:
    text += f' ({classes["empty"]:,} of them without any)'
  fewest, most = classes['fewest'], classes['most']
  if fewest['num_images'] == most['num_images']:
    return f'{text}, {most["num_images"]:,} each'
  return (
    f'{text}, {fewest["num_images"]:,} ({fewest["name"]}) to'
    f' {most["num_images"]:,} ({most["name"]}) each'
  )


def sides_text(sides: Mapping[str, float]) -> str:
  """The extremes and the median of a side."""
  if sides['smallest'] == sides['largest']:
    return f'{sides["largest"]:,} pixels, all of them'
  text = '{smallest:,} to {largest:,} pixels, median {median:,g}'
  return text.format(**sides)


def repeated(
  groups: Sequence[Sequence[Mapping[str, str]]], splits: Sequence[str]
) -> list[str]:
  """What is printed of images with the same bytes."""
  lines = []
  for i, first in enumerate(splits):
    for second in splits[i:]:
      members = [[o['split'] for o in group] for group in groups]
      if first == second:
        shared = [g for g, m in zip(groups, members) if m.count(first) > 1]
        what = f'within {first}'
      else:
        shared = [g for g, m in zip(groups, members) if {first, second} <= {*m}]
        what = f'in {first} and in {second}'
      if shared:
        text = ' = '.join(f'{o["split"]} {o["name"]}' for o in shared[0][:3])
        lines.append(
          f'duplicates: {len(shared):,} different files more than once'
          f' {what}: {text}' + (', ...' if len(shared) > 1 else '')
        )
  return lines or ['duplicates: none']


def len_text(count: float) -> str:
  """Bytes in the largest fitting unit, powers of 1,000."""
  for unit in ('B', 'kB', 'MB'):
    if count < 999.5:
      return f'{count:.3g} {unit}'
    count /= 1e3
  return f'{count:,.1f} GB'

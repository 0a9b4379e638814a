"""Writes a set of images as records, and says what to do with them."""

import argparse
from collections.abc import Mapping
import logging
import math
import pathlib
import re
import shlex

from byol_jax import configuration, errors
from byol_jax.data import catalog, from_config
from byol_jax.data.loading import threads
from byol_jax.data.preparation import imagenet, prepare, shrink, survey
from byol_jax.data.sources import base

_LOG = logging.getLogger(__name__)
_NAME = re.compile('[a-z][a-z0-9_]*')


def run(arguments: argparse.Namespace) -> None:
  """Prepares the set of the verb's arguments.

  Raises:
    ConfigError: a value cannot be used.
    DataError: the images cannot be read, or the set cannot be written.
  """
  check(arguments)
  folder = pathlib.Path(arguments.source).expanduser()
  if imagenet.is_one(folder):
    found = imagenet.splits(folder)
  else:
    facts = from_config.source_facts(configuration.load('pretrain'))
    found = survey.splits(arguments.source, data_dir=None, **facts)
  name = arguments.name or name_of(next(iter(found.values())).name)
  if name == imagenet.NAME:
    check_imagenet(found)
  change = None
  if arguments.shorter_side is not None:
    change = shrink.Change(arguments.shorter_side, arguments.quality)
  plan = prepare.Plan(
    folder=pathlib.Path(arguments.output).expanduser(),
    name=name,
    change=change,
    max_bad_share=arguments.max_bad_share,
    num_threads=threads.count(arguments.threads),
  )
  for path in plan.path.parent.glob(f'incomplete.*_{plan.version}'):
    _LOG.warning('%s: left by a job that was killed; remove it', path)
  known = catalog.find_facts(name)
  names = {'valid': 'validation', 'test': known.test_split if known else 'test'}
  splits = {names.get(split, split): found[split] for split in found}
  for split, written in prepare.write(splits, plan).items():
    left_out = len(splits[split]) - written.num_images
    print(
      f'{split}: {written.num_images:,} images, {written.num_bytes:,} bytes in'
      f' {written.num_shards:,} files'
      + (f'; {left_out:,} unusable images left out' if left_out else '')
    )
  print(f'{plan.path}\n\n{command(plan)}')


def check(arguments: argparse.Namespace) -> None:
  """Values that mean nothing are refused before anything is read."""
  for key, lowest, highest in (
    ('shorter_side', 1, math.inf),
    ('quality', 1, 100),
    ('max_bad_share', 0, 1),
    ('threads', 0, math.inf),
  ):
    value = getattr(arguments, key)
    if value is None:
      continue
    if not lowest <= value <= highest:
      limits = f'at least {lowest}'
      if highest < math.inf:
        limits += f', at most {highest}'
      raise errors.ConfigError(f'--{key}: expected {limits}, found {value}')
  if arguments.name and not _NAME.fullmatch(arguments.name):
    raise errors.ConfigError(
      f'--name: expected small letters, digits and _, found {arguments.name!r}'
    )


def check_imagenet(found: Mapping[str, base.Source]) -> None:
  """The name promises ImageNet's classes, order and hold-outs."""
  for split, source in found.items():
    if source.class_names != imagenet.class_names():
      number = len(source.class_names or ())
      raise errors.DataError(
        f'--name={imagenet.NAME}: {split} has {number:,} classes that are not'
        f' the {len(imagenet.class_names()):,} of ImageNet; give another name'
      )


def name_of(set_name: str) -> str:
  """The name of a source as TFDS names sets: 'My Pictures' -> my_pictures."""
  words = set_name.partition('/')[0].removesuffix('.tar').lower()
  name = re.sub('[^a-z0-9]+', '_', words).strip('_')
  if not _NAME.fullmatch(name):
    raise errors.ConfigError(
      f'--name: needed, for {set_name!r} is no name of small letters, digits'
      ' and _ after a letter'
    )
  return name


def command(plan: prepare.Plan) -> str:
  """The command line that trains on what was written."""
  preset = 'pretrain:300' if plan.name == imagenet.NAME else 'imagenette'
  dataset = f'{plan.name}/{plan.config}'.rstrip('/')
  words = (
    *('python', '-m', 'byol_jax', 'pretrain', f'--config={preset}'),
    f'--config.dataset={dataset}',
    f'--config.data_dir={plan.folder.resolve()}',
    f'--workdir=runs/{plan.name}',
  )
  return shlex.join(words)

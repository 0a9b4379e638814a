"""Reads and decodes every image of a set, and reports what it holds.

Bytes are those of the encoded image; decoded bytes are 3 H W, its RGB pixels.
"""

import collections
from collections.abc import Iterator, Mapping, Sequence
import contextlib
import hashlib
import os
from typing import Any, NamedTuple

import numpy as np
import tqdm

from byol_jax import errors, files
from byol_jax.data.loading import bad_images, decode, thread_engine, traits
from byol_jax.data.sources import base, lookup, tfds

_LISTED = 5  # bad images in the text; --output has all


class ImageReport(NamedTuple):
  """What is known of one image; of a broken one, only why and its bytes.

  Attributes:
    label: -1 without one.
    digest: SHA-256 of the bytes.
    num_bytes: of the encoded image.
    kind: 'JPEG', ... or 'pixels'; None for a broken image.
    sides: height and width, pixels.
    traits: of `traits.TRAITS`.
    reason: why it is broken, or None.
  """

  label: int
  digest: bytes
  num_bytes: int
  kind: str | None = None
  sides: tuple[int, int] = (0, 0)
  traits: frozenset[str] = frozenset()
  reason: str | None = None


def open_disjoint_splits(dataset: str, **where: Any) -> dict[str, base.Source]:
  """Opens the splits of a set that share no image: train, valid and test.

  Images held out of train are part of train here; 'valid' is returned only if
  the set has a separate validation split.

  Args:
    dataset: as for `lookup.find_set`.
    where: the other arguments of `lookup.find_set`.

  Raises:
    DataError: the set is missing, or one of its files is.
  """
  line, open_split = lookup.find_set(dataset, least=1, **where)
  # Opens every file: what fails below is a split that the set has not.
  open_split('all')
  print(errors.to_line(line))
  found = {}
  for split in ('train', 'fit', 'valid', 'test'):
    with contextlib.suppress(errors.DataError):
      found[split] = open_split(split)
  fit = found.pop('fit', None)
  if not fit or len(fit) != len(found['train']):  # held out of train
    found.pop('valid', None)
  return found


def check_images(
  dataset: str,
  *,
  data_dir: str | None,
  split: str,
  output: str | None,
  num_threads: int,
  **holdout: Any,
) -> dict[str, Any]:
  """Checks every image of a set and prints a report.

  Args:
    dataset, data_dir: as for `lookup.find_set`.
    split: 'all', or one of `open_disjoint_splits`.
    output: a JSON file for the whole report, or None.
    num_threads: 0 is one for each core.
    holdout: the other arguments of `lookup.find_set`.

  Returns:
    The report: 'dataset', 'splits' (counts, sizes, classes, broken images by
    name) and 'duplicates', groups of images with the same bytes.

  Raises:
    ConfigError: the set has no such split.
    DataError: the set cannot be opened, or the output not be written.
    CheckFailed: an image is broken; the report is written before.
  """
  path = files.expand_home(output) if output else None
  # Before the work: to read all of ImageNet takes long.
  if path and not os.access(path.parent, os.W_OK):
    raise errors.DataError(
      f'{path}: expected a folder that can be written; choose another --output'
    )
  splits = open_disjoint_splits(dataset, data_dir=data_dir, **holdout)
  if split != 'all':
    if split not in splits:
      raise errors.ConfigError(
        f'--split={split}: expected one of all, {", ".join(splits)}; what is'
        ' held out of train is checked with train'
      )
    splits = {split: splits[split]}
  report = {'dataset': dataset, **_inspect_splits(splits, num_threads)}
  if path is not None:
    files.write_json(path, report)
  broken = sum(len(found['broken']) for found in report['splits'].values())
  if broken:
    where = f'all of them: {path}' if path else '--output=FILE lists all'
    raise errors.CheckFailed(
      f'{dataset}: {broken:,} of {sum(map(len, splits.values())):,} images are'
      f' broken; {where}'
    )
  return report


def _inspect_splits(
  splits: Mapping[str, base.Source], num_threads: int
) -> dict[str, Any]:
  """Prints and returns the summaries of splits, and the duplicates."""
  summaries = {}
  names_by_digest: dict[bytes, list[str]] = collections.defaultdict(list)
  for name, source in splits.items():
    images = inspect_images(source, name, num_threads)
    for index, image in enumerate(images):
      if image.num_bytes:  # what could not be read has none
        names = names_by_digest[image.digest]
        names.append(f'{name} {source.file_name(index)}')
    summaries[name] = summarize_split(source, images)
    lines = _describe_split(name, summaries[name])
    print(*map(errors.to_line, lines), sep='\n')
  duplicates = [names for names in names_by_digest.values() if len(names) > 1]
  found = 'none'
  if duplicates:
    across = sum(len({x.split()[0] for x in names}) > 1 for names in duplicates)
    found = (
      f'{base.show_count(len(duplicates), "images")} more than once,'
      f' {across:,} of them in two splits; for example'
      f' {" = ".join(map(errors.quote, duplicates[0][:3]))}'
    )
  print(errors.to_line(f'duplicates: {found}'))
  return {'splits': summaries, 'duplicates': duplicates}


def inspect_images(
  source: base.Source, name: str, num_threads: int
) -> list[ImageReport]:
  """Reads, verifies and decodes each image of a source; raises nothing."""
  options = decode.PixelOptions(exif=not source.is_prepared)

  def inspect(index: int) -> ImageReport:
    label, data = -1, b''
    details: dict[str, Any]
    try:
      if isinstance(source, tfds.RecordSource):
        source.verify(index)
      image, label = source.read(index)
      data = image if isinstance(image, bytes) else image.tobytes()
      kind, sides, found = traits.find_traits(image, options)
      details = {'kind': kind, 'sides': sides, 'traits': found}
    except Exception as error:  # a source or a decoder may raise anything
      details = {'reason': bad_images.describe_failure(error)}
    digest = hashlib.sha256(data).digest()
    return ImageReport(label, digest, len(data), **details)

  count = len(source)
  threads = thread_engine.count_threads(num_threads)
  found = thread_engine.map_in_order(inspect, range(count), threads)
  bar = tqdm.tqdm(found, name, total=count, unit=' images', disable=None)
  return list(bar)


def summarize_split(
  source: base.Source, images: Sequence[ImageReport]
) -> dict[str, Any]:
  """Returns counts and sizes of a split, as JSON can hold them."""
  good = [image for image in images if image.reason is None]
  sides = np.array([image.sides for image in good], np.int64).reshape(-1, 2)
  summary = {
    'num_images': len(images),
    'encoded_bytes': sum(image.num_bytes for image in images),
    'decoded_bytes': int(np.sum(3 * sides.prod(axis=1))),
    'classes': None,
    'shorter_side': _summarize_sides(sides.min(axis=1)) if good else None,
    'longer_side': _summarize_sides(sides.max(axis=1)) if good else None,
    'kinds': dict(collections.Counter(str(i.kind) for i in good).most_common()),
    **{
      trait: sum(trait in image.traits for image in good)
      for trait in traits.TRAITS
    },
    'applies_exif': not source.is_prepared,
    'broken': [
      {'index': i, 'name': source.file_name(i), 'reason': image.reason}
      for i, image in enumerate(images)
      if image.reason is not None
    ],
  }
  if source.num_classes:
    labels = np.array([image.label for image in images], np.int64)
    counts = np.bincount(labels[labels >= 0], minlength=source.num_classes)
    names = source.class_names or tuple(map(str, range(len(counts))))
    summary['classes'] = dict(zip(names, counts.tolist()))
  return summary


def _summarize_sides(pixels: np.ndarray) -> dict[str, float]:
  found = np.percentile(pixels, (0, 50, 100)).tolist()
  return dict(zip(('smallest', 'median', 'largest'), found))


def _describe_split(name: str, summary: Mapping[str, Any]) -> Iterator[str]:
  """Yields the lines that are printed of a split."""
  count, size = summary['num_images'], summary['encoded_bytes']
  classes = ', no labels'
  if counts := summary['classes']:
    ends = min(counts, key=counts.get), max(counts, key=counts.get)
    least, most = (f'{counts[x]:,} ({errors.quote(x)})' for x in ends)
    classes = f' of {len(counts):,} classes, {least} to {most} each'
  yield f'{name}: {count:,} images{classes}'
  kinds = (f'{kind} {n:,}' for kind, n in summary['kinds'].items())
  rows = {
    'bytes': f'{size / 1e6:,.3f} MB, {size / count / 1e3:,.3f} kB an image',
    'decoded': f'{summary["decoded_bytes"] / 1e6:,.3f} MB of pixels',
    'kinds': ', '.join(kinds) or 'none',
    'EXIF': f'{summary["rotated_by_exif"]:,} ask for a rotation, '
    + ('applied' if summary['applies_exif'] else 'ignored in a prepared set'),
    'transparent': f'{summary["transparent"]:,} have transparency, shown over'
    ' data.background',
    '16 bits': f'{summary["many_bits"]:,} grey of more than 8 bits',
    'one colour': f'{summary["one_colour"]:,}',
  }
  if dark := summary['dark']:
    rows['16 bits'] += (
      f', {dark:,} below an eighth of the range: set data.grey_range'
    )
  if summary['one_colour'] == count:
    rows['one colour'] += ': all of them, so there is nothing to learn'
  if summary['shorter_side']:
    for key in ('shorter side', 'longer side'):
      rows[key] = (
        '{smallest:,g} to {largest:,g} pixels, median {median:,g}'
      ).format(**summary[key.replace(' ', '_')])
  rows['broken'] = f'{len(summary["broken"]):,}'
  for label, text in rows.items():
    yield f'  {label:<13} {text}'
  for image in summary['broken'][:_LISTED]:
    yield f'  {"":<13} {errors.quote(image["name"])} {image["reason"]}'

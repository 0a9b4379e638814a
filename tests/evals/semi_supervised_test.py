"""Fine-tuning on few labels: which part trains, and when test is read."""

import dataclasses

import numpy as np
import pytest

from byol_jax import errors
from byol_jax.evals import finetune, semi_supervised
from tests.helpers import fakes, trainings as grid

OPTIONS = semi_supervised.Options(
  **{
    field.name: getattr(grid.OPTIONS, field.name)
    for field in dataclasses.fields(finetune.GridOptions)
  }
  | {'rates': (0.1, 0.2)},
  fractions=(0.5, 0.1),
  lists='own',
)
ACCURACY = {(0.1, 0): 0.5, (0.2, 0): 0.75}


def make_part(labels):
  part = fakes.ImageSet(np.zeros((len(labels), 2, 2, 3)), labels, 4)
  part.fingerprint = 'ab' * 32
  return part


def measure(monkeypatch, parts, lines):
  sets = grid.make_sets()
  named = {'valid': sets['valid'], 'test': sets['test']}
  named |= {f'fit {fraction}': part for fraction, part in parts.items()}
  stand_in = grid.Trainings(monkeypatch, named, ACCURACY)

  def load(split, **options):
    if split != 'fit':
      return sets[split]
    return parts[options.pop('fraction'), *options.values()]

  keyed = {(fraction, 'own'): part for fraction, part in parts.items()}
  parts = keyed
  results = semi_supervised.measure_accuracy(
    OPTIONS, grid.make_encoder(), load, None, lines.append
  )
  return results, stand_in.asked


def test_each_part_is_searched_before_test_is_read(monkeypatch):
  lines = []
  parts = {
    0.1: make_part(np.arange(34) % 4),
    0.5: make_part(np.arange(160) % 4),
  }
  results, asked = measure(monkeypatch, parts, lines)
  expected = []
  for fraction, steps in ((0.1, 1), (0.5, 5)):
    for rate in (0.1, 0.2):
      expected.append(('train', f'fit {fraction}', (rate, 0), steps))
      expected.append(('test', 'valid', (rate, 0)))
  assert asked == [*expected, *[('test', 'test', (0.2, 0))] * 2]
  small, large = results['fractions']
  assert (small['fraction'], large['fraction']) == (0.1, 0.5)
  assert small['images'] == 34 and small['per_class'] == [9, 9, 8, 8]
  assert small['rate'] == 0.2 and small['top1'] == 0.75
  assert any(
    line.startswith('10 % of the labels: 34 images, 8 to 9 of each class')
    for line in lines
  )
  found = semi_supervised.list_headlines(results)
  assert found[0].name == 'semi-supervised 10 % top-1'
  assert found[0].num_images == grid.SIZES['test']


def test_a_part_without_an_image_of_a_class_is_refused(monkeypatch):
  parts = {0.1: make_part(np.arange(34) % 3), 0.5: make_part(np.arange(9) % 4)}
  with pytest.raises(errors.DataError, match='1 of 4 classes have no training'):
    measure(monkeypatch, parts, [])

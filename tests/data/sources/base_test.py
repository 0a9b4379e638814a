"""Sources made of others: where an image of theirs comes from."""

import numpy as np
import pytest

from byol_jax.data.sources import base
from tests.helpers.listed import Listed
from tests.helpers.made import names


def contents(source):
  return [source.read(i)[0] for i in range(len(source))]


def test_an_index_is_located_in_its_part():
  expected = [(0, 0), (0, 1), (0, 2), (2, 0), (3, 0), (3, 1)]
  ends = np.cumsum([3, 0, 1, 2])  # a part may be empty
  assert [base.locate_part(ends, i) for i in range(6)] == expected
  for index in (-1, 6):
    with pytest.raises(IndexError):
      base.locate_part(ends, index)


def test_a_concatenation_is_one_part_after_the_other():
  source = base.Concatenation([Listed('abc'), Listed('d'), Listed('ef')])
  assert contents(source) == list('abcdef') and len(source) == 6
  assert names(source)[2:5] == ['file2', 'file0', 'file0']
  assert source.num_classes == 100 and source.class_names is None
  assert source.fingerprint != base.Concatenation([Listed('abc')]).fingerprint


def test_a_subset_is_the_images_of_its_ids_in_their_order():
  source = base.Subset(Listed('abcdef'), np.array([4, 0, 5]))
  assert contents(source) == list('eaf')
  assert names(source) == ['file4', 'file0', 'file5']
  others = [
    base.Subset(Listed('abcdef'), np.array(i)) for i in ([4, 0], [0, 4])
  ]
  assert len({s.fingerprint for s in (source, *others)}) == 3

"""The table of the scalars: in the docs, and for files of earlier versions."""

import math

import pytest

from byol_jax import errors
from byol_jax.training import scalars
from tests.helpers import tiny_run


def test_the_docs_say_what_the_table_says():
  text = (tiny_run.ROOT / 'docs' / 'logs.md').read_text()
  text = ' '.join(text.split())
  for name, (meaning, healthy, otherwise) in scalars.SCALARS.items():
    expected = f'- `{name}`: {meaning} *Healthy:* {healthy}'
    assert f'{expected} *Otherwise:* {otherwise}' in text, name


def test_lines_of_an_earlier_version_have_the_names_of_today(tmp_path):
  with pytest.raises(errors.DataError, match='does not exist'):
    scalars.read(tmp_path)
  (tmp_path / 'scalars.jsonl').write_text(
    '{"loss": 3.5, "repr_loss": 2.5, "classif_loss": 1.0, "step": 1}\n'
    '{"byol_loss": "nan", "step": 2}\n'
    '[]\n{"byol_loss": 1.0, "st'
  )
  first, second = scalars.read(tmp_path)
  assert first == {
    **{'total_loss': 3.5, 'byol_loss': 2.5, 'classifier_loss': 1.0, 'step': 1}
  }
  assert math.isnan(second['byol_loss'])


def test_names_with_numbers_have_a_description_too():
  assert 'kNN accuracy' in scalars.describe('knn_k20_t0.1')
  assert '**Healthy:**' in scalars.describe('byol_loss')
  assert scalars.describe('x') == ''

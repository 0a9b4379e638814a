"""What `data prepare` prints, refuses and leaves."""

import argparse
import logging
import shlex

import pytest

from byol_jax import __main__ as command, errors
from byol_jax.data.preparation import write
from tests.helpers import tiny_folder


@pytest.fixture
def prepare(capsys):
  """prepare(*arguments) -> (exit code, standard output, standard error)."""

  def call(*arguments):
    code = command.main(['data', 'prepare', *map(str, arguments)])
    return code, *capsys.readouterr()

  return call


@pytest.fixture
def folder(tmp_path):
  return tiny_folder.write(tmp_path / 'My Pictures')


def test_it_says_what_it_made_and_what_to_do_next(prepare, folder, tmp_path):
  output = tmp_path / 'out put'
  code, text, error = prepare(folder, output)
  assert (code, error) == (0, '')
  counts = {
    line.split(':')[0]: int(line.split()[1])
    for line in text.splitlines()
    if ' images, ' in line
  }
  assert set(counts) == {'train', 'test'} and sum(counts.values()) == 36
  assert ' bytes in 1 files' in text
  assert str(output / 'my_pictures' / '1.0.0') in text
  words = shlex.split(text.splitlines()[-1])
  assert words[:4] == ['python', '-m', 'byol_jax', 'pretrain']
  values = dict(word.split('=') for word in words[4:])
  code, _, error = prepare(folder, output)
  assert code == 3 and 'exists' in error and error.count('\n') == 1
  # What the next command names is there.
  code = command.main([
    'data', 'check', values['--config.dataset'],
    f'--data_dir={values["--config.data_dir"]}',
  ])  # fmt: skip
  assert code == 0


def test_smaller_images_are_a_variant(prepare, folder, tmp_path):
  code, text, _ = prepare(folder, tmp_path, '--shorter_side=10', '--name=small')
  assert code == 0 and 'dataset=small/shorter_10' in text
  assert (tmp_path / 'small' / 'shorter_10' / '1.0.0').is_dir()


@pytest.mark.parametrize(
  'value, words',
  [
    ('shorter_side=0', 'at least 1, found 0'),
    ('shorter_side=x', "invalid int value: 'x'"),
    ('quality=0', 'at least 1, at most 100, found 0'),
    ('quality=101', 'found 101'),
    ('max_bad_share=2', 'at least 0, at most 1, found 2'),
    ('max_bad_share=nan', 'found nan'),
    ('threads=-1', 'found -1'),
    ('name=My', "found 'My'"),
    ('name=../x', r"found '../x'"),
    ('name=imagenet2012', 'not the 1,000 of ImageNet'),
  ],
)
def test_values_that_mean_nothing(prepare, folder, tmp_path, value, words):
  code, text, error = prepare(folder, tmp_path / 'out', f'--{value}')
  assert code == (3 if 'imagenet' in value else 2)
  assert words in error and error.count('\n') == 1 and not text
  assert f'--{value.partition("=")[0]}' in error
  assert not (tmp_path / 'out').exists()


def test_a_source_that_is_missing_or_empty(prepare, tmp_path):
  (tmp_path / 'empty').mkdir()
  for name in ('nowhere', 'empty'):
    code, _, error = prepare(tmp_path / name, tmp_path / 'out')
    assert code == 3 and name in error and error.count('\n') == 1


@pytest.mark.parametrize(
  'source, name',
  [
    ('My Pictures', 'my_pictures'),
    ('imagenette2-160.tar', 'imagenette2_160'),
    ('imagenette/160px-v2', 'imagenette'),
    ('a__b', 'a_b'),
  ],
)
def test_names_are_those_that_tfds_takes(source, name):
  assert write.name_of(source) == name


@pytest.mark.parametrize('source', ['2020', '写真', ''])
def test_a_name_is_asked_for_where_there_is_none(source):
  with pytest.raises(errors.ConfigError, match='--name'):
    write.name_of(source)


def test_what_a_killed_job_left_is_named(folder, tmp_path, caplog):
  left = tmp_path / 'out' / 'toy' / 'incomplete.ABC_1.0.0'
  left.mkdir(parents=True)
  arguments = argparse.Namespace(
    source=str(folder), output=str(tmp_path / 'out'), name='toy',
    shorter_side=None, quality=95, max_bad_share=0.0, threads=1,
  )  # fmt: skip
  with caplog.at_level(logging.WARNING):
    write.run(arguments)
  assert str(left) in caplog.text and 'remove it' in caplog.text

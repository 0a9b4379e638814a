import os
import pathlib
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest

from byol_jax import errors
from byol_jax.data.sources import base, lookup
from tests.helpers.made import names, opened, refused


def examples(builder, split, file_format):
  """What TFDS itself reads from a prepared set, in its order."""
  import tensorflow_datasets as tfds

  decoders = {'image': tfds.decode.SkipDecoding()}
  if file_format == 'tfrecord':
    found = builder.as_dataset(split=split, decoders=decoders)
    found = found.as_numpy_iterator()
  else:
    pytest.importorskip('array_record')
    found = builder.as_data_source(split=split, decoders=decoders)
  return [(e['image'], int(e['label']), e['file_name'].decode()) for e in found]


@pytest.mark.parametrize('file_format', ['tfrecord', 'array_record'])
@pytest.mark.parametrize('split', ['train', 'validation'])
def test_records_are_those_that_tfds_reads(prepared, file_format, split):
  builder, folder = prepared[file_format]
  expected = examples(builder, split, file_format)
  source = opened(folder, 'train' if split == 'train' else 'test')
  found = [(*source.read(i), source.file_name(i)) for i in range(len(source))]
  assert found == expected
  assert source.class_names == ('a', 'b', 'c') and source.num_classes == 3


@pytest.mark.parametrize('dataset', ['toy', 'toy:1.0.0', 'toy:1.*.*'])
def test_a_set_is_found_by_name_below_data_dir(prepared, dataset):
  _, folder = prepared['tfrecord']
  by_name = opened(dataset, data_dir=str(folder.parent.parent))
  assert by_name.fingerprint == opened(folder).fingerprint
  assert by_name.fingerprint == opened(folder.parent).fingerprint


def test_a_set_that_is_not_prepared_says_how_to_prepare_it(tmp_path):
  text = refused('imagenette/160px-v2', data_dir=str(tmp_path))
  assert 'tfds build imagenette/160px-v2' in text and str(tmp_path) in text
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  'dataset, options, words',
  [
    ('DATA/no where', {}, 'DATA/no where: no such folder'),
    ('toy', {'data_dir': 'DATA/none'}, 'a folder that does not exist'),
    ('toy', {'data_dir': 'DATA'}, 'tfds build toy --data_dir=DATA'),
    ('DATA', {}, 'DATA: 0 image files found, expected at least 2'),
    ('s3://bucket/set', {}, 'expected gs:// or a local path'),
    ('toy', {'data_dir': 's3://bucket'}, 'expected gs:// or a local path'),
  ],
)
def test_what_is_not_there_is_named(tmp_path, dataset, options, words):
  def placed(text):
    return text.replace('DATA', str(tmp_path))

  options = {key: placed(value) for key, value in options.items()}
  assert placed(words) in refused(placed(dataset), **options)
  assert not list(tmp_path.iterdir())


@pytest.fixture
def copy(prepared, tmp_path):
  folder = tmp_path / 'copy'
  shutil.copytree(prepared['tfrecord'][1], folder)
  (shard,) = folder.glob('*train.tfrecord*')
  return folder, shard


@pytest.fixture
def array_copy(prepared, tmp_path):
  pytest.importorskip('array_record')
  folder = tmp_path / 'array_copy'
  shutil.copytree(prepared['array_record'][1], folder)
  (shard,) = folder.glob('*train.array_record*')
  return folder, shard


@pytest.mark.parametrize('left', [0, 1, 2**16 - 1, 2**16, 2**16 + 1, -1])
def test_a_truncated_array_record_shard_is_refused(array_copy, left):
  folder, shard = array_copy
  shard.write_bytes(shard.read_bytes()[:left])
  text = refused(folder)
  assert shard.name in text and 'copy or prepare it again' in text
  assert 'expected 30 records' in text or 'expects 30;' in text


def test_an_array_record_shard_of_another_count_is_refused(array_copy):
  folder, shard = array_copy
  (other,) = folder.glob('*validation.array_record*')
  shutil.copy(other, shard)
  text = refused(folder)
  assert f'{shard}: 10 records found' in text and 'expects 30' in text
  shard.unlink()
  assert f'{shard}: missing' in refused(folder)


@pytest.mark.parametrize('by_name', [False, True])
def test_a_prepared_set_in_a_bucket_is_the_same(prepared, bucket, by_name):
  _, folder = prepared['tfrecord']
  shutil.copytree(folder, bucket / 'sets' / 'toy' / '1.0.0')
  for split in ('train', 'test'):
    expected = opened(folder, split)
    for version in ('', ':1.0.0') if by_name else ('', '/1.0.0'):
      source = (
        opened(f'toy{version}', split, data_dir='gs://bucket/sets')
        if by_name
        else opened(f'gs://bucket/sets/toy{version}', split)
      )
      assert source.fingerprint == expected.fingerprint
      assert [source.read(i) for i in range(len(source))] == [
        expected.read(i) for i in range(len(expected))
      ]


def test_what_a_bucket_lacks_is_named(prepared, bucket):
  assert 'gs://bucket/none: no prepared' in refused('gs://bucket/none')
  (bucket / 'images' / 'a').mkdir(parents=True)
  (bucket / 'images' / 'a' / '1.jpg').write_bytes(b'x')
  text = refused('gs://bucket/images')
  assert 'not read as they are' in text and 'copy it' in text
  text = refused('toy', data_dir='gs://bucket/none')
  assert 'a folder that does not exist' in text and 'gs://bucket/none' in text
  shutil.copytree(prepared['tfrecord'][1], bucket / 'toy')
  (shard,) = (bucket / 'toy').glob('*train.tfrecord*')
  shard.unlink()
  assert f'gs://bucket/toy/{shard.name}: missing' in refused('gs://bucket/toy')


# Processes of their own: each must end although a client still waits.
PRETRAIN = """
import sys
from byol_jax import __main__
from byol_jax.data.sources import storage
storage.DEADLINE = {deadline}
sys.exit(__main__.main(sys.argv[1:]))
"""
SHARD = """
import sys
from byol_jax import errors
from byol_jax.data.sources import record_files, storage
storage.DEADLINE = 0.5
storage.stamp = lambda path: storage.Stamp(1, 1)
try:
  record_files.ArrayrecordShard(storage.make_path('gs://byol-jax-no-such-bucket/a'))
except errors.DataError as error:
  print(error, file=sys.stderr)
  sys.exit(3)
"""


def out_of_reach(code, *arguments):
  """The one line that names the bucket, of a process that ends with 3."""
  process = subprocess.run(
    [sys.executable, '-c', code, *arguments],
    # Where the machine has a network, none of it is behind this proxy.
    env=os.environ | {'https_proxy': 'http://127.0.0.1:9',
                      'GCE_METADATA_HOST': '127.0.0.1:9'},
    capture_output=True, text=True, timeout=120,
  )  # fmt: skip
  assert process.returncode == 3, process.stderr
  assert 'Traceback' not in process.stderr
  lines = process.stderr.splitlines()
  (line,) = [text for text in lines if 'check the network' in text]
  assert 'gs://byol-jax-no-such-bucket/' in line and 'copy the set' in line
  return line


@pytest.mark.slow
@pytest.mark.parametrize('deadline', [0.01, 3])
def test_a_bucket_out_of_reach_ends_in_one_line(tmp_path, deadline):
  line = out_of_reach(
    PRETRAIN.format(deadline=deadline),
    'pretrain',
    '--config=shapes',
    f'--workdir={tmp_path / "run"}',
    '--config.dataset=gs://byol-jax-no-such-bucket/set',
  )
  assert 'looking for dataset_info.json: no ' in line
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_array_record_read_that_never_ends_is_given_up():
  pytest.importorskip('array_record')
  assert 'opening an ArrayRecord file: no ' in out_of_reach(SHARD)


@pytest.mark.parametrize('lost', [1, 10, 500])
def test_a_truncated_shard_is_refused(copy, lost):
  folder, shard = copy
  size = shard.stat().st_size
  shard.write_bytes(shard.read_bytes()[:-lost])
  text = refused(folder)
  assert shard.name in text and f'{size - lost:,}' in text


def test_a_shard_with_a_record_less_is_refused(copy):
  folder, shard = copy
  (length,) = struct.unpack('<Q', shard.read_bytes()[:8])
  shard.write_bytes(shard.read_bytes()[length + 16 :])
  text = refused(folder)
  assert shard.name in text and '29 ' in text and 'expects 30' in text


def test_a_missing_shard_and_a_missing_split_are_refused(copy):
  folder, shard = copy
  shard.unlink()
  assert shard.name in refused(folder)
  info = folder / 'dataset_info.json'
  info.write_text(info.read_text().replace('"validation"', '"extra"'))
  assert 'test or validation' in refused(folder, 'test')


def test_a_changed_record_changes_the_fingerprint(copy):
  folder, shard = copy
  before = opened(folder).fingerprint
  data = bytearray(shard.read_bytes())
  (length,) = struct.unpack('<Q', data[:8])
  data[12 + length] ^= 1  # the checksum that goes with other contents
  shard.write_bytes(data)
  assert opened(folder).fingerprint != before


def test_a_broken_description_is_refused_in_one_line(copy):
  folder, _ = copy
  (folder / 'dataset_info.json').write_text('{')
  assert str(folder) in refused(folder)


@pytest.mark.parametrize('dataset', ['shapes', 'toy'])
def test_fit_and_valid_divide_train_and_all_is_everything(prepared, dataset):
  _, folder = prepared['tfrecord']
  where = {'data_dir': str(folder.parent.parent)}
  split = {s: opened(dataset, s, **where) for s in lookup.SPLITS}
  fit, valid = names(split['fit']), names(split['valid'])
  assert sorted(fit + valid) == sorted(names(split['train']))
  assert len(valid) == round(0.2 * len(split['train']))
  assert names(split['all']) == names(split['train']) + names(split['test'])
  assert len({s.fingerprint for s in split.values()}) == len(lookup.SPLITS)
  assert [split['fit'].read(i)[1] for i in range(9)] == [
    split['train'].read(names(split['train']).index(name))[1]
    for name in fit[:9]
  ]


class Numbers:
  """A stand-in for ImageNet: images that are their index."""

  name, num_classes, class_names = 'imagenet2012', 1000, None
  fingerprint = 'x'

  def __len__(self):
    return 1_281_167

  def read(self, index):
    return b'', index

  def file_name(self, index):
    return str(index)


@pytest.mark.parametrize('holdout', ['paper', 'official'])
def test_imagenet_holds_out_its_first_or_last_images(holdout):
  fit, valid = (
    lookup._imagenet(Numbers(), split, holdout) for split in ('fit', 'valid')
  )
  first = {'paper': 1_271_158, 'official': 0}[holdout]
  count = {'paper': 10_009, 'official': 10_000}[holdout]
  assert len(valid) == count and len(fit) == 1_281_167 - count
  assert valid.read(0)[1] == first
  assert valid.read(count - 1)[1] == first + count - 1
  assert fit.read(0)[1] == {'paper': 0, 'official': 10_000}[holdout]


def test_arguments_that_mean_nothing_are_named():
  for key, value in (('holdout', 'middle'), ('heldout_share', 1.0)):
    text = refused('shapes', error=errors.ConfigError, **{key: value})
    assert key in text and str(value) in text
  assert 'best' in refused('shapes', 'best', error=errors.ConfigError)
  assert 'heldout_share' in refused('shapes', 'valid', heldout_share=0.0)


def test_a_subset_keeps_names_and_its_own_fingerprint():
  source = opened('shapes', 'test')
  ids = np.array([7, 3])
  subset = base.Subset(source, ids)
  assert names(subset) == [source.file_name(7), source.file_name(3)]
  assert subset.read(1) == source.read(3)
  other = base.Subset(source, ids[::-1])
  assert len({s.fingerprint for s in (source, subset, other)}) == 3


def test_home_is_expanded(write, monkeypatch):
  monkeypatch.setenv('HOME', write('set/a/1.jpg', 'set/a/2.jpg'))
  assert len(opened('~/set', 'all')) == 2
  assert pathlib.Path.home().name in refused('~/other')

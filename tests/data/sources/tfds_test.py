import io
import shutil

import numpy as np
import pytest

from byol_jax.data.sources import tfds
from tests.helpers import tiny_run
from tests.helpers.made import (
  encode,
  image_set,
  opened,
  prepare,
  refused,
  smooth,
)

FORMATS = ('tfrecord', 'array_record')


def read_with_tfds(builder, split, file_format):
  """What TFDS itself reads from a prepared set, in its order."""
  import tensorflow_datasets

  decoders = {'image': tensorflow_datasets.decode.SkipDecoding()}
  if file_format == 'tfrecord':
    found = builder.as_dataset(split=split, decoders=decoders)
    found = found.as_numpy_iterator()
  else:
    pytest.importorskip('array_record')
    found = builder.as_data_source(split=split, decoders=decoders)
  return [(e['image'], int(e['label']), e['file_name'].decode()) for e in found]


@pytest.mark.parametrize('file_format', FORMATS)
@pytest.mark.parametrize('split', ['train', 'validation'])
def test_records_are_those_that_tfds_reads(prepared, file_format, split):
  builder, folder = prepared[file_format]
  source = opened(folder, 'train' if split == 'train' else 'test')
  found = [(*source.read(i), source.file_name(i)) for i in range(len(source))]
  assert found == read_with_tfds(builder, split, file_format)
  assert source.class_names == ('a', 'b', 'c') and source.num_classes == 3
  for index in range(len(source)):
    source.verify(index)
  with pytest.raises(IndexError):
    source.read(len(source))


def test_reading_records_imports_neither_tensorflow_nor_jax(prepared):
  code = """
import sys
from byol_jax.data.sources import lookup
for folder in sys.argv[1:]:
  source = lookup.open_source(
    folder, 'train', data_dir=None, holdout='paper', heldout_share=0.2
  )
  assert source.read(3)[0] and source.file_name(3)
print('found', *sys.modules)
"""
  folders = [str(prepared[file_format][1]) for file_format in FORMATS]
  output = tiny_run.finish(tiny_run.start_python('-c', code, *folders))
  found = set(output.partition('found ')[2].split())
  assert 'tensorflow_datasets' in found
  assert not {'tensorflow', 'jax'} & found


@pytest.fixture(params=FORMATS)
def copy(request, prepared, tmp_path):
  """A copy of a prepared set, and its file of 'train'."""
  if request.param == 'array_record':
    pytest.importorskip('array_record')
  folder = tmp_path / 'copy'
  shutil.copytree(prepared[request.param][1], folder)
  (file,) = folder.glob('*-train.*')
  return folder, file


@pytest.mark.parametrize('left', [0, 1, -500, -10, -1])
def test_a_truncated_file_is_refused(copy, left):
  folder, file = copy
  file.write_bytes(file.read_bytes()[:left])
  text = refused(folder)
  assert str(file) in text and 'copy or prepare it again' in text
  assert 'of 30 records' in text


def test_a_file_of_another_count_and_a_missing_one_are_refused(copy):
  folder, file = copy
  (other,) = folder.glob('*-validation.*')
  shutil.copy(other, file)
  text = refused(folder)
  assert f'{file}: expected' in text and '10 records found' in text
  file.unlink()
  assert f'{file}: expected' in refused(folder)
  info = folder / 'dataset_info.json'
  info.write_text(info.read_text().replace('"validation"', '"extra"'))
  assert 'test or validation' in refused(folder, 'test')
  info.write_text('{')
  assert f'{folder}: not a readable' in refused(folder)


def test_a_prepared_directory_is_described_without_its_files(copy):
  folder, file = copy
  file.unlink()
  found = tfds.PreparedDataset(folder)
  assert (found.name, found.split_names) == ('toy', ('train', 'validation'))
  assert (found.image_key, found.label_key) == ('image', 'label')
  features = folder / 'features.json'
  text = features.read_text()
  features.write_text(text.replace('"label"', '"species"'))
  found = tfds.PreparedDataset(folder)
  assert (found.label_key, found.num_classes) == ('species', 3)
  features.write_text(text.replace('image_feature.Image', 'text_feature.Text'))
  assert 'expected one image an example, found []' in refused(folder)


@pytest.mark.parametrize('share', [0, 1 / 3, 1])
def test_records_without_a_label_are_found(prepared, monkeypatch, share):
  parse = tfds.PreparedDataset.parse_example

  def drop_label(self, record):
    example = parse(self, record)
    drops = int(example['label']) < 3 * share
    return example | ({'label': -1} if drops else {})

  monkeypatch.setattr(tfds.PreparedDataset, 'parse_example', drop_label)
  source = opened(prepared['tfrecord'][1])
  labels = [source.read(i)[1] for i in range(len(source))]
  assert source.num_classes == (None if share == 1 else 3)
  assert (source.labels is None) == (share in (0, 1))
  if source.labels is not None:
    assert source.labels.tolist() == labels and labels.count(-1) == 10


def test_images_with_several_classes_have_targets_and_no_label(tmp_path):
  """As PASCAL VOC; beside the image a mask, as in the Oxford pets."""
  from tensorflow_datasets import features

  classes = features.Sequence(features.ClassLabel(names=[*'abcd']))
  described = {
    'image': features.Image(encoding_format='jpeg'),
    'mask': features.Image(shape=(None, None, 1)),
    **{'labels': classes, 'labels_no_difficult': classes},
  }
  examples = [
    {
      'image': io.BytesIO(encode(smooth(i, 20, 30))),
      'mask': np.zeros((20, 30, 1), np.uint8),
      **{'labels': [*labels], 'labels_no_difficult': [*easy]},
    }
    for i, (labels, easy) in enumerate((('ab', 'a'), ('', ''), ('bcd', 'c')))
  ]
  builder = prepare(tmp_path, described, {'train': examples, 'test': examples})
  source = opened(builder.data_dir)
  found = sorted(map(tuple, source.read_targets().tolist()))
  assert found == [(0, -1, 1, -1), (0, 0, 0, 0), (1, -1, 0, 0)]
  assert source.num_classes is None
  data, label = source.read(0)
  assert data.startswith(b'\xff\xd8') and label == -1
  served = image_set(source)
  np.testing.assert_array_equal(served.read_targets(), source.read_targets())
  (batch,) = served.eval_batches(4)
  assert batch['ids'].ravel().tolist() == [0, 1, 2, -1]
  assert set(batch['labels'].ravel().tolist()) == {-1}
  held = opened(builder.data_dir, 'valid', heldout_share=0.4)
  rows = held.read_targets()
  assert rows.shape == (1, 4) and tuple(rows[0]) in found

"""Where the values of a configuration arrive in a set of images."""

import pathlib

import jax
from ml_collections import config_dict
import numpy as np
from PIL import Image
import pytest

from byol_jax import configuration, errors
from byol_jax.data import from_config
from byol_jax.data.loading import (
  cache,
  decode,
  image_set,
  resident,
  tf_engine,
  thread_engine,
)
from byol_jax.data.sampling import crops, resize
from byol_jax.data.sources import arrays, base, lookup, shapes, tfds
from byol_jax.evaluation import pretrained
from tests.helpers import listed, wiring
from tests.helpers.made import encode, image_set as images_of, smooth

SOURCE = listed.Listed([encode(smooth(i, 20, 24)) for i in range(4)])


@pytest.fixture
def calls(monkeypatch):
  """The calls of what opens, caches and serves a set, by name."""
  answers = {
    (lookup, 'open_source'): lambda *arguments, **options: SOURCE,
    (cache, 'CachedSource'): None,
    (image_set, 'ImageSet'): None,
    (resident, 'ResidentImageSet'): None,
  }
  return {
    name: wiring.spy(monkeypatch, owner, name, answer)
    for (owner, name), answer in answers.items()
  }


def open_set(monkeypatch, calls, resident=False, **options):
  """The arguments of the calls that opening the changed set makes."""
  changes = {'input.cache': 'none'} if resident else {}
  config = wiring.load(monkeypatch, data__resident=resident, **changes)
  made = from_config.make_image_set(config, 'fit', **options)
  call = calls['ResidentImageSet' if resident else 'ImageSet'][-1]
  assert made is call.result
  return call.arguments


def test_another_set_and_another_crop_replace_those_of_the_configuration(
  monkeypatch, calls
):
  options = {'dataset': 'no/other', 'eval_crop': 'crop'}
  found = open_set(monkeypatch, calls, **options)
  before = open_set(monkeypatch, calls)
  assert [call.arguments['dataset'] for call in calls['open_source']] == [
    'no/other', wiring.CHANGED['dataset']
  ]  # fmt: skip
  assert found['eval_crop'] == 'crop'
  assert before['eval_crop'] == wiring.CHANGED['data.eval_crop']


def test_every_value_of_the_input_arrives(monkeypatch, calls):
  streamed = open_set(monkeypatch, calls, held=True)
  (opened,), (held,) = calls['open_source'], calls['CachedSource']
  assert opened.arguments['split'] == 'fit'
  assert held.arguments['source'] is SOURCE
  assert streamed['source'] is held.result
  engine = streamed['engine']
  assert engine.func is tf_engine.decode_into
  on_devices = open_set(monkeypatch, calls, resident=True, held=True)
  assert on_devices['source'] is SOURCE
  shared = ('crop_ranges', 'eval_crop', 'image_size', 'max_bad_share', 'seed')
  assert held.arguments['pixels'] == streamed['pixels']
  for name in (*shared, 'num_threads', 'pixels'):
    assert on_devices[name] == streamed[name]
  arrived = {
    'dataset': opened.arguments['dataset'],
    'data_dir': opened.arguments['data_dir'],
    'data': {
      'holdout': opened.arguments['holdout'],
      'heldout_share': opened.arguments['heldout_share'],
      'labels': opened.arguments['labels'],
      'eval_crop': streamed['eval_crop'],
      'decoding': engine.keywords['decoding'],
      'exif': 'apply' if streamed['pixels'].exif else 'ignore',
      'background': {(0, 0, 0): 'black'}[streamed['pixels'].background],
      'grey_range': streamed['pixels'].grey_range,
      'transfer': streamed['transfer'],
      'resident': 'gib' in on_devices,
    },
    'input': {
      'engine': {tf_engine.decode_into: 'tensorflow'}[engine.func],
      'threads': streamed['num_threads'],
      'cache': held.arguments['kind'],
      'cache_gib': held.arguments['gib'],
      'max_bad_share': streamed['max_bad_share'],
      'resident_gib': on_devices['gib'],
    },
    'augment': {
      f'view{i + 1}': {'crop': crop._asdict()}
      for i, crop in enumerate(streamed['crop_ranges'])
    },
  }
  expected = {key: wiring.CHANGED[key] for key in wiring.DATA}
  assert configuration.flatten(config_dict.ConfigDict(arrived)) == expected
  assert held.arguments['num_threads'] == streamed['num_threads']
  assert (streamed['seed'], streamed['image_size']) == (5, 24)
  place = ('local_devices', 'process_index', 'process_count')
  assert [streamed[k] for k in place] == [jax.local_device_count(), 0, 1]


@pytest.mark.parametrize('is_installed', (True, False))
def test_the_engine_is_that_of_the_run(monkeypatch, calls, is_installed):
  monkeypatch.setattr(from_config, '_has_tensorflow', lambda: is_installed)
  load = lambda **more: wiring.load(monkeypatch, input__cache='none', **more)
  once = {'data__decoding': 'once', 'data__resident': False}

  def open_with(config, **options):
    from_config.make_image_set(config, 'train', **options)
    engine = calls['ImageSet'][-1].arguments['engine']
    return getattr(engine, 'func', engine)

  auto = load(**once, input__engine='auto')
  resolved = from_config.resolve_engine(auto)
  assert resolved.input.engine == ('threads', 'tensorflow')[is_installed]
  assert auto.input.engine == 'auto'
  threads = load(**once, input__engine='threads')
  assert from_config.resolve_engine(threads) == threads
  resident = load(data__resident=True, input__engine='auto')
  assert from_config.resolve_engine(resident) == resident
  crops = load(data__decoding='crops', data__resident=False)
  assert from_config.resolve_engine(crops).input.engine == 'tensorflow'
  assert open_with(threads, held=True) is thread_engine.decode_into
  began = load(**once, input__engine='tensorflow')
  if is_installed:
    assert open_with(began, held=True) is tf_engine.decode_into
  else:  # an evaluation needs no more than the pixels
    assert open_with(began) is thread_engine.decode_into
    with pytest.raises(errors.ConfigError, match='engine=threads'):
      open_with(began, held=True)


@pytest.mark.parametrize(
  'source',
  (
    arrays.ArraySource(np.zeros((4, 9, 9, 3), np.uint8)),
    base.Subset(shapes.ShapesSource('test'), np.arange(3)),
    cache.CachedSource(SOURCE, 'decoded', 1.0, 1),
  ),
)
def test_what_threads_read_as_fast_needs_no_tensorflow(
  monkeypatch, calls, source
):
  config = wiring.load(
    monkeypatch,
    **{'input__cache': 'none', 'data__resident': False},
    **{'data__decoding': 'once', 'input__engine': 'tensorflow'},
  )
  from_config.make_image_set(config, 'train', source=source)
  engine = calls['ImageSet'][-1].arguments['engine']
  assert engine is thread_engine.decode_into


def test_an_evaluation_has_no_random_crop_and_no_cache(monkeypatch, calls):
  found = open_set(monkeypatch, calls, cropped=False)
  assert found['crop_ranges'] == [None, None] and found['source'] is SOURCE
  assert not calls['CachedSource']


def test_a_view_without_a_crop_has_the_evaluation_crop(monkeypatch, calls):
  config = wiring.load(monkeypatch, data__resident=False)
  with config.unlocked():
    config.augment.view2.crop = None
  from_config.make_image_set(config, 'train')
  found = calls['ImageSet'][-1].arguments['crop_ranges']
  first = (wiring.CHANGED[f'augment.view1.crop.{k}'] for k in ('area', 'ratio'))
  assert found == [crops.CropRange(*first), None]


def test_paths_become_absolute_and_names_stay(monkeypatch, tmp_path):
  (tmp_path / 'mine').mkdir()
  (tmp_path / 'shapes').mkdir()
  monkeypatch.chdir(tmp_path)
  for dataset, expected in (
    ('mine', str(tmp_path / 'mine')),
    *(('shapes', 'shapes'), ('cifar10', 'cifar10')),
  ):
    config = wiring.load(monkeypatch, dataset=dataset, data_dir='mine')
    found = from_config.resolve_paths(config)
    assert (found.dataset, found.data_dir) == (
      *(expected, str(pathlib.Path('mine').resolve())),
    )
    assert config.dataset == dataset


def test_several_folders_become_absolute_and_a_set_is_described_once(
  monkeypatch, tmp_path
):
  """`dataset` of Python may be a list, of paths that have commas."""
  monkeypatch.chdir(tmp_path)
  pixels = encode(smooth(0, 20, 24))
  for name in ('a, b/x', 'a, b/y', 'c/x', 'c/y'):
    for i in range(8):
      path = pathlib.Path(name, f'{i}.jpg')
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(pixels)
  config = wiring.load(
    monkeypatch,
    dataset=['a, b', pathlib.Path('c')],
    data__resident=False,
    input__cache='none',
  )
  found = from_config.resolve_paths(config).dataset
  assert found == f'{tmp_path}/a, b,{tmp_path}/c'
  lines = []
  load = from_config.make_load(config, lines.append)
  train, test = load('train'), load('test')
  assert train.num_examples + test.num_examples == 32
  assert lines == [
    f'images: {train.num_examples} for training; classes: 2 (x ... y);'
    f' test: a share of 0.3 held out, {test.num_examples} images'
  ]


def test_the_batches_are_those_of_the_configuration(monkeypatch):
  monkeypatch.setattr(lookup, 'open_source', lambda *a, **k: SOURCE)
  config = wiring.load(monkeypatch, data__resident=False, input__cache='none')
  made = from_config.make_image_set(config, 'train')
  (batch,) = made.view_batches(4, 0, 1)
  for view in (batch['view1'], batch['view2']):
    assert view.shape == (1, 4, 24, 24, 3) and view.dtype == np.uint8


@pytest.mark.parametrize('is_resident', (False, True))
def test_images_without_a_label_are_marked_in_training_and_then_left_out(
  monkeypatch, caplog, is_resident
):
  images = np.stack([smooth(i, 20, 24) for i in range(4)])
  labels = np.array([1, -1, 0, -1])
  source = arrays.ArraySource(images, labels)
  monkeypatch.setattr(lookup, 'open_source', lambda *a, **k: source)
  changes = {'data.resident': is_resident, 'input.cache': 'none'}
  config = wiring.load(monkeypatch, **changes)
  made = from_config.make_image_set(config, 'train')
  assert made.num_examples == 4 and made.num_classes == 2
  if is_resident:
    store, (plan,) = made.store(), made.plans(4, 0, 1)
    np.testing.assert_array_equal(store.is_labelled, labels >= 0)
    plan = {name: array[0] for name, array in plan.items()}
    found = jax.eval_shape(made.views, store, plan)['is_labelled']
    assert (found.shape, found.dtype) == ((4,), bool)
  else:
    (batch,) = made.view_batches(4, 0, 1)
    assert sorted(batch['labels'][0]) == [-1, -1, 0, 1]
    np.testing.assert_array_equal(batch['is_labelled'], batch['labels'] >= 0)
  kept = from_config.make_image_set(config, 'test', labelled=True)
  (batch,) = kept.eval_batches(4)
  assert batch['labels'][0].tolist() == [1, 0, -1, -1]
  assert batch['mask'][0].tolist() == [True, True, False, False]
  (record,) = caplog.records
  assert "split 'test': 2 of 4 images have no label" in record.message


@pytest.mark.parametrize('is_resident', (False, True))
def test_a_label_that_does_not_fit_ends_the_training(monkeypatch, is_resident):
  images = [smooth(i, 20, 24) for i in range(4)]  # labels 0 to 3
  source = listed.Listed(images, num_classes=3)
  monkeypatch.setattr(lookup, 'open_source', lambda *a, **k: source)
  changes = {'data.resident': is_resident, 'input.cache': 'none'}
  made = from_config.make_image_set(wiring.load(monkeypatch, **changes), 'fit')
  with pytest.raises(errors.DataError, match=r'labels in \[0, 3\), found 3'):
    list(made.store() if is_resident else made.view_batches(4, 0, 1))


@pytest.mark.parametrize('background', ['black', 'drop'])
@pytest.mark.parametrize('exif', ['apply', 'ignore'])
def test_an_image_has_the_same_pixels_wherever_it_is_used(
  tmp_path, exif, background
):
  pixels = np.dstack([smooth(0, 30, 20), np.full((30, 20), 99, np.uint8)])
  tags = Image.Exif()
  tags[0x0112] = 6
  for name in 'ab':
    data = encode(pixels, 'PNG', exif=tags)
    (tmp_path / f'{name}.png').write_bytes(data)
  options = decode.PixelOptions(
    exif == 'apply', decode.BACKGROUNDS[background], (0.0, 65535.0)
  )
  expected = decode.decode_rgb(data, options)
  assert expected.shape[0] == (20 if exif == 'apply' else 30)
  values = {
    **{'data.exif': exif, 'data.background': background},
    **{'dataset': str(tmp_path), 'image_size': 8, 'data.resident': False},
  }
  config = configuration.load('shapes', values)
  cached = configuration.load('shapes', values | {'input.cache': 'decoded'})
  whole = configuration.load('shapes', values | {'data.resident': True})
  stored = from_config.make_image_set(whole, 'all').decoded
  height, width = stored.sizes[0]
  np.testing.assert_array_equal(stored.images[0, :height, :width], expected)
  crop = resize.crop_for_evaluation(
    resize.convert_image(expected), 8, config.data.eval_crop
  )
  encoder = pretrained.PretrainedEncoder({}, {}, config, 1, None, {})
  found = [encoder.preprocess(tmp_path / 'a.png')[0]]
  for each, held in ((config, False), (cached, True)):
    images = from_config.make_image_set(each, 'all', held=held)
    batch = next(iter(images.eval_batches(jax.local_device_count())))
    found.append(batch['images'][0, 0])
  for image in found:
    # Rounding of float32.
    np.testing.assert_allclose(image, crop, atol=1e-6)
  other = decode.PixelOptions(not options.exif)
  places = [
    images_of(SOURCE, pixels=x).locate_images()[0] for x in (options, other)
  ]
  assert places[0] != places[1]


def test_exif_is_ignored_in_sets_that_tfds_prepared_alone():
  files = listed.Listed([b''] * 3)
  stored = listed.Listed([b''] * 3)
  stored.is_prepared = tfds.RecordSource.is_prepared
  config = configuration.load('pretrain')
  for source in (files, stored):
    part = base.Subset(source, np.arange(2))
    for each in (source, part, base.Concatenation([part, part])):
      found = from_config.make_pixel_options(config, each)
      assert found.exif == (source is files)
  assert from_config.make_pixel_options(config).exif  # single files

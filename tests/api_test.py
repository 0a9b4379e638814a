"""The Python interface: pretraining, and encoders of images in memory."""

import dataclasses
import json
import pathlib
import shutil
import types

import jax
from ml_collections import config_dict
import numpy as np
from PIL import Image
import pytest

import byol_jax
from byol_jax import (
  __main__ as command,
  api,
  configuration,
  errors,
  experiment,
  networks,
)
from byol_jax.checkpoints import checkpointer, steps
from byol_jax.data import from_config
from byol_jax.data.sampling import resize
from byol_jax.distributed import placement
from byol_jax.evals import features, while_training
from byol_jax.evaluation import pretrained
from byol_jax.training import train
from tests.helpers import encoders, tiny_folder, tiny_run, wiring

# One image in batches of other sizes: XLA sums in another order.
SAME = {'rtol': 1e-4, 'atol': 1e-5}


@pytest.fixture(scope='module')
def encode(labelled):
  """The run's encoder."""
  return byol_jax.load_encoder(labelled[1])


def images(count, height=21, width=34):
  """Noise, uint8."""
  generator = np.random.default_rng(height)
  shape = (count, height, width, 3)
  return generator.integers(0, 256, shape).astype(np.uint8)


def test_pretrain_takes_a_preset_with_overrides_and_resumes_from_anywhere(
  labelled, monkeypatch, tmp_path
):
  folder, workdir = labelled
  saved = json.loads((workdir / 'config.json').read_text())
  assert saved['batch_size'] == 8 and saved['dataset'] == str(folder)
  monkeypatch.chdir(folder.parent)
  values = tiny_folder.VALUES | {'dataset': folder.name}
  assert byol_jax.pretrain('shapes', workdir, values)['step'] == 2
  monkeypatch.chdir(tmp_path)
  assert pretrained.open_run(workdir).config.dataset == str(folder)


def test_pretrain_takes_a_configuration_and_leaves_it_as_it_is(labelled):
  config = pretrained.read_config(labelled[1])
  with config.unlocked():
    del config.training_set
  before = config.to_dict()
  assert byol_jax.pretrain(config, labelled[1])['step'] == 2
  assert config.to_dict() == before
  with pytest.raises(errors.ConfigError, match='a preset by name'):
    byol_jax.pretrain(config, labelled[1], {'seed': 1})
  config.batch_size = 0
  with pytest.raises(errors.ConfigError, match='batch_size: expected'):
    byol_jax.pretrain(config, labelled[1])


def test_representations_are_float32_and_depend_on_no_other_row(encode):
  batch = images(70)  # more than are encoded at once
  together = encode(batch)
  assert together.dtype == np.float32 and together.shape[0] == 70
  assert np.isfinite(together).all() and together.std(axis=0).max() > 0
  for i in (0, 63, 64, 69):
    np.testing.assert_allclose(encode(batch[i]), together[i : i + 1], **SAME)
  few = jax.numpy.asarray(batch[:3])
  np.testing.assert_allclose(encode(few), together[:3], **SAME)
  mixed = [images(1)[0], images(1, 50, 20)[0], images(1, 1, 9)[0] / 255]
  for row, image in zip(encode(mixed), mixed):
    np.testing.assert_allclose(row, encode(image)[0], **SAME)


def test_load_encoder_agrees_with_embed(labelled, encode, tmp_path):
  """TensorFlow crops for `embed`, numpy here, from the same pixels.

  Lossless files only: Pillow and TensorFlow decode WebP and JPEG apart by up
  to one part in 255.
  """
  folder, workdir = labelled
  output, lines = tmp_path / 'all.npz', []
  count = api.embed(workdir, str(folder), output, log=lines.append)
  assert lines[0] == 'encoding 36 images'  # not what a run would train on
  with np.load(output) as file:
    names, expected = file['names'], file['representations']
  assert count == len(names) == 36
  rows = [i for i, name in enumerate(names) if name.endswith('.png')]
  pictures = [np.asarray(Image.open(folder / names[i])) for i in rows]
  assert len(rows) >= 6
  found = encode([picture[..., :3] for picture in pictures])
  np.testing.assert_allclose(found, expected[rows], **SAME)
  listed = [folder / names[rows[0]], Image.open(folder / names[rows[1]])]
  listed += [pictures[2][..., :3], pictures[3][..., :3] / 255]
  assert api.embed(workdir, listed, output) == 4
  with np.load(output) as file:
    np.testing.assert_allclose(
      file['representations'], expected[rows[:4]], **SAME
    )
    assert [*file['names'][[0, 3]]] == [str(listed[0]), '00000003']


def stub_set(*arguments, log=print, **options):
  log('images: 192')
  return types.SimpleNamespace(
    num_examples=192, num_classes=4, fingerprint='x', num_failures=3
  )


def make_weights(config):
  """Weights of the network of a configuration, without heads."""
  network = config.network.to_dict() | {'projector': None, 'predictor': None}
  _, weights = encoders.make(num_classes=None, **network)
  return weights._replace(card=weights.card | {'licence': None})


def test_every_value_of_the_training_arrives(monkeypatch, tmp_path):
  """What the method and the input take is in the tests of their modules."""
  config = wiring.load(monkeypatch)
  sets = wiring.spy(monkeypatch, from_config, 'make_image_set', stub_set)
  runs = wiring.spy(monkeypatch, train, 'train', lambda *a, **k: {'step': 17})
  evaluations = wiring.spy(
    monkeypatch, while_training, 'make_knn', lambda *a: lambda state: None
  )
  weights = make_weights(config)
  reads = wiring.spy(
    monkeypatch, pretrained, 'read_weights', lambda path: weights
  )
  checks = wiring.spy(
    monkeypatch, placement, 'check_batch_size', lambda *a, **k: None
  )
  monkeypatch.chdir(tmp_path)
  result = api.pretrain(config, tmp_path, profile='/traces')
  assert result == {'step': 17, 'unusable_images': 3}
  assert checks[0].arguments == {
    **{'key': 'batch_size', 'batch_size': config.batch_size},
    **{'accumulate': config.batch.accumulate},
    **{'bn_group': wiring.CHANGED['network.bn_group']},
  }
  run = runs[0].arguments
  assert sets[0].arguments.pop('config') == config
  del sets[0].arguments['log']
  assert sets[0].arguments == {'split': 'train', 'held': True}
  assert run['method'].derived[0] == 'images: 192'
  assert evaluations[0].arguments['forward'] is run['method'].forward
  evaluations[0].arguments['load']('test')
  assert sets[1].arguments.pop('config') == config
  assert sets[1].arguments == {'split': 'test', 'labelled': True}
  assert run['evaluate'] is evaluations[0].result
  assert run['dataset'] is sets[0].result and run['path'] == str(tmp_path)
  assert run['method'].num_steps == 17
  assert run['method'].weights.params is weights.params
  assert run['origin'] == weights.card
  path = str(tmp_path / 'no/weights')
  changed = config.to_dict() | {'init': {'checkpoint': path}}
  assert run['config'] == changed
  path = pathlib.Path(reads[0].arguments['path']).relative_to(tmp_path)
  options = dataclasses.asdict(run['options'])
  arrived = {
    'init': {'checkpoint': str(path)},
    'input': {'steps_per_call': run['steps_per_call']},
    'eval': {'knn_every_steps': options.pop('knn_every_steps')},
    **options,
  }
  expected = {key: wiring.CHANGED[key] for key in wiring.TRAINING}
  found = configuration.flatten(config_dict.ConfigDict(arrived))
  assert found.pop('profile') == '/traces'
  assert found == expected


def test_a_run_goes_on_with_the_steps_that_auto_was(monkeypatch, tmp_path):
  runs = wiring.spy(monkeypatch, train, 'train', lambda *a, **k: {'step': 1})
  config = configuration.load('folder:cpu', {'dataset': 'here'})
  dataset = types.SimpleNamespace(
    num_examples=9_000, num_classes=None, fingerprint='0'
  )
  api.pretrain_on(dataset, config, tmp_path)
  recorded = runs[0].arguments['config']
  assert recorded['steps'] == 4_500 and config.steps == 'auto'
  # A later version may have another rule.
  record = {'config': recorded | {'steps': 4_321}}
  monkeypatch.setattr(checkpointer, 'read_record', lambda folder: record)
  api.pretrain_on(dataset, config, tmp_path)
  again = runs[1].arguments
  assert again['method'].num_steps == again['config']['steps'] == 4_321
  api.pretrain_on(
    dataset,
    configuration.load('folder:cpu', {'dataset': 'here', 'steps': 99}),
    tmp_path,
  )
  assert runs[2].arguments['config']['steps'] == 99


def read_arrays(workdir):
  """The newest checkpoint's arrays by path."""
  return checkpointer.read_arrays(workdir / 'checkpoints')[0]


def test_a_run_starts_from_the_weights_of_another(
  labelled, monkeypatch, tmp_path
):
  """At a rate of 0 the parameters stay as they are."""
  folder, workdir = labelled
  monkeypatch.chdir(workdir.parent)
  values = tiny_folder.VALUES | {
    'dataset': str(folder),
    'init.checkpoint': workdir.name,
    'schedule.base_rate': 0.0,
    'network.predictor': (24, 8),
  }
  assert byol_jax.pretrain('shapes', tmp_path / 'run', values)['step'] == 2
  saved = json.loads((tmp_path / 'run/config.json').read_text())
  assert saved['init'] == {'checkpoint': str(workdir)}
  before, after = map(read_arrays, (workdir, tmp_path / 'run'))
  kept = 'online_params/'
  for name in before:
    part = name.removeprefix(kept)
    if part == name or part.startswith('predictor'):
      continue
    np.testing.assert_array_equal(after[name], before[name])
    # A moving average of what is equal, up to rounding.
    target = after[f'target_params/{part}']
    np.testing.assert_allclose(target, before[name], rtol=1e-6)
  ends = '/mean_ema/counter'
  names = [k for k in before if 'online_state/tiny' in k and k.endswith(ends)]
  counter = names[0]
  assert after[counter] == 2 * before[counter]
  assert after[f'{kept}predictor/linear/w'].shape == (8, 24)
  # Resumes without the weights, from any folder.
  values['init.checkpoint'] = str(workdir)
  monkeypatch.setattr(pretrained, 'read_weights', None)
  opened = wiring.spy(monkeypatch, steps, 'open_manager')
  assert byol_jax.pretrain('shapes', tmp_path / 'run', values)['step'] == 2
  # Its record is read once, and then it is opened to save.
  assert [x.arguments.get('writes', False) for x in opened] == [False, True]


@pytest.mark.parametrize(
  'changes, pattern',
  (
    ({'network.encoder': 'MiniResNet'}, "expected .*'mini_res_net'.*tiny_res"),
    ({'network.width': 1.0}, r"batchnorm_0/offset': expected \[1, 1, 1, 8\]"),
  ),
)
def test_weights_that_do_not_fit_leave_no_workdir(
  labelled, tmp_path, changes, pattern
):
  values = tiny_folder.VALUES | {
    'dataset': str(labelled[0]), 'init.checkpoint': str(labelled[1])
  }  # fmt: skip
  with pytest.raises(errors.DataError, match=pattern):
    byol_jax.pretrain('shapes', tmp_path / 'run', values | changes)
  assert not [*tmp_path.iterdir()]


SHARED = {
  'data_dir': 'no/place',
  'labels': 'auto',
  'weights': 'target',
  'calibration_batches': 7,
  'seed': 9,
  'batch_size': 24,
}
OF_ONE_SET = SHARED | {'dataset': 'no/other'}
GRID = OF_ONE_SET | {
  'rates': (0.5, 0.25),
  'weight_decays': (1e-4,),
  'lengths': (3.0,),
  'length_unit': 'steps',
  'momentum': 0.25,
  'warmup_share': 0.125,
  'label_smoothing': 0.25,
  'encoder_rate': 0.5,
  'batch_norm': 'frozen',
  'bn_decay': 0.75,
  'metric': 'mean_per_class',
}
EVALUATIONS = {
  'knn': OF_ONE_SET | {'ks': (2, 3), 'temperatures': (0.5,)},
  'linear': OF_ONE_SET
  | {
    'epochs': 3.0,
    'rates': (0.5, 0.25),
    'momentum': 0.25,
    'logit_clip': 5.0,
    'logit_penalty': 0.125,
    'features': 'cached',
    'augmentation': 'pretraining',
  },
  'transfer': SHARED
  | {
    'datasets': 'dtd',
    'eval_crop': 'crop',
    'min_lambda': 0.5,
    'max_lambda': 8.0,
    'num_lambdas': 3,
    'max_iterations': 20,
  },
  'online': OF_ONE_SET,
  'finetune': GRID | {'refit': True},
  'semisup': GRID | {'fractions': (0.25,), 'lists': 'own'},
}


@pytest.fixture
def run_of_changed(monkeypatch, tmp_path):
  """A run with the changed configuration, its functions not built."""
  return pretrained.Run(
    tmp_path, '', wiring.load(monkeypatch), None, {'num_classes': 3}
  )


@pytest.mark.parametrize('name', EVALUATIONS)
def test_every_value_of_an_evaluation_arrives(
  monkeypatch, run_of_changed, name
):
  changed = EVALUATIONS[name]
  preset = configuration.flatten(configuration.load(f'evals/{name}'))
  assert changed.keys() == preset.keys()
  assert not [key for key, value in preset.items() if value == changed[key]]
  monkeypatch.setattr(pretrained, 'open_run', {'no/run': run_of_changed}.get)
  encoder = types.SimpleNamespace(name='target', step=7)
  encoders = wiring.spy(
    monkeypatch, pretrained, 'open_encoder', lambda *a, **k: encoder
  )
  sets = wiring.spy(monkeypatch, from_config, 'make_image_set', stub_set)
  augments = wiring.spy(monkeypatch, experiment, 'make_augments')
  asked = []

  def measure(options, encoder, load, log, augment):
    asked.append((options, encoder, augment))
    assert load('fit') is sets[-1].result
    return {'hits': 1}

  protocol = api.PROTOCOLS[name]
  monkeypatch.setattr(protocol, 'measure_accuracy', measure)
  monkeypatch.setattr(protocol, 'list_headlines', lambda results: [])
  words = [f'--config.{key}={value}' for key, value in changed.items()]
  words += ['--workdir=no/run', '--step=7']
  assert command.main([name, *words]) == 0
  ((options, given, augment),) = asked
  assert augment is augments[0].result[0]
  assert given is encoder
  (opened,) = (call.arguments for call in encoders)
  assert opened.pop('run') is run_of_changed and opened.pop('step') == 7
  data = sets[0].arguments['config']
  where = {key: data[key] for key in ('dataset', 'data_dir', 'seed')}
  found_labels = {'labels': data.data.labels}
  if name == 'transfer':  # its sets are options
    assert where.pop('dataset') == run_of_changed.config.dataset
  options = dataclasses.asdict(options)
  assert options | opened | where | found_labels == changed
  # The seed arrives twice.
  assert where | found_labels | opened | options == changed
  # All else is that of the pretraining, the crop of an evaluation too.
  rest = config_dict.ConfigDict(run_of_changed.config)
  rest.update(where)
  rest.data.update(found_labels)
  assert data == rest and sets[0].arguments['split'] == 'fit'


def test_an_encoder_has_the_weights_and_the_crop_of_its_run(
  monkeypatch, run_of_changed
):
  config = run_of_changed.config
  forward = networks.make_forward(
    num_classes=3, axis_name=None, **config.network
  )
  params, state = tiny_run.random_network(forward)
  made = features.Encoder(forward, params, state, 4, 'target')
  monkeypatch.setattr(pretrained, 'open_run', lambda workdir: run_of_changed)
  opened = wiring.spy(
    monkeypatch, pretrained, 'open_encoder', lambda *a, **k: made
  )
  found = byol_jax.load_encoder('no/run', 'target')
  assert opened[0].arguments == {
    'run': run_of_changed, 'weights': 'target', 'step': None
  }  # fmt: skip
  first, second = (json.loads(x.to_json()) for x in (found.config, config))
  assert first == second and found.image_size == 24
  assert found.params.keys() == params.keys()
  assert found.num_classes == 3 and found.card['weights'] == 'target'
  image = images(1)
  pixels = resize.convert_image(image[0])
  expected = resize.crop_for_evaluation(pixels, 24, 'whole')
  np.testing.assert_array_equal(found.preprocess(image)[0], expected)


@pytest.mark.parametrize('path', ('', '~nosuchuser/x', 'http://x/y', 'x\0'))
def test_what_is_no_path_is_refused(path, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  for call in (
    lambda: byol_jax.pretrain('shapes', path),
    lambda: byol_jax.load_encoder(path),
    lambda: api.embed('runs/x', path, 'out.npz'),
    lambda: api.embed('runs/x', 'images', path),
  ):
    with pytest.raises(errors.ConfigError, match='expected a local path'):
      call()


def test_a_run_goes_on_with_the_engine_that_it_began_with(
  labelled, tmp_path, monkeypatch, caplog
):
  folder, workdir = labelled
  copied = shutil.copytree(workdir, tmp_path / 'run')
  read = lambda: json.loads((copied / 'config.json').read_text())['input']
  assert read()['engine'] == 'tensorflow'  # which the tests have installed
  values = tiny_folder.VALUES | {'dataset': str(folder)}
  monkeypatch.setattr(from_config, '_has_tensorflow', lambda: False)
  with pytest.raises(errors.ConfigError, match=r'found none: .*=threads'):
    api.pretrain('shapes', copied, values)
  api.pretrain('shapes', copied, values | {'input.engine': 'threads'})
  assert "'threads' decodes from here on, 'tensorflow' did" in caplog.text
  assert read()['engine'] == 'threads'


def test_the_package_names_what_it_offers():
  shown = {*dir(byol_jax)}
  assert {'errors', 'load_encoder', 'pretrain', '__version__'} <= shown
  for name, kind in vars(errors).items():
    if isinstance(kind, type) and issubclass(kind, errors.UserError):
      assert name in shown and getattr(byol_jax, name) is kind
  with pytest.raises(AttributeError, match='no_such'):
    _ = byol_jax.no_such

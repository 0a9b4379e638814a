"""The configurations hold the paper's numbers and fit their factories."""

import inspect

import pytest

from byol_jax import (
  augment,
  byol,
  configuration,
  errors,
  experiment,
  losses,
  networks,
  optimizers,
  schedules,
)
from byol_jax.data import catalog
from configs import places365, pretrain
from configs.evals import linear
from configs.small import imagenette

IMAGENET = 1_281_167
# method.md 4.3, 4.4: epochs, batch, base rate, weight decay, tau, K, W.
SPEC = {
  '40': (40, 4096, 0.45, 1e-6, 0.97, 12_511, 3_127),
  '100': (100, 4096, 0.45, 1e-6, 0.99, 31_278, 3_127),
  '300': (300, 4096, 0.3, 1e-6, 0.99, 93_835, 3_127),
  '1000': (1000, 4096, 0.2, 1.5e-6, 0.996, 312_784, 3_127),
  '1000_batch512': (1000, 512, 0.4, 1.5e-6, 0.9995, 2_502_279, 25_022),
}
# The shortest and longest run that takes the numbers of a preset.
LENGTHS = {
  '40': (1, 63),
  '100': (64, 173),
  '300': (174, 547),
  '1000': (548, 5000),
}


def test_imagenette_is_the_quick_setup_of_the_official_readme():
  config = imagenette.get_config()  # method.md 4.5
  sizes = (config.batch_size, config.epochs, config.image_size)
  assert sizes == (256, 1000, 128)
  assert config.schedule.base_rate == 2.0 and config.target.base_tau == 0.996
  assert config.optimizer.weight_decay == 1e-6
  assert config.network.encoder == 'ResNet18'


def test_cifar10_has_the_published_settings_of_solo_learn():
  config = configuration.load('cifar10')
  found = configuration.flatten(config)
  assert (found['batch_size'], found['epochs']) == (256, 1000)
  assert (found['network.encoder'], found['network.stem']) == (
    *('ResNet18', 'small'),
  )
  assert config.optimizer.to_dict() == {
    **{'name': 'lars', 'weight_decay': 1e-5, 'momentum': 0.9},
    **{'trust_coefficient': 0.02, 'clip_trust_ratio': True},
  }
  assert found['schedule.base_rate'] == 1.0
  assert found['schedule.warmup_epochs'] == 10
  assert config.network.projector == config.network.predictor == (4096, 256)
  assert (config.target.base_tau, config.target.schedule) == (0.99, 'cosine')
  for view, solarize in (('view1', 0.0), ('view2', 0.2)):
    expected = pretrain.view(0.0, solarize).to_dict()
    assert config.augment[view].to_dict() == expected
  # Its results in docs/results.md are of the product.
  assert not configuration.load('cifar10:cpu').optimizer.clip_trust_ratio


def test_cifar10_in_minutes_has_the_rate_and_decay_of_lightly():
  """Theirs is for 128 images and a quarter of our loss: -cosine, the mean."""
  config = configuration.load('cifar10:200')
  assert config.optimizer.name == 'sgd'
  assert 4 * config.schedule.base_rate * 128 / 256 == pytest.approx(0.06)
  assert config.optimizer.weight_decay / 4 == pytest.approx(5e-4)
  # A call of 25 steps ends at each log line, checkpoint and evaluation.
  config_log = config.log.every_steps, config.checkpoint.every_steps
  for every in (*config_log, config.eval.knn_every_steps):
    assert every % 25 == 0


@pytest.mark.parametrize('name', list(SPEC))
def test_a_preset_has_the_published_numbers(name):
  assert pretrain.PRESETS.keys() == SPEC.keys()
  config = pretrain.get_config(name)
  epochs, batch_size, rate, weight_decay, tau, num_steps, warmup = SPEC[name]
  assert (config.epochs, config.batch_size) == (epochs, batch_size)
  assert config.schedule.base_rate == rate
  assert config.optimizer.weight_decay == weight_decay
  assert config.target.base_tau == tau
  steps = [
    schedules.count_steps(length, IMAGENET, config.batch_size)
    for length in (config.epochs, config.schedule.warmup_epochs)
  ]
  assert steps == [num_steps, warmup]
  assert config.optimizer.name == 'lars'
  assert config.optimizer.momentum == 0.9
  assert config.optimizer.trust_coefficient == 1e-3
  assert config.target.schedule == 'cosine' and config.seed == 0
  network = config.network
  assert network.projector == network.predictor == (4096, 256)
  assert (network.bn_decay, network.bn_epsilon) == (0.9, 1e-5)
  assert (network.encoder, network.width, network.version) == ('ResNet50', 1, 1)
  assert network.gamma_init == 'ones' and config.image_size == 224


def test_places365_has_the_values_of_imagenet_and_its_own_steps():
  config = places365.get_config()  # method.md 5.9
  found, expected = (
    configuration.flatten(x) for x in (config, pretrain.get_config('1000'))
  )
  assert {k for k in found if found[k] != expected[k]} == {'dataset'}
  facts = catalog.find_facts(config.dataset)
  built = experiment.build(config, facts.num_train, facts.num_classes)
  assert built.num_steps == 440_297
  assert (facts.num_train, facts.num_test) == (1_803_460, 36_500)
  assert facts.num_classes == 365
  assert facts.test_split == 'validation'  # `test` has no labels
  evaluation = linear.get_config('places365')
  assert evaluation.dataset == config.dataset
  evaluation.dataset = None
  assert evaluation.to_dict() == linear.get_config().to_dict()


def test_the_two_recipes_are_table_six():
  config = pretrain.get_config().augment
  for view, blur, solarize in ((config.view1, 1, 0), (config.view2, 0.1, 0.2)):
    strengths = {'brightness': 0.4, 'contrast': 0.4, 'saturation': 0.2}
    assert view.to_dict() == {
      'crop': {'area': (0.08, 1.0), 'ratio': (3 / 4, 4 / 3)},
      'flip': {'probability': 0.5},
      'jitter': {'probability': 0.8, 'hue': 0.1, **strengths},
      'grayscale': {'probability': 0.2},
      'blur': {'probability': blur, 'sigma': (0.1, 2.0)},
      'solarize': {'probability': solarize, 'threshold': 0.5},
    }


@pytest.mark.parametrize('preset', ('pretrain:1000', 'shapes'))
@pytest.mark.parametrize('epochs', (0.01, 3, 7, 40))
def test_warmup_is_at_most_a_quarter_of_a_run(preset, epochs):
  config = configuration.load(preset, {'epochs': epochs, 'batch_size': 8})
  asked = schedules.count_steps(config.schedule.warmup_epochs, 4000, 8)
  total = schedules.count_steps(epochs, 4000, 8)
  rate = schedules.make_learning_rate(
    num_examples=4000, batch_size=8, total_steps=total, **config.schedule
  )
  assert rate.warmup_steps == min(asked, total // 4)
  numbers = experiment.build(config, 4000, 10).derived[1]
  assert f', {rate.warmup_steps:,} of warm-up' in numbers
  assert ('0.25 of the run' in numbers) == (asked > total // 4)
  peak = rate.schedule(rate.warmup_steps)
  assert float(peak) == pytest.approx(rate.peak)
  assert float(rate.schedule(total)) == pytest.approx(0, abs=1e-6 * rate.peak)


def test_more_steps_than_an_int32_counts_are_refused():
  config = configuration.load('shapes', {'epochs': 1e5, 'batch_size': 8})
  with pytest.raises(
    errors.ConfigError, match=r'epochs: .* 2,500,000,000,000 s'
  ):
    experiment.build(config, 2 * 10**8, 10)


@pytest.mark.parametrize('preset', LENGTHS)
def test_other_lengths_take_the_preset_nearest_in_ratio(preset):
  for epochs in LENGTHS[preset]:
    # Two presets are equally near at the geometric mean of their lengths.
    ratios = {n: max(epochs / int(n), int(n) / epochs) for n in LENGTHS}
    assert min(ratios, key=ratios.get) == preset
    config = pretrain.get_config(str(epochs))
    assert (config.epochs, config.preset) == (epochs, preset)
    assert config.schedule.base_rate == SPEC[preset][2]
    assert config.target.base_tau == SPEC[preset][4]
    assert config.preset_epochs == int(preset)


def parameters(function):
  return set(inspect.signature(function).parameters)


def test_a_section_is_the_arguments_of_its_factory():
  config = pretrain.get_config()
  others = {'num_classes', 'axis_name', 'precision', 'parts_in_channels'}
  others |= {'recompute_blocks', 'one_pass', 'stem_of_blocks', 'fold_norms'}
  assert set(config.network) == parameters(networks.make_forward) - others
  for view in config.augment.values():
    assert set(view) - {'crop'} == parameters(augment.make_augment)
    strengths = parameters(augment.draw_jitter) - {'key'}
    assert set(view.jitter) - {'probability'} == strengths
  for table, factories, first in (
    (pretrain.OPTIMIZERS, optimizers.OPTIMIZERS, 'learning_rate'),
    (pretrain.OBJECTIVES, losses.OBJECTIVES, 'devices'),
  ):
    for name, settings in table.items():
      assert set(settings) == parameters(factories[name]) - {first}
  assert set(config.optimizer) == {'name', *pretrain.OPTIMIZERS['lars']}
  assert set(config.objective) == {'name', *pretrain.OBJECTIVES['regression']}
  assert set(config.target) == parameters(byol.make_target) - {'total_steps'}


def test_the_linear_evaluation_is_the_papers():
  config = linear.get_config()
  assert config.rates == (0.4, 0.3, 0.2, 0.1, 0.05)
  assert (config.epochs, config.batch_size, config.momentum) == (80, 1024, 0.9)
  assert config.features == 'augmented'

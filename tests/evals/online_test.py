"""The classifier of a pretraining, against the computation by hand."""

import jax
import numpy as np
import pytest

import byol_jax
from byol_jax import errors, metrics, networks
from byol_jax.convert import parity
from byol_jax.data import from_config
from byol_jax.evals import features, online
from byol_jax.evals.online import Options
from byol_jax.evaluation import pretrained
from tests.helpers import encoders, fakes

NUM_CLASSES = 7


@pytest.fixture(scope='module')
def encoder():
  forward, weights = encoders.make(num_classes=NUM_CLASSES, stem='small')
  return features.make_encoder(forward, weights.params, weights.state, 'online')


def make_set(num_classes=NUM_CLASSES, count=27):
  generator = np.random.default_rng(0)
  images = generator.random((count, 16, 16, 3), np.float32)
  labels = generator.integers(0, num_classes, count)
  return fakes.ImageSet(images, labels, num_classes)


def measure(encoder, dataset):
  return online.measure_accuracy(
    Options(batch_size=8), encoder, {'test': dataset}.__getitem__
  )


def test_accuracy_is_that_of_the_linear_layer_on_the_representation(
  encoder, monkeypatch
):
  monkeypatch.setattr(metrics, 'ROWS', 10)
  dataset = make_set()
  dataset.unreadable = (4,)
  kept = [i for i in range(27) if i != 4]
  represent = jax.jit(
    lambda x: networks.represent(
      encoder.forward, encoder.params, encoder.state, x
    )
  )
  layer = encoder.params['classifier']
  values = np.float64(represent(dataset.images[kept]))
  scores = values @ np.float64(layer['w']) + layer['b']
  order = np.argsort(-scores, axis=1)
  is_label = order == dataset.labels[kept][:, None]
  expected = {f'top{k}': is_label[:, :k].any(1).sum() / 26 for k in (1, 5)}
  assert 0 < expected['top1'] < expected['top5'] < 1
  facts = {'test': 26, 'num_classes': NUM_CLASSES}
  found = measure(encoder, dataset)
  assert found == expected | facts
  names = [headline.name for headline in online.list_headlines(found)]
  assert names == ['online top-1', 'online top-5']


def test_what_has_no_classifier_or_other_classes_is_refused(encoder):
  with pytest.raises(errors.DataError, match=r'has 7 classes.* has 3; use'):
    measure(encoder, make_set(num_classes=3))
  forward, weights = encoders.make(num_classes=None, stem='small')
  bare = features.make_encoder(forward, weights.params, weights.state, 'x')
  dataset = make_set()
  with pytest.raises(errors.DataError, match='the x encoder has no classifier'):
    measure(bare, dataset)
  assert dataset.reads == 0


def test_a_run_is_evaluated_by_its_own_classifier(
  labelled, tmp_path, monkeypatch
):
  batches = {'batch_size': 4}
  found = byol_jax.online(labelled[1], overrides=batches)
  loaded = byol_jax.load(labelled[1])
  config = pretrained.open_run(labelled[1]).config
  test = from_config.make_image_set(config, 'test')
  hits, apply = [], jax.jit(loaded.apply)
  for batch in test.eval_batches(4):
    images, labels, mask = (batch[k][0] for k in ('images', 'labels', 'mask'))
    outputs, _ = apply(loaded.params, loaded.state, images)
    hits += list((np.argmax(outputs.logits, axis=1) == labels)[mask])
  assert found == {
    'top1': np.mean(hits), 'test': len(hits), 'num_classes': 3
  }  # fmt: skip
  # An export that carries the classifier gives the same.
  monkeypatch.setattr(parity.compare_encoders, '__defaults__', ([(33, 46)],))
  byol_jax.export(labelled[1], 'npz', tmp_path / 'x', parts='classifier')
  assert byol_jax.online(tmp_path / 'x', overrides=batches) == found

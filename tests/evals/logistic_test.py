"""Logistic regression against scikit-learn, on raw representations."""

import numpy as np
import pytest

from byol_jax import errors
from byol_jax.evals import logistic

linear_model = pytest.importorskip('sklearn.linear_model')
CLASSES = 6


def make_points(seed=0, count=240, dim=40, noise=2.5):
  """Representations like a ResNet's: not negative, of very unequal spread."""
  centres = np.random.default_rng(99).normal(size=(CLASSES, dim))
  random = np.random.default_rng(seed)
  labels = random.permutation(np.arange(count) % CLASSES)
  values = centres[labels] + noise * random.normal(size=(count, dim))
  values = np.maximum(values * np.geomspace(1, 0.01, dim) + 0.5, 0)
  return values.astype(np.float32), labels


def compute_objective(weights, bias, values, labels, penalty):
  """The objective in float64, and its gradient by weights and bias."""
  scores = values.astype(np.float64) @ weights + bias
  scores -= scores.max(axis=1, keepdims=True)
  shares = np.exp(scores)
  shares /= shares.sum(axis=1, keepdims=True)
  own = np.eye(CLASSES)[labels]
  excess = shares - own
  # Not log(shares): a loss near 0 would lose its digits.
  losses = np.log1p(
    ((1 - own) * np.exp(scores)).sum(axis=1)
    / np.exp((own * scores).sum(axis=1))
  )
  return losses.sum() + penalty / 2 * np.square(weights).sum(), np.append(
    values.T @ excess + penalty * weights, excess.sum(axis=0)
  )


def compute_error(found, model):
  """Relative distance of the weights from those of scikit-learn."""
  norm = np.linalg.norm(model.coef_)
  return np.linalg.norm(found.weights.T - model.coef_) / norm


def fit_reference(values, labels, penalty):
  model = linear_model.LogisticRegression(
    C=1 / penalty, tol=1e-10, max_iter=100_000, solver='newton-cg'
  )
  return model.fit(values.astype(np.float64), labels)


# More images than features, and fewer. Where the penalty is so weak that the
# images are separated, the objective is nearly flat: weights of another 5 %
# have the same value in float32.
@pytest.mark.parametrize('count', (240, 30))
def test_the_optimum_is_that_of_scikit_learn(count):
  values, labels = make_points(count=count)
  regression = logistic.Regression(values, labels, CLASSES)
  zero = np.zeros((40, CLASSES)), np.zeros(CLASSES)
  found = None
  for penalty, error in ((1e4, 1e-3), (1.0, 1e-3), (1e-2, 5e-3), (1e-5, 5e-2)):
    found, _ = regression.fit(penalty, found)
    model = fit_reference(values, labels, penalty)
    data = values, labels, penalty
    best, _ = compute_objective(model.coef_.T, model.intercept_, *data)
    value, gradient = compute_objective(*found, *data)
    _, start = compute_objective(*zero, *data)
    assert value < (1 + (1e-5 if penalty > 1e-3 else 1e-3)) * best
    assert np.linalg.norm(gradient) < 1e-3 * np.linalg.norm(start)
    assert compute_error(found, model) < error


def test_a_start_changes_the_time_and_not_the_result():
  values, labels = make_points()
  regression = logistic.Regression(values, labels, CLASSES)
  near, _ = regression.fit(0.15)
  far, _ = logistic.Regression(*make_points(seed=2), CLASSES).fit(3.0)
  model = fit_reference(values, labels, 0.1)
  num_iterations = {}
  for name, start in {'none': None, 'near': near, 'far': far}.items():
    found, num_iterations[name] = regression.fit(0.1, start)
    assert compute_error(found, model) < 5e-3
  assert num_iterations['near'] < num_iterations['none']


def test_classes_of_sigmoids_are_separate_problems_without_what_is_ignored():
  values, labels = make_points()
  targets = np.stack([labels == i for i in range(3)], axis=1).astype(np.int8)
  targets[::5, 1] = -1
  found, _ = logistic.Regression(values, targets, 3).fit(0.1)
  for i in range(3):
    rows = targets[:, i] >= 0
    model = fit_reference(values[rows], targets[rows, i], 0.1)
    own = logistic.Classifier(found.weights[:, [i]], found.bias[[i]])
    assert compute_error(own, model) < 5e-3
    np.testing.assert_allclose(own.bias, model.intercept_, rtol=5e-3)


def test_a_class_without_an_image_is_never_the_best():
  values, labels = make_points()
  rows = labels != 2
  regression = logistic.Regression(values[rows], labels[rows], CLASSES)
  found, _ = regression.fit(0.1)
  assert set(np.argmax(found.score(values), axis=1)) == {0, 1, 3, 4, 5}
  assert found.bias[2] == -np.inf
  whole, _ = logistic.Regression(values, labels, CLASSES).fit(0.1, found)
  assert np.isfinite(whole.bias).all()


@pytest.mark.parametrize(
  'change, words',
  (
    (lambda v, t: (v, t * 0), 'at least two classes of 6, found 1'),
    (lambda v, t: (v, t - 1), r'labels in \[0, 6\), found -1'),
    (lambda v, t: (v, t + 1), r'labels in \[0, 6\), found 6'),
    (lambda v, t: (v * 0 + 0.5, t), 'all 240 representations are equal'),
    (lambda v, t: (v, np.ones((len(t), 6))), 'at least two classes'),
  ),
)
def test_what_has_no_classifier_is_refused(change, words):
  with pytest.raises(errors.DataError, match=words):
    logistic.Regression(*change(*make_points()), CLASSES)

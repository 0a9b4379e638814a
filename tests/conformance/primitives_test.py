"""Single functions: every change of a vector is seen, and keys are read."""

import math
import pathlib

import numpy as np
import pytest

from byol_jax.conformance import primitives, run

VECTORS = pathlib.Path(__file__).parent


@pytest.mark.parametrize(
  'key, change',
  [
    ('lr1000', 1e-4),
    ('tau1000', 2e-5),
    ('loss', 1e-4),
    ('lars/final/head/linear/b', 1e-4),
    ('bright_-0.3', 2e-5),
    ('contrast_1.4', 2e-5),
    ('hsv', 2e-5),
    ('blur_0.9', 2e-5),
    ('blur224_1.3', 2e-5),
    ('sat_0.8', math.nan),
  ],
)
def test_a_changed_result_differs(key, change):
  arrays = run.read_arrays(VECTORS / 'primitives.npz')
  arrays[key].flat[-1] += change
  is_needed = lambda name: primitives.is_input(name) or name == key
  if key.startswith('lars'):
    is_needed = lambda name: name.startswith('lars')
  arrays = {name: value for name, value in arrays.items() if is_needed(name)}
  found = list(primitives.compare_primitives(arrays))
  assert [c.key for c in found if not c.holds] == [key]


def test_numbers_are_read_from_the_keys():
  """Other images and arguments, beside formulas in numpy."""
  rng = np.random.default_rng(3)
  image = rng.uniform(size=(3, 40, 31, 3)).astype(np.float32)
  first = image[0].astype(np.float64)
  center = first.mean((0, 1))
  taps = np.exp(-(np.arange(-2, 3) ** 2) / (2 * 0.85**2))  # 40 / 10: 5 wide
  taps /= taps.sum()
  blurred = np.pad(first, [(2, 2), (2, 2), (0, 0)])
  blurred = sum(w * blurred[i : i + 40] for i, w in enumerate(taps))
  blurred = sum(w * blurred[:, i : i + 31] for i, w in enumerate(taps))
  steps = np.array([0, 3127, 50_000, 93_834])
  cosine = 0.5 * (1 + np.cos(np.pi * (steps - 3127) / (93_835 - 3127)))
  bias = rng.normal(size=(4, 5)).astype(np.float32)  # init, two gradients
  results = {
    'bright_+0.25': np.clip(first + 0.25, 0, 1),
    'contrast_0.75': np.clip(0.75 * (first - center) + center, 0, 1),
    'solarize_0.4': np.where(first < 0.4, first, 1 - first),
    'blur_0.85': blurred,
    'gray': np.repeat((first @ [0.2989, 0.587, 0.114])[..., None], 3, -1),
    'lr300': np.where(steps < 3127, 4.8 * steps / 3127, 4.8 * cosine),
    'tau300': 1 - 0.01 * 0.5 * (1 + np.cos(np.pi * steps / 93_835)),
    'lars/final/a/~/b/b': bias[0] - 0.7 * (1.9 * bias[1] + bias[2]),
  }
  others = {
    'img': image,
    'steps': steps,
    'lars/init/a/~/b/b': bias[0],
    'lars/grad0/a/~/b/b': bias[1],
    'lars/grad1/a/~/b/b': bias[2],
    'sharpen_2.0': image[0],  # two unknown keys
    'bright': image[0],
  }
  found = list(primitives.compare_primitives(results | others))
  assert {comparison.key for comparison in found} == results.keys()
  assert [comparison for comparison in found if not comparison.holds] == []

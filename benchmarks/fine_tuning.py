"""Accuracy of a fine-tuned encoder beside a linear head on the frozen one.

PYTHONPATH=. python benchmarks/fine_tuning.py WORKDIR DATASET
  [--output=FILE.json] [--labelled=1500] [--steps=400] [--parts=3]

Runs `fine_tune` of docs/python.md on labelled training images of DATASET, from
the encoder of WORKDIR, once for each of several parts that have no image in
common. The linear head is a ridge regression on standardised representations;
the best of four strengths on the test images counts, which favours it.
"""

import io
import os
import pathlib
import re

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax
import numpy as np
from PIL import Image

from benchmarks import results_file
import byol_jax
from byol_jax.data.sources import lookup

PAGE = pathlib.Path(__file__).parents[1] / 'docs/python.md'
RIDGES = (1e-2, 1e-1, 1.0, 10.0)
NUM_TESTS = 1000


def read_example():
  """Returns the function of the page."""
  blocks = re.findall(r'^```python\n(.*?)^```', PAGE.read_text(), re.M | re.S)
  (block,) = (block for block in blocks if 'def fine_tune' in block)
  names = {}
  exec(block, names)
  return names['fine_tune']


def read_images(encoder, dataset, split, rows):
  """Crops, float32 [N, S, S, 3], and labels, int [N]."""
  options = {'data_dir': None, 'holdout': 'paper', 'heldout_share': 0.0}
  source = lookup.open_source(dataset, split, **options)
  encoded, labels = zip(*(source.read(row) for row in rows), strict=True)
  images = [Image.open(io.BytesIO(octets)) for octets in encoded]
  return encoder.preprocess(images), np.array(labels)


def represent(encoder, params, state, images):
  """Representations of crops, [N, S, S, 3] -> [N, D]."""
  apply = jax.jit(lambda x: encoder.apply(params, state, x)[0].representation)
  batches = np.array_split(images, len(images) // 100)
  return np.concatenate([apply(batch) for batch in batches])


def fit_linear_head(train, test, num_classes):
  """The accuracy of the best strength; each of (representations, labels)."""
  mean, scale = train[0].mean(0), train[0].std(0) + 1e-6
  features, tests = (
    np.c_[(x - mean) / scale, np.ones(len(x))] for x, _ in (train, test)
  )
  covariance = features.T @ features / len(features)
  targets = features.T @ np.eye(num_classes)[train[1]] / len(features)
  heads = [
    np.linalg.solve(covariance + ridge * np.eye(len(covariance)), targets)
    for ridge in RIDGES
  ]
  return max(
    float(np.mean((tests @ head).argmax(1) == test[1])) for head in heads
  )


def main():
  parser = results_file.make_parser(__doc__)
  parser.add_argument('workdir')
  parser.add_argument('dataset')
  parser.add_argument('--labelled', type=int, default=1500)
  parser.add_argument('--steps', type=int, default=400)
  parser.add_argument('--parts', type=int, default=3)
  arguments = parser.parse_args()
  encoder, fine_tune = byol_jax.load(arguments.workdir), read_example()
  rows = range(NUM_TESTS)
  tests, answers = read_images(encoder, arguments.dataset, 'test', rows)
  num_classes, parts = int(answers.max()) + 1, []
  for part in range(arguments.parts):
    rows = range(part * arguments.labelled, (part + 1) * arguments.labelled)
    images, labels = read_images(encoder, arguments.dataset, 'train', rows)
    frozen = fit_linear_head(
      (represent(encoder, encoder.params, encoder.state, images), labels),
      (represent(encoder, encoder.params, encoder.state, tests), answers),
      num_classes,
    )
    (params, head), state = fine_tune(
      encoder, images, labels, num_classes, arguments.steps
    )
    logits = represent(encoder, params, state, tests) @ np.asarray(head)
    tuned = float(np.mean(logits.argmax(1) == answers))
    parts.append({'linear_head': frozen, 'fine_tuned': tuned})
    print(parts[-1], flush=True)
  result = {
    'what': 'accuracy on test images: linear head on the frozen encoder, and'
    ' fine-tuned; one row for each part of the labelled images',
    'encoder': repr(encoder),
    'labelled_images': arguments.labelled,
    'test_images': NUM_TESTS,
    'steps': arguments.steps,
    'parts': parts,
  }
  results_file.write_result(result, arguments.output)


if __name__ == '__main__':
  main()

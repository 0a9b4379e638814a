"""Largest relative error of exported encoders, by framework and image size.

PYTHONPATH=. python benchmarks/export_parity.py [--output=FILE.json] [PATH ...]

`export` writes each encoder for every framework that can hold it and compares
it there with ours, max|a - b| / max|b|. The encoders are ResNet-50 from random
weights after three training steps, the same imported from a checkpoint in the
published format, and each PATH: a workdir, or a published checkpoint. With
--large they are ResNet-200 2x and ResNet-50 4x instead, with random weights and
averages. Needs the extras `export` and `tf`. An error above 1e-5 ends it.
"""

import gc
import os
import pathlib
import shutil
import tempfile

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax

from benchmarks import results_file
import byol_jax
from byol_jax import errors
from byol_jax.checkpoints import checkpointer
from byol_jax.convert import deepmind, npz, parity
from byol_jax.tools import export
from tests.helpers import encoders, official, torchvision_operators

LARGE = {
  'ResNet-200 2x': ('ResNet200', 2.0),
  'ResNet-50 4x': ('ResNet50', 4.0),
}
PACKAGES = (
  *('torch', 'torchvision', 'timm', 'transformers', 'safetensors'),
  *('onnx', 'onnxruntime'),
)


def train_briefly(workdir):
  """Three steps of ResNet-50 on the generated images."""
  changes = {
    'network.encoder': 'ResNet50',
    'network.stem': 'imagenet',
    'image_size': 64,
    'batch_size': 8,
    'epochs': 3 * 8 / 4000,
    'log.tensorboard': False,
  }
  last = byol_jax.pretrain('shapes', workdir, changes)
  assert last['step'] == 3


def publish(workdir, file):
  """Writes the state of a run in the published format, a pickle of dill."""
  arrays, _ = checkpointer.read_arrays(workdir / 'checkpoints')
  nested = {name: {} for name in deepmind.TREES}
  for path, array in arrays.items():
    field, _, rest = path.partition('/')
    module, _, leaf = rest.rpartition('/')
    if field in nested:
      nested[field].setdefault(module, {})[leaf] = array
  official.write_file(file, {}, lambda _: nested)


def make_encoders(folder, large, paths):
  """Yields what to export, by name."""
  if large:
    for name, (encoder, width) in LARGE.items():
      (folder / name).mkdir()
      npz.write_encoder(encoders.make(encoder, width=width)[1], folder / name)
      yield name, folder / name
    return
  train_briefly(folder / 'trained')
  yield 'ResNet-50 after three steps', folder / 'trained'
  publish(folder / 'trained', folder / 'published.pkl')
  byol_jax.import_weights(folder / 'published.pkl', folder / 'imported')
  yield 'ResNet-50 imported from the published format', folder / 'imported'
  for path in paths:
    workdir = path
    if path.suffix == '.pkl':
      workdir = folder / path.stem
      byol_jax.import_weights(path, workdir)
    yield str(path), workdir


def measure(path, folder):
  """{format: {size: error}, or why it cannot hold the encoder}."""
  found = {}
  for to in export.FORMATS:
    output = folder / 'export'
    try:
      sizes = byol_jax.export(path, to, output)
      found[to] = {f'{h}x{w}': error for (h, w), error in sizes.items()}
      shutil.rmtree(output)
    except errors.ConfigError as error:
      found[to] = str(error)
    print(to, found[to], flush=True)
    jax.clear_caches()  # of the program, and the arrays that it refers to
    gc.collect()
  return found


def main():
  parser = results_file.make_parser(__doc__)
  parser.add_argument('paths', nargs='*', type=pathlib.Path, metavar='PATH')
  parser.add_argument('--large', action='store_true')
  arguments = parser.parse_args()
  torchvision_operators.define()
  found = {}
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    for name, path in make_encoders(folder, arguments.large, arguments.paths):
      print(name, flush=True)
      found[name] = measure(path, folder)
  result = {
    'what': 'largest relative error of exported encoders, max|a - b| / max|b|,'
    ' on the same two images; or why a format cannot hold the encoder',
    'tolerance': parity.TOLERANCE,
    'errors': found,
  }
  results_file.write_result(result, arguments.output, PACKAGES)


if __name__ == '__main__':
  main()

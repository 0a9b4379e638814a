"""The verb `export`: a checked folder with its card, or nothing."""

import json
import pathlib
import re
import shutil

import numpy as np
import pytest

from byol_jax import __main__ as command, errors
from byol_jax.convert import npz, parity
from byol_jax.evaluation import pretrained
from byol_jax.tools import export
from tests.helpers import full_disk


@pytest.fixture
def refused(capsys, tmp_path):
  """refused(code, pattern, *arguments): one line; the folder is as before."""

  def call(code, pattern, *arguments, **options):
    before = sorted(tmp_path.rglob('*'))
    assert command.main(['export', *map(str, arguments)]) == code
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and re.search(pattern, error), error
    assert sorted(tmp_path.rglob('*')) == before

  return call


def arguments(labelled, output, to='npz', **options):
  named = {'workdir': labelled[1], 'to': to, 'output': output, **options}
  return [f'--{name}={value}' for name, value in named.items()]


@pytest.mark.parametrize(
  'weights, parts',
  (('online', 'encoder'), ('online', 'classifier'), ('target', 'heads')),
)
def test_the_export_holds_what_was_asked_for(
  labelled, tmp_path, monkeypatch, weights, parts
):
  monkeypatch.setattr(parity.compare_encoders, '__defaults__', ([(33, 46)],))
  output = tmp_path / 'new' / 'out'
  found = export.export_encoder(
    labelled[1], 'npz', output, weights=weights, parts=parts
  )
  assert 0 < found[33, 46] <= parity.TOLERANCE
  assert [*output.parent.iterdir()] == [output]
  whole = pretrained.read_weights(labelled[1], weights)
  back = npz.read_encoder(output / npz.FILE)
  kept = ('tiny_res_net', *export.PARTS[parts])
  for tree, old in zip(back[:2], whole[:2]):
    assert tree.keys() == {k for k in old if k.split('/')[0] in kept}
    for module, leaves in tree.items():
      for name, leaf in leaves.items():
        np.testing.assert_array_equal(leaf, old[module][name])
  assert back.num_classes == (3 if parts == 'classifier' else None)
  assert (back.image_size, back.eval_crop) == (16, 'whole')


def test_the_verb_prints_the_error_and_writes_the_card(
  labelled, tmp_path, capsys
):
  output = tmp_path / 'out'
  assert command.main(['export', *arguments(labelled, output)]) == 0
  printed = capsys.readouterr().out
  error = float(re.search(r'largest relative error: (\S+) at', printed)[1])
  assert 0 < error <= 1e-5
  card = json.loads((output / export.CARD).read_text())
  assert {*card['largest_relative_error']} == {
    *('224x224', '225x225', '192x192', '64x64', '160x224')
  }
  assert card['sha256'] == pretrained.read_weights(labelled[1]).card['sha256']
  assert card['config']['batch_size'] == 8 and card['weights'] == 'online'
  assert card['preprocessing']['mean'] == [0.485, 0.456, 0.406]
  text = (output / export.README).read_text()
  assert card['sha256'] in text and '| 160x224 |' in text
  assert '16x16 pixels' in text and 'not stated' in text


def test_a_wrong_export_is_kept_aside(labelled, tmp_path, monkeypatch, capsys):
  encode = npz.open_encoder
  monkeypatch.setattr(
    npz,
    'open_encoder',
    lambda folder: lambda images: encode(folder)(images[..., ::-1]),
  )
  monkeypatch.setattr(parity.compare_encoders, '__defaults__', ([(33, 46)],))
  output = tmp_path / 'out'
  for _ in range(2):  # an older one is replaced
    assert command.main(['export', *arguments(labelled, output)]) == 1
    error = capsys.readouterr().err
    assert re.search(r'at most 1e-05, found 0\.\d+ at 33x46', error)
    assert f"{tmp_path}/out.failed'" in error
    assert [path.name for path in tmp_path.iterdir()] == ['out.failed']
  assert {path.name for path in (tmp_path / 'out.failed').iterdir()} == {
    *(npz.FILE, export.CARD, export.README)
  }
  (tmp_path / 'out.failed').rename(tmp_path / 'old')
  (tmp_path / 'out.failed').mkdir()
  (tmp_path / 'out.failed' / 'thesis').touch()
  assert command.main(['export', *arguments(labelled, output)]) == 1
  assert "/out.failed+'" in capsys.readouterr().err
  assert (tmp_path / 'out.failed' / 'thesis').exists()


@pytest.mark.parametrize(
  'options, pattern',
  (
    ({'to': 'pickle'}, r"to: expected one of \['torch', .* found 'pickle'"),
    ({'weights': 'random'}, 'weights: expected .*online'),
    ({'with': 'all'}, "with: expected one of .* found 'all'"),
  ),
)
def test_an_unknown_value(refused, labelled, tmp_path, options, pattern):
  refused(2, pattern, *arguments(labelled, tmp_path / 'out', **options))


def test_a_package_that_is_missing(refused, labelled, tmp_path, monkeypatch):
  monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
  pattern = r"onnx is not installed: pip install 'byol_jax\[export\]'"
  refused(2, pattern, *arguments(labelled, tmp_path / 'out', 'onnx'))


def test_a_place_that_cannot_be_written(refused, labelled, tmp_path):
  full = tmp_path / 'full'
  full.mkdir()
  (full / 'file').touch()
  for output in (full, full / 'file', '/'):
    refused(3, 'missing or empty', *arguments(labelled, output))
  pattern = r'output .*: cannot be written: (Not|File)'
  refused(3, pattern, *arguments(labelled, full / 'file' / 'out'))
  refused(2, 'on this machine', *arguments(labelled, 'gs://bucket/out'))


@pytest.mark.parametrize('to', ('npz', 'saved_model', 'safetensors'))
def test_a_full_disk(refused, labelled, tmp_path, to):
  with full_disk.limit_files(1_000):
    pattern = r'output .*: cannot be written: .*File too large'
    refused(3, pattern, *arguments(labelled, tmp_path / 'out', to))


def test_a_run_without_checkpoint_or_classifier(refused, labelled, tmp_path):
  output = tmp_path / 'out'
  run = tmp_path / 'run'
  run.mkdir()
  shutil.copy(labelled[1] / 'config.json', run)
  refused(3, 'no checkpoint yet', *arguments((None, run), output))
  refused(3, 'no byol_jax run', *arguments((None, tmp_path / 'x'), output))
  weights = pretrained.read_weights(labelled[1])
  params = {k: v for k, v in weights.params.items() if k != 'classifier'}
  with pytest.raises(errors.ConfigError, match="found 'classifier'"):
    export.select_parts(weights._replace(params=params), 'classifier')


def test_an_empty_folder_is_filled(labelled, tmp_path, monkeypatch):
  """Also the current one, which must not be replaced by another."""
  monkeypatch.setattr(parity.compare_encoders, '__defaults__', ([(33, 46)],))
  monkeypatch.chdir(tmp_path)
  export.export_encoder(labelled[1], 'safetensors', '.')
  names = {path.name for path in pathlib.Path().iterdir()}
  assert names == {'model.safetensors', export.CARD, export.README}

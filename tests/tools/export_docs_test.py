"""Every block of docs/export.md runs, on a run of seconds."""

import re
import shlex

import numpy as np
import pytest

from byol_jax import __main__ as command
from byol_jax.convert import parity, reference
from byol_jax.evaluation import pretrained
from tests.helpers import tiny_run

SECTIONS = re.split(
  r'^## ', (tiny_run.ROOT / 'docs/export.md').read_text(), flags=re.M
)
NAMES = {text.partition('\n')[0]: text for text in SECTIONS[1:]}
# Sections that need the extra `export`, and a package of it.
EXTRA = {'ONNX': 'onnxruntime', 'PyTorch': 'torch'}
FIRST = (SECTIONS[0], NAMES['Input'])


def run_blocks(text, variables):
  for language, block in re.findall(r'^```(\w+)\n(.*?)^```', text, re.M | re.S):
    if language == 'python':
      exec(block, variables)
      continue
    for line in block.splitlines():
      program, *words = shlex.split(line)
      assert program == 'byol-jax' and command.main(words) == 0, line


@pytest.fixture(scope='module')
def prepared(labelled, tmp_path_factory):
  """A folder after the first sections, and their variables."""
  folder, variables = tmp_path_factory.mktemp('docs'), {}
  (folder / 'runs').mkdir()
  (folder / 'runs/demo').symlink_to(labelled[1])
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    patch.setattr(parity.compare_encoders, '__defaults__', ([(33, 46)],))
    for text in FIRST:
      run_blocks(text, variables)
  return folder, variables


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=[pytest.mark.export] if name in EXTRA else [])
    for name, text in NAMES.items()
    if '```' in text
  ],
)
def test_blocks_run(name, labelled, prepared, monkeypatch):
  if name in EXTRA:
    pytest.importorskip(EXTRA[name])
  folder, variables = prepared[0], {**prepared[1]}
  monkeypatch.chdir(folder)
  monkeypatch.setattr(parity.compare_encoders, '__defaults__', ([(33, 46)],))
  if name != 'Input':
    run_blocks(NAMES[name], variables)
  if 'representation' in variables:
    weights = pretrained.read_weights(labelled[1])
    expected = reference.make_encode(weights)(variables['images'])
    # The order of sums.
    found = variables['representation']
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
  elif 'kernel' in variables:
    assert variables['kernel'].shape == (3, 3, 3, 32)

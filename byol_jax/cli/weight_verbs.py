"""The verbs of weights from and for elsewhere."""

from typing import Any

from byol_jax import configuration
from byol_jax.cli import console, registry


@registry.add_verb(
  'import',
  (
    'path',
    ...,
    'a published .pkl, or a state dict of torchvision or timm',
    registry.PATH,
  ),
  ('--workdir', ..., 'made; must not exist, or be empty', registry.PATH),
  ('--config', 'pretrain', registry.CONFIG_HELP),
  preset='pretrain',
)
def import_weights(
  path: str, workdir: str, spec: str, overrides: list[str]
) -> None:
  """Make a workdir of published weights: to go on, evaluate and export.

  Runs no code of the file. A whole checkpoint of the official code goes on at
  its step, an encoder without a run starts at step 0 with random heads. The
  configuration says what the file does not (images, rates, image_size); all of
  it but the network may differ when `pretrain` goes on in the workdir. The
  published weights are CC BY-NC 4.0: no commercial use.

  example: byol-jax import pretrain_res50x1.pkl --workdir=runs/published
  """
  configuration.load(spec, overrides, 'pretrain')
  from byol_jax.tools import import_weights as import_tool

  import_tool.import_weights(path, workdir, spec, overrides, console.print_line)


@registry.add_verb(
  'export',
  registry.ORIGIN,
  registry.STEP,
  (
    '--to',
    ...,
    'torch, timm, huggingface, onnx, safetensors, saved_model or npz',
  ),
  ('--output', ..., 'a folder that is missing or empty', registry.PATH),
  ('--weights', 'online', 'or target'),
  ('--with', 'encoder', 'alone; or classifier, heads'),
)
def export(**arguments: Any) -> None:
  """Write the encoder of a run for another framework, and check it there.

  OUTPUT is a folder of the weights and a model card, README.md and card.json.
  The export and ours get the same images of 224, 225, 192, 64 and 160x224
  pixels; a relative difference above 1e-5 is exit code 1, and the files are
  in OUTPUT.failed.

  example: byol-jax export --workdir=runs/demo --to=onnx --output=demo_onnx
  """
  from byol_jax.tools import export as export_tool

  export_tool.run(**arguments)

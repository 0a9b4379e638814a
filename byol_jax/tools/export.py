"""Writes the encoder of a run for another framework, and checks it there."""

from collections.abc import Callable
import importlib
import json
import os
import pathlib
import shutil
from typing import Any

from byol_jax import errors, files, networks, resnet
from byol_jax.convert import parity, shapes, weights as weights_lib
from byol_jax.evaluation import pretrained

# Each is a module of byol_jax.convert.
FORMATS = (
  *('torch', 'timm', 'huggingface', 'onnx', 'safetensors', 'saved_model'),
  'npz',
)
# What is written besides the encoder.
PARTS = {
  'encoder': (),
  'classifier': ('classifier',),
  'heads': ('projector', 'predictor'),
}
CARD, README = 'card.json', 'README.md'


def export_encoder(
  workdir: str | os.PathLike[str],
  to: str,
  output: str | os.PathLike[str],
  *,
  weights: str = 'online',
  parts: str = 'encoder',
  step: int | None = None,
) -> dict[parity.Size, float]:
  """Writes an encoder and its model card into a new folder.

  The folder appears whole, after the exported encoder has given the same
  representations as ours at `parity.SIZES`; an empty one is filled then.

  Args:
    workdir: of the pretraining, or what else `pretrained.read_weights` takes.
    to: of `FORMATS`.
    output: the folder, missing or empty.
    weights: 'online' or 'target'.
    parts: a key of `PARTS`.
    step: of an older checkpoint of the workdir; None for the newest one.

  Returns:
    {(height, width): relative error}.

  Raises:
    ConfigError: an unknown value, a package that is not installed, or a format
      that cannot hold this network.
    DataError: no weights, or the output cannot be written.
    CheckFailed: an error is above `parity.TOLERANCE`; the files are in
      OUTPUT.failed.
  """
  _check_value('to', to, FORMATS)
  _check_value('weights', weights, ('online', 'target'))
  _check_value('with', parts, (*PARTS,))
  converter = importlib.import_module(f'byol_jax.convert.{to}')
  goal = files.find_free_folder('output', output)
  whole = pretrained.read_weights(workdir, weights, step)
  kept = select_parts(whole, parts)
  with (
    files.refuse_unwritable(f'output {errors.quote(output)}'),
    files.fill_folder(goal, CARD) as folder,
  ):
    converter.write_encoder(kept, folder)
    found = parity.compare_encoders(
      parity.make_ours(shapes.make_forward(whole), whole.params, whole.state),
      converter.open_encoder(folder),
    )
    card = make_card(whole, to, parts, found)
    (folder / CARD).write_text(json.dumps(card, indent=2) + '\n')
    (folder / README).write_text(format_card(card))
    if not parity.holds(found):
      aside = _set_aside(folder, goal)
      raise errors.CheckFailed(
        f'{to}: expected relative errors of at most {parity.TOLERANCE:g}, found'
        f' {describe_errors(found)}; the files are in {errors.quote(aside)}'
      )
  return found


def _check_value(name: str, value: str, known: tuple[str, ...]) -> None:
  if value not in known:
    raise errors.ConfigError(
      f'{name}: expected one of {list(known)}, found {errors.quote(value)}'
    )


def select_parts(
  weights: weights_lib.EncoderWeights, parts: str
) -> weights_lib.EncoderWeights:
  """Returns the encoder with some of what comes after it.

  Raises:
    ConfigError: the run has no classifier, since its images have no labels.
  """
  encoder = resnet.ENCODERS[weights.network['encoder']].module_name
  kept = (encoder, *PARTS[parts])
  params, state = (
    {k: v for k, v in tree.items() if k.partition('/')[0] in kept}
    for tree in (weights.params, weights.state)
  )
  found = {name.partition('/')[0] for name in params}
  for name in kept:
    if name not in found:
      raise errors.ConfigError(
        f'with: expected parts that the weights have, found {name!r}; they have'
        f' {sorted({x.partition("/")[0] for x in weights.params})}'
      )
  num_classes = weights.num_classes if parts == 'classifier' else None
  return weights._replace(params=params, state=state, num_classes=num_classes)


def _set_aside(folder: pathlib.Path, goal: pathlib.Path) -> pathlib.Path:
  """Moves a failed export to OUTPUT.failed, in the place of an older one."""
  aside = goal.with_name(f'{goal.name}.failed')
  while aside.exists() and not (aside / CARD).is_file():  # not one of ours
    aside = aside.with_name(f'{aside.name}+')
  shutil.rmtree(aside, ignore_errors=True)
  shutil.move(folder, aside)  # copies where a rename would cross file systems
  return aside


def make_card(
  weights: weights_lib.EncoderWeights,
  to: str,
  parts: str,
  found: dict[parity.Size, float],
) -> dict[str, Any]:
  """Returns the model card as JSON values."""
  return {
    'format': to,
    'encoder': weights.network['encoder'],
    'parts': ['encoder', *PARTS[parts]],
    'network': dict(weights.network),
    'num_classes': weights.num_classes if parts == 'classifier' else None,
    'preprocessing': {
      'image_size': weights.image_size,
      'eval_crop': weights.eval_crop,
      'resize': 'bicubic, half-pixel centres, no antialiasing, clipped',
      'mean': list(networks.MEAN_RGB),
      'std': list(networks.STD_RGB),
    },
    'largest_relative_error': {f'{h}x{w}': x for (h, w), x in found.items()},
    'tolerance': parity.TOLERANCE,
    **{key: weights.card.get(key) for key in _FACTS},
  }


_FACTS = ('source', 'sha256', 'weights', 'config', 'revision', 'licence')
_CROPS = {
  'resize': 'resize the shorter side to 8/7 of the image size, then crop its'
  ' centre',
  'crop': 'crop the centre square of 0.875 of the shorter side, then resize',
  'whole': 'resize the shorter side to the image size, then crop its centre',
}
_PADDINGS = {
  False: """The network has TensorFlow's SAME padding: a framework that pads
both sides alike gives other numbers unless this export replaces that.""",
  True: 'The network pads both sides alike, as torchvision does.',
}


def format_card(card: dict[str, Any]) -> str:
  """Returns the model card as Markdown."""
  network, images = card['network'], card['preprocessing']
  size = images['image_size']
  rows = '\n'.join(
    f'| {size} | {error:.2g} |'
    for size, error in card['largest_relative_error'].items()
  )
  return f"""# {card['encoder']}, width {network['width']:g}, pretrained by BYOL

Format {card['format']}; {', '.join(card['parts'])}. Written by byol_jax.

- Source: {card['source']}, {card['weights']} network
- SHA-256 of the source: {card['sha256']}
- Revision of byol_jax: {card['revision']}
- Licence of the weights: {card['licence'] or 'not stated; ask who trained it'}

## Input

RGB images of {size}x{size} pixels: {_CROPS[images['eval_crop']]}
({images['resize']}), in [0, 1]; subtract {images['mean']}, divide by
{images['std']}. {_PADDINGS[network.get('padding') == 'torch']}

## Check

Largest difference from byol_jax on the same images, max|a - b| / max|b|; at
most {card['tolerance']:g} was allowed.

| height x width | error |
|---|---|
{rows}

The configuration of the run is in {CARD}.
"""


def describe_errors(found: dict[parity.Size, float]) -> str:
  """Returns the largest error and where it is, as text."""
  (height, width), error = max(found.items(), key=lambda item: item[1])
  return f'{error:.2g} at {height}x{width}'


def run(
  workdir: str, *, to: str, log: Callable[[str], None] = print, **options: Any
) -> None:
  """Exports an encoder and prints where it is and its largest error."""
  found = export_encoder(workdir, to, **options)
  log(errors.to_line(f'{to} in {options["output"]}'))
  log(f'largest relative error: {describe_errors(found)}')

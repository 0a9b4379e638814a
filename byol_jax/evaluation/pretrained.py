"""A pretraining run on disk, and its frozen encoders with parameters.

`read_weights` reads those of any origin: a run, an exported encoder, a
published checkpoint.
"""

from collections.abc import Callable
import dataclasses
import functools
import json
import os
import pathlib
from typing import Any, NamedTuple

import jax
from ml_collections import config_dict
import numpy as np

from byol_jax import configuration, errors, experiment, files, networks
from byol_jax.checkpoints import checkpointer, digests, trees as trees_lib
from byol_jax.convert import from_file, shapes, weights as weights_lib
from byol_jax.data import from_config
from byol_jax.data.loading import in_memory
from byol_jax.evals import features
from byol_jax.training import old_values, provenance, workdir as workdir_lib

_MAX_IMAGES = 64  # on the device at once
WEIGHTS = ('online', 'target', 'random', 'random_calibrated')
# What a config.json raises that holds something else.
_NOT_A_CONFIG = (
  *(ArithmeticError, AttributeError, LookupError, TypeError, ValueError),
  errors.ConfigError,
)


@dataclasses.dataclass(frozen=True, eq=False)
class PretrainedEncoder:
  """An encoder with its weights, whatever it was loaded from.

  Called with images it returns their representations, float32 [B, D]: see
  `preprocess` for what an image may be.

  Attributes:
    params: of the encoder, and of heads and classifier where they are there.
    state: batch-norm averages of the same modules.
    config: of the pretraining, as in `configs/pretrain.py`; of weights from
      elsewhere its section `network` and `image_size` are found, all else is
      the default.
    dim: D, the width of the representation.
    num_classes: of the classifier; None without one.
    card: what is known of the weights: `source`, `sha256`, `licence` and more.
    axis_name: see `load`.
  """

  params: networks.Params = dataclasses.field(repr=False)
  state: networks.NetState = dataclasses.field(repr=False)
  config: config_dict.ConfigDict
  dim: int
  num_classes: int | None
  card: dict[str, Any]
  axis_name: str | None = None

  def __getstate__(self) -> dict[str, Any]:
    """Returns the fields, for a pickle or a copy; functions are made again."""
    return {x.name: getattr(self, x.name) for x in dataclasses.fields(self)}

  @functools.cached_property
  def forward(self) -> networks.Forward:
    """The network as functions, with the heads that are there."""
    weights = weights_lib.EncoderWeights(
      *(self.params, self.state, self.config.network.to_dict()),
      *(self.num_classes, self.image_size, self.config.data.eval_crop),
      self.card,
    )
    return shapes.make_forward(weights, self.axis_name)

  @property
  def image_size(self) -> int:
    """Side of what `preprocess` makes, in pixels."""
    return self.config.image_size

  def apply(
    self,
    params: networks.Params,
    state: networks.NetState,
    images: Any,
    is_training: bool = False,
  ) -> tuple[networks.Outputs, networks.NetState]:
    """Runs the network: a pure function for jit, grad and vmap.

    Args:
      params: like `self.params`.
      state: like `self.state`.
      images: [B, H, W, 3] of any size, float32 in [0, 1] or uint8; normalised
        inside.
      is_training: whether batch norm takes the statistics of the batch, of
        this device unless `load` was given an axis; static.

    Returns:
      `networks.Outputs` (`representation`, float32 [B, D], first) and the new
      state, which evaluation mode leaves as it is.
    """
    return self.forward.apply(params, state, images, is_training)

  def preprocess(self, images: Any) -> np.ndarray:
    """Returns the evaluation crops, float32 [B, S, S, 3] in [0, 1].

    The crop is `config.data.eval_crop` ('resize': shorter side to 8/7 of the
    image size, bicubic without antialiasing, then a centre crop).

    Args:
      images: one image, a list of images, or an array [B, H, W, 3]. An image
        is an array [H, W, 3], uint8 in [0, 255] or floats in [0, 1]; an image
        of Pillow of any mode; or the path of one. EXIF orientation,
        transparency and 16 bits follow `config.data`, as in the pretraining.

    Raises:
      DataError: something is no image, or cannot be read.
    """
    return in_memory.crop_images(
      in_memory.list_images(images),
      self.image_size,
      self.config.data.eval_crop,
      from_config.make_pixel_options(self.config),
    )

  def __call__(self, images: Any) -> np.ndarray:
    """Returns representations, float32 [B, D]; see `preprocess`."""
    images, found = in_memory.list_images(images), []
    for start in range(0, len(images), _MAX_IMAGES):
      crops = self.preprocess(images[start : start + _MAX_IMAGES])
      # Zeros up to a power of two: few batch sizes, so few programs.
      padding = (1 << (len(crops) - 1).bit_length()) - len(crops)
      padded = np.pad(crops, ((0, padding), *[(0, 0)] * 3))
      representations = self._represent(*self._on_device, padded)
      found.append(np.asarray(representations)[: len(crops)])
    return np.concatenate(found).astype(np.float32)

  @functools.cached_property
  def _represent(self) -> Callable[..., jax.Array]:
    return jax.jit(functools.partial(networks.represent, self.forward))

  @functools.cached_property
  def _on_device(self) -> Any:
    """Parameters and state: arguments, not constants of the program."""
    return jax.device_put((self.params, self.state))

  def __repr__(self) -> str:
    """Returns what it is: weights, architecture, sizes and source."""
    network, card = self.config.network, self.card
    source = errors.quote(card['source'])
    width = f' {network.width:g}x' if network.width != 1 else ''
    version = ' v2' if network.version == 2 else ''
    licence = f', {card["licence"]}' if card['licence'] else ''
    return errors.to_line(
      f'<{network.encoder}{width}{version}, {card["weights"]} weights of'
      f' {source}: images {self.image_size}x{self.image_size} ->'
      f' float32 [B, {self.dim}]{licence}>'
    )


def load(
  path: str | os.PathLike, weights: str = 'online', axis_name: str | None = None
) -> PretrainedEncoder:
  """Returns the encoder of a workdir or a file of weights; see `api.load`."""
  found = read_weights(path, weights)
  forward = shapes.make_forward(found)
  encoder = features.make_encoder(forward, found.params, found.state, weights)
  return PretrainedEncoder(
    params=found.params,
    state=found.state,
    config=make_config(found),
    dim=encoder.dim,
    num_classes=found.num_classes,
    card=found.card,
    axis_name=axis_name,
  )


def make_config(
  found: weights_lib.EncoderWeights, base: config_dict.ConfigDict | None = None
) -> config_dict.ConfigDict:
  """Returns the configuration of the pretraining that weights came from.

  Weights from elsewhere have that of `base`, by default configs/pretrain.py,
  with their own network and preprocessing.
  """
  saved = found.card['config']
  if base is None and saved is not None:
    config = config_dict.ConfigDict(old_values.add_old_values(saved))
  else:
    config = configuration.read_preset('pretrain') if base is None else base
    config = config.copy_and_resolve_references()
  config.update_from_flattened_dict(
    {f'network.{key}': value for key, value in found.network.items()}
    | {'image_size': found.image_size, 'data.eval_crop': found.eval_crop}
  )
  return configuration.validate(config, 'pretrain')


class Run(NamedTuple):
  """A pretraining run on disk, its functions built."""

  path: pathlib.Path  # on this machine
  checkpoints: str  # a path or a URL
  config: config_dict.ConfigDict
  experiment: experiment.Experiment
  training_set: dict[str, Any]  # see `train.describe_dataset`


def open_run(workdir: str | os.PathLike) -> Run:
  """Reads and builds a pretraining run.

  Encoders of one `Run` share their compiled functions.

  Raises:
    ConfigError: `workdir` can be no path.
    DataError: there is no such run, or its configuration is damaged.
  """
  files.check_path('workdir', workdir)
  try:
    values = read_config(workdir).to_dict()
    training_set = values.pop('training_set')
    config = configuration.validate(config_dict.ConfigDict(values), 'pretrain')
    facts = training_set['num_examples'], training_set['num_classes']
    return Run(
      path=workdir_lib.local_folder(workdir),
      checkpoints=workdir_lib.checkpoint_folder(
        workdir, config.checkpoint.folder
      ),
      config=config,
      experiment=experiment.build(config, *facts),
      training_set=training_set,
    )
  except _NOT_A_CONFIG as error:
    raise errors.DataError(
      f'{errors.quote(workdir)}: config.json is damaged:'
      f' {errors.first_line(error)}'
    ) from error


def read_config(workdir: str | os.PathLike) -> config_dict.ConfigDict:
  """Returns the configuration of a pretraining run, with its `training_set`.

  Raises:
    DataError: there is none.
  """
  try:
    saved = workdir_lib.read_config_file(workdir_lib.local_folder(workdir))
  except errors.DataError:
    # A bucket, or a copy of one, has the configuration in its checkpoints.
    folder = workdir_lib.checkpoint_folder(workdir)
    record = checkpointer.read_record(folder) or {}
    if 'config' not in record:
      raise
    saved = record['config']
  if 'training_set' not in saved:
    raise errors.DataError(
      f'{errors.quote(workdir)} holds no pretraining run of byol_jax'
    )
  return config_dict.ConfigDict(old_values.add_old_values(saved)).lock()


def open_encoder(
  run: Run,
  weights: str = 'online',
  *,
  calibration_batches: int = 50,
  step: int | None = None,
) -> features.Encoder:
  """Returns the frozen encoder of a pretraining run.

  Args:
    run: from `open_run`.
    weights: 'online' (the result), 'target', 'random' (the run's own start) or
      'random_calibrated' (the start, its batch-norm averages estimated on
      training images by forward passes without any update).
    calibration_batches: of the run's batch size.
    step: of the checkpoint, not of random weights; None for the newest one.

  Raises:
    ConfigError: unknown weights, a step of random ones, or the target of a run
      that did not use its moving average.
    DataError: no checkpoint yet, or none of that step.
  """
  if weights not in WEIGHTS:
    raise errors.ConfigError(
      f'weights: expected one of {list(WEIGHTS)}, found {errors.quote(weights)}'
    )
  parameters = run.config.target.parameters
  if weights == 'target' and parameters != 'average':
    raise errors.ConfigError(
      f"weights: 'target' is the moving average, which this run did not use"
      f' (target.parameters {parameters!r}); take online'
    )
  is_random = weights.startswith('random')
  if is_random and step is not None:
    raise errors.ConfigError(f'step: {weights} weights have none, found {step}')
  if is_random:
    state = run.experiment.init_on_host()
  else:
    step, state = _read_state(run, step)
  params, net_state = state.online_params, state.online_state
  if weights == 'target':
    params, net_state = state.target_params, state.target_state
  forward = run.experiment.forward
  if weights == 'random_calibrated':
    dataset = from_config.make_image_set(run.config, 'train', cropped=False)
    # In random order: a batch of one class has other statistics.
    steps = (run.config.batch_size, 0, calibration_batches)
    net_state = features.estimate_batch_norm(
      forward, params, net_state, dataset.crop_batches(*steps)
    )
  encoder = features.make_encoder(forward, params, net_state, weights)
  network = run.config.network.to_dict()
  return encoder._replace(step=step, network=network)


def read_weights(
  path: str | os.PathLike, weights: str = 'online', step: int | None = None
) -> weights_lib.EncoderWeights:
  """Returns the encoder of any origin as numpy arrays, with what it is.

  Args:
    path: a workdir; a file or folder written by `export`, .safetensors or
      .npz; a published checkpoint, .pkl; a state dict of torchvision or timm,
      .pt or .pth.
    weights: see `open_encoder`; 'online' or 'target' of a published checkpoint;
      an exported encoder has one set only.
    step: of the checkpoint of a workdir; None for the newest one.

  Raises:
    ConfigError: unknown weights, or weights or a step that the origin does not
      have.
    DataError: there is nothing of the kind, or it is damaged.
  """
  files.check_path('path', path)
  file = from_file.find_file(path)
  if file is None:
    return _read_run_weights(path, weights, step)
  if step is not None:
    where = errors.quote(path)
    raise errors.ConfigError(f'step: a file has none, found {step} of {where}')
  found = from_file.read_encoder(file, weights)
  try:
    make_config(found)
  except _NOT_A_CONFIG as error:
    raise errors.DataError(
      f'{errors.quote(file)}: its configuration cannot be used:'
      f' {errors.first_line(error)}'
    ) from error
  return found


def _read_run_weights(
  path: str | os.PathLike, weights: str, step: int | None
) -> weights_lib.EncoderWeights:
  run = open_run(path)
  encoder = open_encoder(run, weights, step=step)
  params, state = jax.device_get((encoder.params, encoder.state))
  config = run.config.to_dict()
  record = checkpointer.read_record(run.checkpoints) or {}
  origin = workdir_lib.read_origin(run.path, record)
  return weights_lib.EncoderWeights(
    params={module: dict(leaves) for module, leaves in params.items()},
    state={module: dict(leaves) for module, leaves in state.items()},
    network=json.loads(json.dumps(config['network'])),
    num_classes=run.training_set['num_classes'],
    image_size=config['image_size'],
    eval_crop=config['data']['eval_crop'],
    card={
      'source': os.fspath(path),
      'sha256': digests.digest_trees(params, state),
      'weights': weights,
      'config': json.loads(json.dumps(config)),
      'revision': provenance.digest_code(),
      'licence': (origin or {}).get('licence'),
    },
  )


def _read_state(run: Run, step: int | None) -> tuple[int, Any]:
  """Returns a saved step, by default the newest, and its `ByolState`."""
  folder = run.checkpoints
  arrays, facts = checkpointer.read_arrays(folder, step)
  where = f'{folder}/{facts["step"]}'
  config = run.config.to_dict() | {'training_set': run.training_set}
  workdir_lib.require_same_run(config, facts['record'], where)
  template = jax.eval_shape(run.experiment.initial_state)
  return facts['step'], trees_lib.unflatten(template, arrays, where)

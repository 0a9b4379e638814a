"""The small experiment that several tests run; starts other interpreters."""

import os
import pathlib
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np

from byol_jax import (
  byol,
  gradients,
  losses,
  networks,
  optimizers,
  parallel,
  schedules,
)
from configs import pretrain

ROOT = pathlib.Path(__file__).resolve().parents[2]
NUM_CLASSES = 10
# The official code's test network with small heads.
NETWORK = {
  **{'encoder': 'TinyResNet', 'width': 1.0, 'version': 1},
  **{'gamma_init': 'ones', 'stem': 'small', 'padding': 'same'},
  **{'projector': (16, 8), 'predictor': (16, 8)},
  **{'bn_decay': 0.9, 'bn_epsilon': 1e-5},
}
BYOL_LOSS = losses.make_objective(
  'regression', parallel, **pretrain.OBJECTIVES['regression']
)
# The environment of a process in which XLA optimises as it does for users.
OPTIMIZED = {'JAX_DISABLE_MOST_OPTIMIZATIONS': '0', 'XLA_FLAGS': ''}
# Arguments of `make_forward` for the paper's heads and stem.
PAPER_HEADS = {
  'num_classes': 1000,
  'projector': (4096, 256),
  'predictor': (4096, 256),
  'stem': 'imagenet',
}


def make_forward(**overrides):
  """`NETWORK`, changed."""
  settings = {'num_classes': NUM_CLASSES, 'axis_name': None, **NETWORK}
  return networks.make_forward(**(settings | overrides))


def shapes_of(forward, size=32):
  """(params, state) of the network as shapes; nothing is computed."""
  return jax.eval_shape(
    lambda key, images: forward.init(key, images, True),
    jax.random.PRNGKey(0),
    jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32),
  )


def random_network(forward, seed=0):
  """(params, state) with numpy values: compiling `init` would take longer."""
  params, state = shapes_of(forward)
  generator = np.random.default_rng(seed)

  def draw(path, x):
    if path[-1].key != 'w':
      return np.full(x.shape, path[-1].key == 'scale', x.dtype)
    fan_in = np.prod(x.shape[:-1])
    return generator.normal(0, fan_in**-0.5, x.shape).astype(x.dtype)

  params = jax.tree_util.tree_map_with_path(draw, params)
  return params, jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), state)


def recipe(name):
  """The arguments of `make_augment` for the paper's 'view1' or 'view2'."""
  section = pretrain.get_config().augment[name].to_dict()
  return {key: value for key, value in section.items() if key != 'crop'}


def make_experiment(*, rate, tau, num_classes=NUM_CLASSES):
  """(forward, loss_fn, optimizer, update); images are not augmented."""
  forward = make_forward(num_classes=num_classes, axis_name=parallel.AXIS)
  unchanged = lambda images, keys: images
  loss_fn = byol.make_loss(forward, (unchanged, unchanged), BYOL_LOSS)
  optimizer = optimizers.lars(
    rate, weight_decay=1.5e-6, momentum=0.9, trust_coefficient=1e-3
  )
  return (
    forward,
    loss_fn,
    optimizer,
    byol.make_update(gradients.make_gradients(loss_fn), optimizer, tau, rate),
  )


def random_state(optimizer):
  """A `ByolState` before step 0, with numpy values."""
  forward = make_forward()  # the same names and shapes as with the axis
  online_params, net_state = random_network(forward)
  target_params, _ = random_network(forward, seed=1)
  return byol.ByolState(
    step=np.int32(0),
    rng=np.asarray(jax.random.PRNGKey(0)),
    online_params=online_params,
    target_params=target_params,
    online_state=net_state,
    target_state=net_state,
    opt_state=optimizer.init(online_params),
  )


def make_batch(step, *, batch_size, size):
  """A global batch, a function of the step."""
  generator = np.random.default_rng(step)
  batch = {
    name: patches(generator, batch_size, size) for name in ('view1', 'view2')
  }
  labels = generator.integers(0, NUM_CLASSES, batch_size)
  return batch | {'labels': labels.astype(np.int32)}


def patches(generator, count, size):
  """Images, float32 [count, size, size, 3] in [0, 1].

  Each has large patches of its own contrast: images of noise alone look the
  same to the network, so batch norm would divide by rounding errors.
  """
  contrast = generator.uniform(0, 1, (count, 1, 1, 3))
  corners = generator.random((count, 2, 2, 3)) * contrast
  large = corners.repeat(size // 2, 1).repeat(size // 2, 2)
  noise = generator.random((count, size, size, 3))
  return (0.7 * large + 0.3 * noise).astype(np.float32)


def divided(batch, devices):
  """[B, ...] -> [devices, B / devices, ...]."""
  return {k: v.reshape(devices, -1, *v.shape[1:]) for k, v in batch.items()}


def warmup():
  """A rate that changes at every step, from 0; and a tau that does too."""
  return schedules.warmup_cosine_schedule(2.0, 2, 8), schedules.tau_schedule(
    0.9, 8, 'cosine'
  )


def free_port():
  """A port of this machine that is free."""
  with socket.socket() as listener:
    listener.bind(('localhost', 0))
    return listener.getsockname()[1]


def start_python(*arguments, cwd=None, **environment):
  """Another interpreter that sees the project and no accelerator."""
  return subprocess.Popen(
    [sys.executable, *map(str, arguments)],
    env={
      **{**os.environ, 'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'},
      **environment,
    },
    cwd=cwd,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def finish(process, seconds=600, code=0):
  """Its output; fails with it if the process ends with another exit code."""
  try:
    output, _ = process.communicate(timeout=seconds)
  finally:
    process.kill()
  assert process.returncode == code, output[-4000:]
  return output


def flat(tree):
  """Path -> numpy array."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {jax.tree_util.keystr(path): np.asarray(x) for path, x in leaves}

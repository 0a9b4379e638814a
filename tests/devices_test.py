"""The number of devices does not enter the result, by the command line."""

import numpy as np
import pytest

from byol_jax.checkpoints import checkpointer
from tests.helpers import tiny_run

ARGUMENTS = (
  '--config=pretrain:300',
  '--config.dataset=shapes',
  '--config.image_size=32',
  '--config.batch_size=16',
  '--config.epochs=0.02',
  '--config.network.encoder=TinyResNet',
  '--config.network.stem=small_stride2',
  '--config.network.projector=(64,32)',
  '--config.network.predictor=(64,32)',
)


@pytest.mark.jobs
def test_one_device_and_four_train_alike(tmp_path):
  """Five steps with the paper's augmentation and optimiser, in float32.

  The bound is the issue's. It holds as long as no ReLU's input lies within
  rounding of zero and flips, which changes a gradient at once: the float64
  test beside this one (`parallel_test.py`) has no such luck in it.
  """
  states = {}
  for devices in (1, 4):
    path = tmp_path / str(devices)
    tiny_run.finish(
      tiny_run.start_python(
        *('-m', 'byol_jax', 'pretrain', f'--workdir={path}'),
        *ARGUMENTS,
        JAX_NUM_CPU_DEVICES=str(devices),
        JAX_DISABLE_MOST_OPTIMIZATIONS='0',  # as users have it
      )
    )
    states[devices], _ = checkpointer.read_arrays(path / 'checkpoints')
  assert states[1]['step'] == states[4]['step'] == 5
  assert states[1].keys() == states[4].keys()
  for name, one in states[1].items():
    bound = 1e-5 * max(1, np.max(np.abs(one), initial=0))
    np.testing.assert_allclose(
      states[4][name], one, rtol=0, atol=bound, err_msg=name
    )

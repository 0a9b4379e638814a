import numpy as np
import pytest

from byol_jax import errors
from byol_jax.data.loading import batch_buffer, batch_plan
from byol_jax.data.sampling import crops, order, views
from tests.helpers.listed import Listed
from tests.helpers.made import CROP_RANGE, encode, smooth


def job(batch_size=4):
  """Two views of 10 pixels of 6 images, on the second of two processes."""
  place = (1, 2)
  local = batch_size // 2
  named = {
    'a': views.random_crop(CROP_RANGE, 10),
    'b': views.evaluation('resize', 10),
  }
  shape = ((10, 10, 3), np.dtype(np.float32))

  def draw(ids, epochs):
    uniforms = crops.draw_uniform(1, crops.PRETRAIN_STREAM, epochs, ids, 2)
    return crops.draw_crops(uniforms, [CROP_RANGE, None])

  return batch_plan.Job(
    steps=range(3),
    local=local,
    wanted=lambda step: order.batch_positions(step, batch_size, *place),
    ids=lambda positions: order.example_ids(1, positions, 6),
    draw=draw,
    views=named,
    canvas=batch_buffer.Canvas(
      dict.fromkeys(named, shape),
      local,
      lambda position: order.locate_position(position, batch_size, *place),
    ),
  )


def test_a_plan_is_of_this_process_and_by_position():
  made = job()
  positions, ids, drawn = made.plan(2)
  assert positions.tolist() == [10, 11]
  np.testing.assert_array_equal(ids, order.example_ids(1, positions, 6)[0])
  assert drawn.shape == (2, 2, 4)
  for i in range(2):
    for found, all_ in zip(made.plan_of(positions[i : i + 1]), made.plan(2)):
      np.testing.assert_array_equal(found[0], all_[i])


def test_windows_cut_beforehand_give_the_same_pictures():
  made, image = job(), smooth(2, 33, 47)
  positions, _, drawn = made.plan(1)
  windows = made.windows(np.array([33, 47]), drawn[0])
  assert windows.dtype == np.int32 and windows.shape == (2, 4)
  cut = [image[y : y + h, x : x + w] for y, x, h, w in windows]
  made.paint(int(positions[0]), [image], drawn[0])
  made.paint(int(positions[1]), cut, drawn[0], np.array([33, 47]))
  batch = made.canvas.take(1)
  for name in ('a', 'b'):
    np.testing.assert_array_equal(batch[name][0], batch[name][1])


def test_the_first_image_is_the_first_that_can_be_read():
  image = encode(smooth(0, 9, 9))
  assert batch_plan.first_image(Listed([None, None, image])) == image
  with pytest.raises(errors.DataError, match='no image can be read'):
    batch_plan.first_image(Listed([None] * 3))

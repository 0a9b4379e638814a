import numpy as np

from byol_jax.data.loading import batch_buffer, batch_plan
from byol_jax.data.sampling import crops, order, views
from tests.helpers.made import CROP_RANGE, smooth


def make_plan(batch_size=4, stream=crops.PRETRAIN_STREAM, seed=1):
  """Two views of 10 pixels of 6 images, on the second of two processes."""
  named = {
    'a': views.View(10, 'resize', CROP_RANGE),
    'b': views.View(10, 'resize'),
  }
  shape = ((10, 10, 3), np.dtype(np.float32))
  return batch_plan.BatchPlan(
    steps=range(3),
    batch_size=batch_size,
    process_index=1,
    process_count=2,
    num_examples=6,
    seed=seed,
    stream=stream,
    views=named,
    buffer=batch_buffer.BatchBuffer(
      dict.fromkeys(named, shape), batch_size // 2
    ),
  )


def test_a_plan_is_of_this_process_and_by_position():
  made = make_plan()
  positions, ids, drawn = made.plan_step(2)
  assert positions.tolist() == [10, 11]
  np.testing.assert_array_equal(ids, order.find_examples(1, positions, 6)[0])
  assert drawn.shape == (2, 2, 4)
  for i in range(2):
    for found, all_ in zip(
      made.plan_rows(positions[i : i + 1]), made.plan_step(2)
    ):
      np.testing.assert_array_equal(found[0], all_[i])


def test_the_crop_of_an_image_depends_on_the_seed():
  drawn = []
  for seed in (1, 2):
    _, ids, numbers = make_plan(seed=seed).plan_rows(np.arange(6))
    drawn.append(numbers[np.argsort(ids)])
  assert (drawn[0] != drawn[1]).any((1, 2)).all()


def test_windows_cut_beforehand_give_the_same_pictures():
  made, image = make_plan(), smooth(2, 33, 47)
  positions, _, drawn = made.plan_step(1)
  windows = made.compute_windows(np.array([33, 47]), drawn[0])
  assert windows.dtype == np.int32 and windows.shape == (2, 4)
  cut = [image[y : y + h, x : x + w] for y, x, h, w in windows]
  made.write_row(int(positions[0]), [image], drawn[0])
  made.write_row(int(positions[1]), cut, drawn[0], np.array([33, 47]))
  batch = made.buffer.take(1)
  for name in ('a', 'b'):
    np.testing.assert_array_equal(batch[name][0], batch[name][1])

"""Calls of several steps: how they are cut, and what they compute."""

import jax
import numpy as np
import pytest

from byol_jax.checkpoints import checkpointer
from byol_jax.distributed import packing, placement
from byol_jax.training import multi_step
from tests.helpers import tiny_run


class Plans:
  """A resident set without images: a plan is the number of its step."""

  extent = None

  def store(self):
    return np.float32(10)

  def plans(self, batch_size, start_step, num_steps):
    for step in range(start_step, start_step + num_steps):
      yield {'step': np.full((1, batch_size), step, np.float32)}

  @staticmethod
  def views(store, plan):
    return store * plan['step']


def update(state, batch):
  """A state and scalars that show which steps were made, in which order."""
  return 2 * state + batch[0], {'seen': batch[0], 'before': state}


@pytest.mark.parametrize('most', (1, 4, 100))
@pytest.mark.parametrize('marks', ((3, 5), (7, 0), (1, 2), (1000, 1000)))
def test_calls_cover_every_step_and_cross_no_mark(most, marks):
  spans = list(multi_step.Resident(Plans(), most, marks).spans(range(2, 40)))
  assert [step for span in spans for step in span] == list(range(2, 40))
  for span in spans:
    assert 1 <= len(span) <= most
    for mark in filter(None, marks):
      # A step is a mark once it is completed.
      assert all(step % mark for step in range(span.start + 1, span.stop))


def test_no_call_is_shorter_than_it_must_be():
  spans = multi_step.Resident(Plans(), 4, (10, 0)).spans(range(1, 25))
  assert [len(span) for span in spans] == [4, 4, 1, 4, 4, 2, 4, 1]


def test_a_streamed_set_makes_one_step_a_call():
  assert list(multi_step.Streamed(None).spans(range(2, 5))) == [
    range(2, 3),
    range(3, 4),
    range(4, 5),
  ]


@pytest.mark.parametrize('most', (1, 4, 16))
def test_a_call_is_its_steps_one_after_the_other(most):
  steps = range(3, 14)
  resident = multi_step.Resident(Plans(), most, (6,))
  call = resident.compile(update)
  state, seen = placement.replicate(packing.pack(np.float32(1))), []
  for span, batch in zip(
    resident.spans(steps), resident.batches(8, steps), strict=True
  ):
    assert batch['steps']['step'].shape == (1, most, 8)
    state, scalars = call(state, batch)
    seen += list(np.asarray(scalars['seen'])[0, : len(span)])
    assert scalars['before'].shape == (1, most)
  expected = np.float32(1)
  for step in steps:
    expected = 2 * expected + 10 * step
  assert float(placement.snapshot(state)) == expected
  assert seen == [10.0 * step for step in steps]


def test_a_call_cut_short_compiles_nothing():
  traced = []

  def counted(state, batch):
    traced.append(1)
    return update(state, batch)

  resident = multi_step.Resident(Plans(), 4, (3,))
  call = resident.compile(counted)
  state, after = placement.replicate(packing.pack(np.float32(1))), []
  for batch in placement.prefetch(resident.batches(8, range(30))):
    state, _ = call(state, batch)
    after.append(len(traced))
  assert len(after) > 9 and set(after) == {after[0]}


ARGUMENTS = (
  '--config=pretrain:300',
  '--config.dataset=shapes',
  '--config.data.resident=True',
  '--config.input.steps_per_call=3',
  '--config.image_size=32',
  '--config.batch_size=16',
  '--config.epochs=0.02',
  '--config.network.encoder=TinyResNet',
  '--config.network.stem=small_stride2',
  '--config.network.projector=(64,32)',
  '--config.network.predictor=(64,32)',
)


@pytest.mark.jobs
def test_one_device_and_four_train_alike_on_a_resident_set(tmp_path):
  """As in `devices_test`, with the same bound: five steps in two calls."""
  states = {}
  processes = {
    devices: tiny_run.start_python(
      *('-m', 'byol_jax', 'pretrain', f'--workdir={tmp_path / str(devices)}'),
      *ARGUMENTS,
      JAX_NUM_CPU_DEVICES=str(devices),
    )
    for devices in (1, 4)
  }
  for devices, process in processes.items():
    tiny_run.finish(process)
    states[devices], _ = checkpointer.read_arrays(
      tmp_path / f'{devices}/checkpoints'
    )
  assert states[1]['step'] == states[4]['step'] == 5
  assert states[1].keys() == states[4].keys()
  for name, one in states[1].items():
    bound = 1e-5 * max(1, np.max(np.abs(one), initial=0))
    np.testing.assert_allclose(
      states[4][name], one, rtol=0, atol=bound, err_msg=name
    )


WITHOUT_TENSORFLOW = """
import sys
from byol_jax import api, configuration, pretrained
from tests.helpers import tiny_folder
folder, workdir = sys.argv[1:]
values = tiny_folder.VALUES | {'dataset': folder, 'data.resident': True}
values['log.tensorboard'] = True
assert api.pretrain('shapes', workdir, values)['step'] == 2
run = pretrained.open_run(workdir)
for weights, name, keys in (
  ('online', 'evals/knn', {}),
  ('random_calibrated', 'evals/linear:cpu', {'epochs': 1.0}),
):
  encoder = pretrained.open_encoder(run, weights, calibration_batches=1)
  keys['batch_size'] = 8
  config = configuration.load(name, keys)
  protocol = name.removeprefix('evals/').split(':')[0]
  print(api.evaluate(protocol, config, run, encoder))
found = {name.partition('.')[0] for name in sys.modules}
assert 'jax' in found and 'tensorflow' not in found
"""


@pytest.mark.slow
def test_a_resident_run_and_its_evaluations_need_no_tensorflow(tmp_path):
  from tests.helpers import tiny_folder

  folder = tiny_folder.write(tmp_path / 'images')
  tiny_run.finish(
    tiny_run.start_python('-c', WITHOUT_TENSORFLOW, folder, tmp_path / 'run')
  )


def test_on_a_cpu_a_call_is_one_step_unless_told():
  """Loops are slow there, see `calls.repeated`."""
  assert jax.default_backend() == 'cpu'
  from tests.helpers.tiny_config import tiny

  config = tiny(data__resident=True)
  assert len(next(multi_step.of(config, Plans()).spans(range(9)))) == 1
  config = tiny(
    data__resident=True,
    input__steps_per_call=4,
    log__every_steps=10,
    checkpoint__every_steps=3,
  )
  spans = multi_step.of(config, Plans()).spans(range(9))
  assert [len(span) for span in spans] == [3, 3, 3]
  assert isinstance(multi_step.of(tiny(), Plans()), multi_step.Streamed)


@pytest.mark.parametrize(
  'marks, most', [((50, 1000), 25), ((30, 1000), 10), ((7, 0), 7), ((3, 2), 1)]
)
def test_by_default_no_mark_cuts_a_call_short(marks, most):
  assert multi_step.divisor(marks) == most

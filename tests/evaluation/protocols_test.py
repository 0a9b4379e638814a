"""Evaluations that stop and go on, and jobs of several devices."""

import json
import os
import shutil
import signal

import numpy as np
import pytest

import byol_jax
from byol_jax import __main__ as command, configuration
from byol_jax.data.loading import image_set
from byol_jax.evaluation import pretrained, protocols
from tests.helpers import jobs, tiny_run

CONFIG = {'batch_size': 8, 'epochs': 8.0, 'rates': (0.3, 3.0)}
LINEAR = [f'--config.{key}={value}' for key, value in CONFIG.items()]
KNN = ('--config.batch_size=8', '--config.ks=(1,20)')


# Two processes evaluate so often; in the last one the first process gets
# SIGTERM, if asked for. The steps after it are slow, as JAX tells the other
# process of it from a thread, and the training must not end first.
JOB = """
import os, signal, sys, time
import jax
import byol_jax
from byol_jax.data.loading import image_set
from byol_jax.distributed import processes

address, workdir, output, count, stops = sys.argv[1:]
processes.join_job(address, lambda: (None, {}))
original, calls = image_set.ImageSet.crop_batches, []

def crop_batches(self, batch_size, first, num_steps):
  calls.append(first)
  batches = original(self, batch_size, first, num_steps)
  for step, batch in enumerate(batches, start=first):
    if stops == 'stops' and len(calls) == int(count) and step >= 9:
      if step == 9 and jax.process_index() == 0:
        os.kill(os.getpid(), signal.SIGTERM)
      time.sleep(0.5)
    yield batch

image_set.ImageSet.crop_batches = crop_batches
values = {'batch_size': 8, 'epochs': 20.0, 'rates': (0.3, 3.0)}
try:
  for _ in range(int(count)):
    byol_jax.linear(workdir, overrides=values, output=output, log=print)
except byol_jax.Preempted as error:
  print('preempted', error)
"""


def words(verb, workdir, *more):
  return [verb, f'--workdir={workdir}', '--json', *map(str, more)]


@pytest.fixture
def stops(monkeypatch):
  """stops.at: before the batch of which step SIGTERM arrives; stops.firsts."""
  original = image_set.ImageSet.crop_batches

  class Stops:
    at, firsts = None, []

  def crop_batches(self, batch_size, first, num_steps):
    stops.firsts.append(first)
    batches = original(self, batch_size, first, num_steps)
    for step, batch in enumerate(batches, start=first):
      if step == stops.at:
        os.kill(os.getpid(), signal.SIGTERM)
      yield batch

  stops = Stops()
  stops.firsts = []
  monkeypatch.setattr(image_set.ImageSet, 'crop_batches', crop_batches)
  return stops


def test_a_stopped_evaluation_goes_on(labelled, stops, capsys):
  workdir = labelled[1]
  expected = byol_jax.linear(workdir, overrides=CONFIG)
  records = (workdir / 'evaluations.jsonl').read_text()
  stops.at = 9
  assert command.main(words('linear', workdir, *LINEAR)) == 42
  printed = capsys.readouterr()
  assert 'SIGTERM: saved step' in printed.err and '+-' not in printed.out
  (folder,) = (workdir / 'evaluations').iterdir()
  assert folder.name.startswith('linear-')
  assert (workdir / 'evaluations.jsonl').read_text() == records
  stops.at, stops.firsts = None, []
  assert command.main(words('linear', workdir, *LINEAR)) == 0
  output = capsys.readouterr().out
  assert 'resumed after step' in output and 0 < stops.firsts[-1] <= 9
  assert json.loads(output.splitlines()[-1]) == expected
  assert not (workdir / 'evaluations').exists()


def test_other_weights_or_another_seed_are_another_evaluation(labelled):
  """Such as weights of a later checkpoint, of the same configuration."""
  run = pretrained.open_run(labelled[1])
  folders = [
    protocols.find_saves(
      'linear',
      configuration.load('evals/linear', {'seed': seed}),
      *('images', run, pretrained.open_encoder(run, weights)),
    )
    for weights, seed in (
      *(('online', 0), ('target', 0), ('online', 1), ('online', 0)),
    )
  ]
  assert folders[0] == folders[3] and len({*folders}) == 3


def test_images_that_changed_are_another_evaluation(
  labelled, stops, tmp_path, capsys
):
  """Or a training of the old images would go on with the new ones."""
  dataset = tmp_path / 'images.npz'
  verb = words('linear', labelled[1], *LINEAR, f'--config.dataset={dataset}')

  def write(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (60, 16, 16, 3))
    images, test = np.split(pixels.astype(np.uint8), [40])
    labels = {'labels': np.arange(40) % 2, 'test_labels': np.arange(20) % 2}
    np.savez(dataset, images=images, test_images=test, **labels)

  write(0)
  stops.at = 9
  assert command.main(verb) == 42
  stops.at = None
  write(1)
  assert command.main(verb) == 0
  assert 'resumed after step' not in capsys.readouterr().out
  (folder,) = (labelled[1] / 'evaluations').iterdir()  # of the old images
  shutil.rmtree(folder.parent)


def run_job(workdir, processes, devices, verb, *more):
  """Returns the results that the first process prints."""
  address = f'localhost:{tiny_run.free_port()},{processes}'
  started = [
    tiny_run.start_python(
      *('-m', 'byol_jax', *words(verb, workdir, *more)),
      f'--distributed={address},{index}' if processes > 1 else '--json',
      JAX_NUM_CPU_DEVICES=str(devices),
    )
    for index in range(processes)
  ]
  ended = jobs.finish(started)
  assert [process.code for process in ended] == [0] * processes, ended
  return json.loads(ended[0].output.splitlines()[-1])


@pytest.mark.slow
def test_every_image_counts_once_on_several_devices(labelled):
  expected = byol_jax.knn(
    labelled[1], overrides={'ks': (1, 20), 'batch_size': 8}
  )
  assert expected['bank'] + expected['queries'] == 36
  assert run_job(labelled[1], 1, 4, 'knn', *KNN) == expected


@pytest.mark.jobs
@pytest.mark.parametrize('verb, more', (('knn', KNN), ('linear', LINEAR)))
def test_two_processes_of_two_devices_give_one_result(
  labelled, tmp_path, verb, more
):
  output = tmp_path / 'results.jsonl'
  results = run_job(labelled[1], 2, 2, verb, *more, f'--output={output}')
  (record,) = map(json.loads, output.read_text().splitlines())
  assert record['results'] == results
  counts = {'knn': ('bank', 'queries'), 'linear': ('fit', 'valid', 'test')}
  assert sum(results[key] for key in counts[verb]) == 36
  assert not (labelled[1] / 'evaluations').exists()


@pytest.mark.jobs
def test_a_stopped_job_goes_on_bit_for_bit(labelled, tmp_path):
  """Evaluates once, and again, which is stopped; another job goes on."""
  output, ended = tmp_path / 'results.jsonl', []
  for count, stops in ((2, 'stops'), (1, 'no')):
    address = f'localhost:{tiny_run.free_port()},2'
    started = [
      tiny_run.start_python(
        *('-c', JOB, f'{address},{index}', labelled[1], output, count, stops),
        JAX_NUM_CPU_DEVICES='2',
      )
      for index in range(2)
    ]
    ended.append(jobs.finish(started))
    assert [process.code for process in ended[-1]] == [0, 0], ended
    assert (labelled[1] / 'evaluations').exists() == (stops == 'stops')
  for process in ended[0]:
    assert 'preempted SIGTERM: saved step' in process.output, process
  for process in ended[1]:
    assert 'resumed after step' in process.output, process
  first, second = map(json.loads, output.read_text().splitlines())
  assert first['results'] == second['results']

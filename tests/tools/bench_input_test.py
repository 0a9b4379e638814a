"""The verb `bench input` on small images."""

import json
import time

import numpy as np
from PIL import Image
import pytest

from byol_jax import __main__ as command, configuration
from byol_jax.data.sampling import crops, resize
from byol_jax.tools import bench_input

ROWS = {
  *(bench_input.DECODING, bench_input.FLOOR, bench_input.OFFICIAL),
  *(bench_input.CONFIGURED, bench_input.SOURCE, bench_input.DECODED),
}


def arguments(folder, *more):
  return [
    *('bench', 'input', '--config=imagenette:cpu', '--rounds=1'),
    *(f'--config.dataset={folder}', '--config.image_size=16', *more),
  ]


def test_a_report_has_every_row_and_ends_with_the_cores(
  tmp_path, capsys, monkeypatch
):
  generator = np.random.default_rng(0)
  for i in range(80):
    pixels = generator.integers(0, 255, (30 + i % 7, 40, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / f'{i:02d}.jpg')
  monkeypatch.setattr(bench_input, 'available_cores', lambda: [0])
  assert command.main(arguments(tmp_path, '--json')) == 0
  report = json.loads(capsys.readouterr().out.splitlines()[-1])
  assert {'tensorflow-cpu', 'numpy'} <= report['versions'].keys()
  (result,) = report['results']
  rates = result['images_per_second']
  assert rates.keys() >= ROWS and min(rates.values()) > 0
  assert result['of_decoding'][bench_input.DECODING] == 1
  assert result['of_official'][bench_input.OFFICIAL] == 1
  # One round: the ratio of the medians is the median of the ratios.
  assert result['of_decoding'][bench_input.DECODED] == pytest.approx(
    rates[bench_input.DECODED] / rates[bench_input.DECODING]
  )
  assert result['spread'][bench_input.CONFIGURED] == 0  # of one round
  lines = bench_input.describe_report(report)
  assert lines[-1].startswith('88,970 images/s')
  assert sum(line.startswith('44,485 images/s') for line in lines) == 2


def test_needed_cores_are_the_demand_over_the_rate():
  rates = {bench_input.CONFIGURED: 800.0, bench_input.DECODED: 1600.0}
  found = bench_input.count_needed_cores(
    {'cores': 2, 'images_per_second': rates}
  )
  assert found[bench_input.CONFIGURED]['44485'] == {
    'cores': 112,  # 44,485 / 400
    'hosts_of_96': 2,
    'hosts_of_48': 3,
  }
  assert found[bench_input.DECODED]['88970']['cores'] == 112


def test_png_images_have_no_official_row(tmp_path):
  for i in range(3):
    Image.new('RGB', (20, 20)).save(tmp_path / f'{i}.png')
  config = configuration.load('imagenette:cpu', {'dataset': str(tmp_path)})
  images, facts = bench_input.sample_images(config)
  assert facts['count'] == 3
  assert bench_input.OFFICIAL not in bench_input.make_rows(config, images, 1)


@pytest.mark.parametrize(
  'more, code, message',
  [
    (['--config.dataset=/nowhere/at/all', '--cores=1'], 3, 'no such folder'),
    (['--cores=4096'], 2, '--cores'),
    (['--rounds=0'], 2, '--rounds'),
    (['--config.data.transfer=x'], 2, 'data.transfer'),
  ],
)
def test_an_error_is_one_line(monkeypatch, capsys, more, code, message):
  monkeypatch.setattr(bench_input.os, 'sched_setaffinity', lambda *_: None)
  assert command.main(arguments('/unused', *more)) == code
  found = capsys.readouterr()
  assert message in found.err and found.err.count('\n') == 1
  assert not found.out


def test_an_error_of_a_process_keeps_its_line_and_code(tmp_path, capsys):
  assert command.main(arguments(tmp_path / 'absent')) == 3
  assert capsys.readouterr().err.count('\n') == 1


def test_the_first_interpolation_which_compiles_is_not_timed(monkeypatch):
  done = []
  monkeypatch.setattr(resize, 'resample', lambda *_: done.append(1))
  monkeypatch.setattr(time, 'perf_counter', lambda: len(done))
  images = [np.zeros((4, 5, 3), np.uint8)] * 3
  crop_range = crops.CropRange((0.5, 1.0), (1.0, 1.0))
  rate = bench_input._time_interpolation(images, crop_range, 8, 'uint8')
  assert (len(done), rate) == (2 + 6, 3 / 6)

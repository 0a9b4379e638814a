import json

import numpy as np
from PIL import Image
import pytest

from byol_jax import __main__ as command, configuration
from byol_jax.tools import bench_input, bench_rows

ROWS = {
  bench_rows.DECODING,
  bench_rows.FLOOR,
  bench_rows.OFFICIAL,
  bench_rows.CONFIGURED,
  bench_rows.SOURCE,
  bench_rows.DECODED,
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp('images')
  generator = np.random.default_rng(0)
  for i in range(80):
    pixels = generator.integers(0, 255, (30 + i % 7, 40, 3), np.uint8)
    Image.fromarray(pixels).save(path / f'{i:02d}.jpg')
  return path


def words(folder, *more):
  return [
    *('bench', 'input', '--config=imagenette:cpu', '--rounds=1'),
    f'--config.dataset={folder}',
    '--config.image_size=16',
    *more,
  ]


def test_the_report_holds_every_row_and_ends_with_the_verdict(folder, capsys):
  assert command.main(words(folder, '--json')) == 0
  report = json.loads(capsys.readouterr().out.splitlines()[-1])
  assert report['machine']['cores'] == len(bench_input.usable())
  assert {'tensorflow-cpu', 'numpy'} <= report['versions'].keys()
  for result in report['results']:
    rates = result['images_per_second']
    assert rates.keys() >= ROWS and min(rates.values()) > 0
    assert result['of_decoding'][bench_rows.DECODING] == 1
    assert result['of_official'][bench_rows.OFFICIAL] == 1
    assert 0 < result['before_gib'] <= result['peak_gib'] < 8
    assert len(result['seek_seconds']) == 2
    # One round: the ratio of the medians is the median of the ratios.
    assert result['of_decoding'][bench_rows.DECODED] == pytest.approx(
      rates[bench_rows.DECODED] / rates[bench_rows.DECODING]
    )
  lines = bench_input.described(report)
  assert lines[-1].startswith('88,970 images/s')
  assert sum(line.startswith('44,485 images/s') for line in lines) == 2


def test_the_verdict_is_demand_over_rate():
  rates = {bench_rows.CONFIGURED: 800.0, bench_rows.DECODED: 1600.0}
  found = bench_input.verdict([{'cores': 2, 'images_per_second': rates}])
  assert found[bench_rows.CONFIGURED]['44485'] == {
    'cores': 112,  # 44,485 / 400
    'machines_like_this': 56,
    'hosts_of_96': 2,
    'hosts_of_48': 3,
  }
  assert found[bench_rows.DECODED]['88970']['cores'] == 112


def test_the_paper_s_rate_is_a_thousand_epochs_in_eight_hours():
  assert round(1_281_167 * 1000 / (8 * 3600)) == bench_input.PAPER_RATE


def test_png_images_have_no_official_row(tmp_path):
  for i in range(3):
    Image.new('RGB', (20, 20)).save(tmp_path / f'{i}.png')
  config = configuration.load('imagenette:cpu', {'dataset': str(tmp_path)})
  images, facts = bench_rows.sample(config)
  assert facts['count'] == 3
  assert bench_rows.OFFICIAL not in bench_rows.rows(config, images, 1)


@pytest.mark.parametrize(
  'more, code, text',
  [
    (['--config.dataset=/nowhere/at/all'], 3, 'no such folder'),
    (['--cores=4096'], 2, '--cores'),
    (['--rounds=0'], 2, '--rounds'),
    (['--config.data.transfer=x'], 2, 'data.transfer'),
  ],
)
def test_errors_are_one_line_of_the_process_that_meets_them(
  folder, more, code, text, capsys
):
  assert command.main(words(folder, *more)) == code
  found = capsys.readouterr()
  assert text in found.err and found.err.count('\n') == 1
  assert not found.out

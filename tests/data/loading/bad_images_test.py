"""Every row of the table of bad files, on files made here (promise 5)."""

import functools
import io
import json
import logging
import pathlib
import struct
import zlib

import numpy as np
from PIL import Image
import pytest

from benchmarks import check_bad_files
from byol_jax import errors
from byol_jax.data.loading import bad_images
from tests.helpers.made import claim_size, encode, smooth

TABLE = json.loads(check_bad_files.TABLE.read_text())['files']
PICTURE = smooth(0, 107, 160)
JPEG = encode(PICTURE, quality=95)


def animated():
  frames = [Image.fromarray(smooth(i, 72, 96)).convert('P') for i in range(6)]
  buffer = io.BytesIO()
  frames[0].save(buffer, 'GIF', save_all=True, append_images=frames[1:])
  return buffer.getvalue()


def oriented(value):
  exif = Image.Exif()
  exif[0x0112] = value
  return encode(PICTURE, exif=exif)


def corrupt():
  data = bytearray(JPEG)
  middle = len(data) // 2
  data[middle : middle + 8] = b'\x11\x22\x33\x44\x55\x66\x77\x12'
  return bytes(data)


def plain(*shape, level=0):
  return encode(np.full(shape, level, np.uint8))


MAKERS = {
  'animated.gif': animated,
  'animated_gif_renamed.JPEG': animated,
  'bmp_renamed.JPEG': lambda: encode(PICTURE, 'BMP'),
  'cmyk.JPEG': lambda: encode(PICTURE, mode='CMYK'),
  'corrupt_middle.JPEG': corrupt,
  **{
    f'exif_orientation_{i}.JPEG': functools.partial(oriented, i)
    for i in (3, 5, 6, 8)
  },
  'extreme_aspect_4000x4.JPEG': lambda: encode(smooth(1, 4, 4000)),
  'gray.JPEG': lambda: encode(PICTURE[..., 0]),
  'header_claims_65500x65500.JPEG': lambda: claim_size(JPEG, 65_500, 65_500),
  'header_height_zero.JPEG': lambda: claim_size(JPEG, 0, 160),
  'html_as.jpg': lambda: b'<!DOCTYPE html><html>404 Not Found</html>',
  'huge_16000x12000_gray.JPEG': lambda: claim_size(JPEG, 12_000, 16_000),
  'icc_profile.JPEG': lambda: encode(PICTURE, icc_profile=b'x' * 500),
  'large_6000x4000.JPEG': lambda: plain(4000, 6000),
  'leading_garbage.JPEG': lambda: b'junk' + JPEG,
  'name with spaces.JPEG': lambda: JPEG,
  'no_extension': lambda: JPEG,
  'ok_restart_markers.JPEG': lambda: encode(PICTURE, restart_marker_blocks=4),
  'ok_rgb_444.JPEG': lambda: encode(PICTURE, subsampling=0),
  'ok_rgb_baseline.JPEG': lambda: JPEG,
  'ok_rgb_progressive.JPEG': lambda: encode(PICTURE, progressive=True),
  'one_byte.JPEG': lambda: b'\xff',
  'one_pixel_1x1.JPEG': lambda: plain(1, 1, 3),
  'one_pixel_high_500x1.JPEG': lambda: encode(smooth(1, 1, 500)),
  'one_pixel_wide_1x500.JPEG': lambda: encode(smooth(1, 500, 1)),
  'png_gray16.png': lambda: encode(
    PICTURE[..., 0].astype(np.uint16) * 257, 'PNG'
  ),
  'png_palette_transparent.png': lambda: encode(
    PICTURE, 'PNG', 'P', transparency=0
  ),
  'png_rgb_renamed.JPEG': lambda: encode(PICTURE, 'PNG'),
  'png_rgba.png': lambda: encode(PICTURE, 'PNG', 'RGBA'),
  'solid_black.JPEG': lambda: plain(240, 320, 3),
  'solid_white.JPEG': lambda: plain(240, 320, 3, level=255),
  'tiff_renamed.JPEG': lambda: encode(PICTURE, 'TIFF'),
  'tiny_3x2.JPEG': lambda: encode(smooth(1, 2, 3)),
  'trailing_garbage.JPEG': lambda: JPEG + b'junk' * 1000,
  'truncated_20B.JPEG': lambda: JPEG[:20],
  'truncated_half.JPEG': lambda: JPEG[: (len(JPEG) + 623) // 2],
  'truncated_header_300B.JPEG': lambda: JPEG[:300],
  'truncated_no_eoi.JPEG': lambda: JPEG[:-2],
  'upper_case_ext.JPG': lambda: JPEG,
  'webp_renamed.JPEG': lambda: encode(PICTURE, 'WEBP'),
  'zero_byte.JPEG': lambda: b'',
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp('bad')
  for name, make in MAKERS.items():
    pathlib.Path(path, name).write_bytes(make())
  return path


@pytest.fixture(scope='module')
def found(folder):
  return {d: check_bad_files.outcomes(folder, d) for d in ('once', 'crops')}


def test_promise_5_a_file_is_used_or_replaced_as_the_table_says(found):
  assert all(row['why'] for row in TABLE.values())
  assert {
    name: 'used' if reason == 'used' else 'replaced'
    for name, reason in found['once'].items()
  } == {name: row['outcome'] for name, row in TABLE.items()}
  # Decoding crops differs only for cut images.
  differ = {n for n in TABLE if found['once'][n] != found['crops'][n]}
  used = {n for n in differ if found['crops'][n] == 'used'}
  assert used <= {'truncated_half.JPEG', 'truncated_no_eoi.JPEG'}
  assert all(found['once'][n] != 'used' for n in differ)


def bomb(side):
  """A PNG of zeros that claims side x side pixels."""

  def chunk(kind, data):
    body = kind + data
    return (
      struct.pack('>I', len(data)) + body + struct.pack('>I', zlib.crc32(body))
    )

  header = struct.pack('>IIBBBBB', side, side, 8, 2, 0, 0, 0)
  return (
    b'\x89PNG\r\n\x1a\n'
    + chunk(b'IHDR', header)
    + chunk(b'IDAT', zlib.compress(bytes(1 << 20)))
    + chunk(b'IEND', b'')
  )


@pytest.mark.parametrize(
  'data', [bomb(30_000), claim_size(JPEG, 60_000, 60_000)]
)
def test_a_decompression_bomb_does_not_take_the_memory(tmp_path, data):
  """It is refused by its header: 2.7 and 10.8 GB are never asked for."""
  for i in range(11):
    (tmp_path / f'{i}.jpg').write_bytes(encode(smooth(i, 20, 20)))
  (tmp_path / 'bomb.png').write_bytes(data)
  before = peak()
  found = check_bad_files.outcomes(tmp_path, 'once')
  assert 'claims' in found['bomb.png']
  assert [n for n in found if found[n] != 'used'] == ['bomb.png']
  assert peak() - before < 500e6


def peak():
  """The most resident memory that this process has had, bytes."""
  import resource

  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize('count, limit', [(5, 10), (9_000, 10), (50_000, 50)])
def test_more_than_ten_or_a_thousandth_are_too_many(count, limit, caplog):
  counter = bad_images.BadImageCounter('set', count, 0.001)
  with caplog.at_level(logging.WARNING):
    for index in [*range(limit), *range(limit)]:
      counter.add(index, f'file{index}', 'why')
    assert len(counter) == len(caplog.records) == limit
    with pytest.raises(errors.DataError, match=f'allowed are {limit}'):
      counter.add(limit, 'one more', 'why')

"""The loops of `resize`, which Numba compiles.

It does so without the global lock, in IEEE arithmetic without contraction: the
same bits on every machine.
"""

from collections.abc import Callable

from llvmlite import ir
import numba
from numba import extending, types
import numpy as np

_F = np.float32
_U = np.uint64  # numba tests whether a signed index is negative


def _compiled(function: Callable) -> Callable:
  """Compiles at the first call, and caches the result on disk."""
  try:
    return numba.njit(nogil=True, cache=True)(function)
  except RuntimeError:  # no folder can hold the cache
    return numba.njit(nogil=True)(function)


@extending.intrinsic
def _combine_pixels(typing, line, start, row, first, weights):  # type: ignore
  """line[start + i] = the sum of weights[k] * row[first + 3 k + i], i < 4.

  Four numbers, where a pixel has three, are one vector of the processor; the
  next pixel overwrites the fourth. Numba's compiler finds no vectors here.
  """

  def generate(context, builder, signature, arguments):  # type: ignore
    line, start, row, first, weights = arguments
    four = ir.VectorType(ir.FloatType(), 4)

    def locate(array, kind, index):  # type: ignore
      data = context.make_array(kind)(context, builder, array).data
      return builder.bitcast(builder.gep(data, [index]), four.as_pointer())

    total = None
    for k in range(4):
      lanes = ir.Constant(four, ir.Undefined)
      for lane in map(ir.IntType(32), range(4)):
        weight = builder.extract_value(weights, k)
        lanes = builder.insert_element(lanes, weight, lane)
      index = builder.add(first, ir.Constant(first.type, 3 * k))
      place = locate(row, signature.args[2], index)
      term = builder.fmul(lanes, builder.load(place, align=4))
      total = builder.fadd(total, term) if total else term
    place = locate(line, signature.args[0], start)
    builder.store(total, place, align=4)
    return context.get_dummy_value()

  return types.void(line, start, row, first, weights), generate


@_compiled
def _combine_rows(above, weights, row):  # type: ignore
  """One new line of floats from the four image rows above."""
  row0, row1, row2, row3 = above
  w0, w1, w2, w3 = weights
  for i in range(len(row0)):
    row[i] = (
      w0 * _F(row0[i]) + w1 * _F(row1[i]) + w2 * _F(row2[i]) + w3 * _F(row3[i])
    )


@_compiled
def resize_window(
  pixels: np.ndarray,
  window: tuple[int, int, int, int],
  rows: np.ndarray,
  row_weights: np.ndarray,
  starts: np.ndarray,
  column_weights: np.ndarray,
  margin: int,
  unit: np.float32,
  out: np.ndarray,
) -> None:
  """Resizes a window of an image, see `resize.resample`.

  Args:
    pixels: uint8 or float32 [H, W * 3]; `unit` becomes 1.
    window: y, x, h, w.
    rows, row_weights: `indices` and `weights` of `resize.Taps` of the rows.
    starts, column_weights: `starts` and `weights` of those of the columns.
    margin: zeros beyond either end of a line, in pixels.
    unit: see `pixels`.
    out: float32 [h, w * 3], written.
  """
  y, x, _, width = window
  left = 3 * x
  # Whole vectors, with numbers that no weight is for, where the image has them.
  right = min(left + (3 * width + 15) // 16 * 16, pixels.shape[1])
  row = np.zeros(3 * (width + 2 * margin) + 16, _F)
  line = np.zeros(3 * len(starts) + 1, _F)
  for i in range(len(rows)):
    above = (
      pixels[_U(y) + rows[i, 0], left:right],
      pixels[_U(y) + rows[i, 1], left:right],
      pixels[_U(y) + rows[i, 2], left:right],
      pixels[_U(y) + rows[i, 3], left:right],
    )
    weights = (
      row_weights[i, 0],
      row_weights[i, 1],
      row_weights[i, 2],
      row_weights[i, 3],
    )
    _combine_rows(above, weights, row[3 * margin :])
    for j in range(len(starts)):
      weights = (
        column_weights[j, 0],
        column_weights[j, 1],
        column_weights[j, 2],
        column_weights[j, 3],
      )
      place = _U(3) * _U(j)
      first = _U(3) * starts[j]
      _combine_pixels(line, place, row, first, weights)  # type: ignore
    # Bicubic overshoots, so values are clipped.
    for j in range(out.shape[1]):
      out[i, j] = min(max(line[j] / unit, _F(0)), _F(1))


@_compiled
def convert_to_bytes(floats: np.ndarray, out: np.ndarray) -> None:
  """Writes float32 [h, w * 3] in [0, 1] as uint8, 255 times that, rounded."""
  for i in range(len(floats)):
    for j in range(floats.shape[1]):
      out[i, j] = np.uint8(np.rint(floats[i, j] * _F(255)))

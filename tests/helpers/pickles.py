"""An assembler of pickles, protocol 2, opcode by opcode.

The standard library's pickler cannot write names of packages that are not
installed.
"""

import struct

import numpy as np

HAIKU = 'haiku._src.data_structures'


def text(value):
  data = value.encode('utf8', 'surrogatepass')
  return b'X' + struct.pack('<I', len(data)) + data


def name(module, attribute):
  return f'c{module}\n{attribute}\n'.encode()


def integer(value):
  return b'J' + struct.pack('<i', value)


def sequence(*parts):
  return b'(' + b''.join(parts) + b't'


def call(function, *args):
  return function + sequence(*args) + b'R'


def mapping(items):
  inner = b''.join(text(key) + value for key, value in items.items())
  return b'}(' + inner + b'u'


def program(*parts):
  return b'\x80\x02' + b''.join(parts) + b'.'


NDARRAY = name('numpy', 'ndarray')
ENCODE = name('_codecs', 'encode')
CREATE_ARRAY = name('dill._dill', '_create_array')
RECONSTRUCT = name('numpy.core.multiarray', '_reconstruct')


def raw(data):
  return call(ENCODE, text(data.decode('latin1')), text('latin1'))


BLANK = sequence(NDARRAY, sequence(integer(0)), raw(b'b'))


def dtype(code, order='<'):
  flags = [integer(-1), integer(-1), integer(0)]
  state = [integer(3), text(order), b'N', b'N', b'N', *flags]
  made = call(name('numpy', 'dtype'), text(code), b'\x89', b'\x88')
  return made + sequence(*state) + b'b'


def array_state(array, fortran=False):
  kind = array.dtype
  order = {'=': '<', '|': '|', '>': '>'}[kind.byteorder]
  return sequence(
    integer(1),
    sequence(*(integer(n) for n in array.shape)),
    dtype(f'{kind.kind}{kind.itemsize}', order),
    b'\x88' if fortran else b'\x89',
    raw(array.tobytes('F' if fortran else 'C')),
  )


def plain_array(array, function=RECONSTRUCT, fortran=False):
  """An array as numpy writes it."""
  return function + BLANK + b'R' + array_state(array, fortran) + b'b'


def whole_array(module, function, *extra):
  """array -> how dill and JAX write it, in one call."""
  return lambda array: call(
    name(module, function), RECONSTRUCT, BLANK, array_state(array), *extra
  )


def tree(values, array=plain_array, wrap=lambda body: body):
  """{module: {leaf: array}}; `wrap` is Haiku's mapping."""
  modules = {
    module: wrap(mapping({k: array(np.asarray(x)) for k, x in leaves.items()}))
    for module, leaves in values.items()
  }
  return wrap(mapping(modules))


def dill_tuple(kind, module, fields):
  """A named tuple, {field: body}, as dill writes it."""
  create, names = name('dill._dill', '_create_namedtuple'), map(text, fields)
  made = call(create, text(kind), sequence(*names), text(module))
  return made + sequence(*fields.values()) + b'\x81'


def named_class(kind, module, fields):
  """A named tuple by its class's name, as the standard library writes it."""
  return name(module, kind) + sequence(*fields.values()) + b'\x81'

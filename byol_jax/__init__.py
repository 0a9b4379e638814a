"""BYOL (Grill et al. 2020) in JAX and Haiku.

`byol_jax.pretrain(...)`, `byol_jax.load(path)` and the other functions are
imported when first used, so that importing the package is quick. They raise the
subclasses of `byol_jax.UserError`, one for each exit code of the command line.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from byol_jax import errors
from byol_jax.errors import (
  CheckFailed,
  ConfigError,
  DataError,
  DivergedError,
  Preempted,
  UserError,
)

if sys.platform == 'win32':
  raise ImportError('byol_jax runs on Linux, macOS and WSL2, not on Windows')

if TYPE_CHECKING:
  from byol_jax.api import embed, knn, linear, load, load_encoder, pretrain
  from byol_jax.tools.import_weights import import_weights

__version__ = '0.1.0'

__all__ = [
  'CheckFailed',
  'ConfigError',
  'DataError',
  'DivergedError',
  'Preempted',
  'UserError',
  'embed',
  'errors',
  'import_weights',
  'knn',
  'linear',
  'load',
  'load_encoder',
  'pretrain',
]

# Functions that are not in `api`.
_PLACES = {'import_weights': 'byol_jax.tools.import_weights'}


def __getattr__(name: str) -> Any:
  if name in __all__:
    module = importlib.import_module(_PLACES.get(name, 'byol_jax.api'))
    return getattr(module, name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
  return [*__all__, '__version__']

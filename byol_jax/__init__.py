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
  from byol_jax.api import (
    embed,
    finetune,
    knn,
    linear,
    load,
    load_encoder,
    online,
    pretrain,
    semisup,
    suite,
    transfer,
  )
  from byol_jax.tools.export import export_encoder as export
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
  'export',
  'finetune',
  'import_weights',
  'knn',
  'linear',
  'load',
  'load_encoder',
  'online',
  'pretrain',
  'semisup',
  'suite',
  'transfer',
]

# Functions that are not in `api`: module and name.
_PLACES = {
  'export': ('byol_jax.tools.export', 'export_encoder'),
  'import_weights': ('byol_jax.tools.import_weights', 'import_weights'),
}


def __getattr__(name: str) -> Any:
  if name in __all__:
    module, function = _PLACES.get(name, ('byol_jax.api', name))
    return getattr(importlib.import_module(module), function)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
  return [*__all__, '__version__']

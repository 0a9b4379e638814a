"""BYOL (Grill et al. 2020) in JAX and Haiku.

`byol_jax.pretrain(...)` and `byol_jax.load_encoder(workdir)` are imported when
first used, so that importing the package is quick. They raise the subclasses
of `byol_jax.UserError`, one for each exit code of the command line.
"""

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
  from byol_jax.api import load_encoder, pretrain

__version__ = '0.1.0'

__all__ = [
  'CheckFailed',
  'ConfigError',
  'DataError',
  'DivergedError',
  'Preempted',
  'UserError',
  'errors',
  'load_encoder',
  'pretrain',
]


def __getattr__(name: str) -> Any:
  if name in __all__:
    from byol_jax import api

    return getattr(api, name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
  return [*__all__, '__version__']

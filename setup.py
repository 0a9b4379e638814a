"""Ranges of versions; requirements.txt holds the exact ones."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent

# The presets are installed inside the package, where byol_jax.configuration
# finds them: a top-level package `configs` could shadow a user's own.
PRESETS = {
  f'byol_jax.shipped.{name}': name.replace('.', '/')
  for name in ('configs', 'configs.small', 'configs.evals')
}

setup(
  name='byol_jax',
  version=re.search(
    r"__version__ = '(.+)'", (HERE / 'byol_jax/__init__.py').read_text()
  ).group(1),
  description='BYOL (Grill et al. 2020) in JAX and Haiku',
  long_description=(HERE / 'README.md').read_text(),
  long_description_content_type='text/markdown',
  python_requires='>=3.11',
  packages=find_packages(include=['byol_jax', 'byol_jax.*']) + list(PRESETS),
  package_dir=PRESETS,
  install_requires=[
    'jax>=0.10.2,<0.12',
    'jaxlib>=0.10.2,<0.12',
    'dm-haiku>=0.0.17,<0.1',
    'optax>=0.2.8,<0.3',
    'chex>=0.1.92,<0.2',
    'ml_collections>=1.1,<2',
    'orbax-checkpoint>=0.12.8,<0.13',
    'tensorflow-cpu>=2.21,<3; platform_system == "Linux" and'
    ' platform_machine == "x86_64"',
    'tensorflow>=2.21,<3; platform_system != "Linux" or'
    ' platform_machine != "x86_64"',
    'tensorflow-datasets>=4.9.10,<5',
    'importlib_resources>=6',  # TFDS imports it without asking for it
    'numpy>=2.0,<3',
    'numba>=0.61,<1',
    'pillow>=11,<14',
    'google-crc32c>=1.5,<2',
    'etils[epath]>=1.9.1,<2',
    'array_record>=0.5,<1; platform_system == "Linux"',
    'tensorboardX>=2.6.5,<3',
    'tqdm>=4.66,<5',
  ],
  # The compiler for TPUs, for `python -m byol_jax plan`; a TPU's host has it.
  extras_require={'plan': ['libtpu>=0.0.42']},
)

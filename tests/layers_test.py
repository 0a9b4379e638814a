"""Who may import whom: the layer table of docs/architecture.md, enforced."""

import ast
import fnmatch
import functools
import sys

import pytest

from tests.helpers import tiny_run

METHOD = [
  *('losses', 'augment', 'schedules', 'optimizers', 'metrics', 'resnet'),
]
LAYER_0 = (
  *('errors', 'files', 'convolution', *METHOD),
  *('data.catalog', 'data.sampling.*', 'evals.logistic', 'evals.dense.boxes'),
)
LAYER_1 = ['networks', 'monitor', 'parallel']
LAYER_2 = ['finite', 'byol', 'evals.supervised']
MATHS = [*METHOD, *LAYER_1, *LAYER_2]
TO_LAYER_2 = [
  *(*LAYER_0, *LAYER_1, *LAYER_2, 'configuration'),
  *('checkpoints.*', 'distributed.*', 'data.*'),
]
TO_LAYER_3 = [*TO_LAYER_2, 'evals.*', 'convert.*']
TO_LAYER_5 = [*TO_LAYER_3, 'experiment', 'training.*']
SOURCES = ['errors', 'files', 'data.catalog', 'data.sampling.*']

# Module -> what it may import from byol_jax; the first pattern that fits.
MAY_IMPORT = {
  'errors': [],
  **dict.fromkeys((*LAYER_0, 'networks', 'monitor'), LAYER_0),
  'parallel': ['errors'],
  'finite': [*LAYER_0, *LAYER_1],
  **{name: [*LAYER_0, *LAYER_1, 'finite'] for name in LAYER_2},
  'configuration': ['errors', 'losses'],
  'checkpoints.*': ['errors', 'files', 'checkpoints.*'],
  'distributed.*': ['errors', 'parallel', 'distributed.*'],
  'data.sources.*': [*SOURCES, 'data.sources.*'],
  'data.loading.*': [*SOURCES, 'data.sources.*', 'data.loading.*'],
  'data.preparation.*': [*SOURCES, 'data.*'],
  'data.from_config': [*SOURCES, 'data.*'],
  'evals.*': [*LAYER_0, *LAYER_1, *LAYER_2, 'distributed.*', 'evals.*'],
  'convert.*': ['errors', 'networks', 'resnet', 'convert.*'],
  'experiment': [*LAYER_0, *LAYER_1, *LAYER_2, 'configuration'],
  'training.*': [
    *(*LAYER_0, *LAYER_1, *LAYER_2, 'experiment', 'training.*'),
    *('checkpoints.*', 'distributed.*'),
  ],
  'conformance.*': [*TO_LAYER_5, 'conformance.*'],
  'planning.*': [*TO_LAYER_5, 'planning.*'],
  'pretrained': TO_LAYER_5,
  'api': [*TO_LAYER_5, 'pretrained', 'conformance.*', 'planning.*'],
  **{name: ['*'] for name in ['__init__', '__main__', 'tools.*', 'cli.*']},
}

# Third-party packages that have one place.
PLACES = {
  'tensorflow': ['data.loading.tf_engine'],
  'tensorflow_datasets': ['data.sources.tfds', 'data.preparation.*'],
  'orbax': ['checkpoints.*'],
  'ml_collections': [
    *('configuration', 'experiment', 'data.from_config', 'pretrained'),
    *('conformance.*', 'api', 'tools.*', 'cli.*', 'planning.*'),
  ],
  'numba': ['data.sampling.resize'],
  'argparse': ['cli.*', '__main__'],
  'configs': ['cli.*'],
  'absl': [],
}
# Facts of ImageNet are in the catalog and in configs/; these numbers mean
# something else.
OTHER_MEANINGS = {
  ('data.sampling.resize', 224): "256 : 224, the ratio of the paper's crop",
  ('data.sources.shapes', 1000): 'images of its own test split',
}
IMAGENET = (224, 1_281_167)
PICKLES = {'pickle', 'dill', 'cloudpickle', 'marshal', 'shelve', 'joblib'}
MAX_FILE, MAX_FUNCTION, MAX_ROOT = 400, 60, 20
# Modules that have moved and are still to be rewritten.
TRANSITION: set[str] = set()


def name_of(path):
  """byol_jax/data/catalog.py -> data.catalog."""
  parts = path.relative_to(tiny_run.ROOT).with_suffix('').parts
  return '.'.join(parts[1:])


@functools.cache
def sources():
  """Module name (inside byol_jax) -> syntax tree."""
  files = sorted((tiny_run.ROOT / 'byol_jax').rglob('*.py'))
  return {
    name_of(path): ast.parse(path.read_text())
    for path in files
    if path.name != '__init__.py' or path.parent.name == 'byol_jax'
  }


def config_files():
  return sorted((tiny_run.ROOT / 'configs').rglob('*.py'))


def imports(tree):
  """Dotted names of everything imported, at any depth of the file."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, 'imports are absolute'
      for alias in node.names:
        yield f'{node.module}.{alias.name}'


def own(tree):
  """Imported modules of byol_jax, without the package's name."""
  known = set(sources()) | {name.split('.')[0] for name in sources()}
  for name in imports(tree):
    head, _, rest = name.partition('.')
    if head == 'byol_jax':
      # `from byol_jax.errors import X` names the module before X.
      while rest and rest not in known:
        rest = rest.rpartition('.')[0]
      yield rest or '__init__'


def foreign(tree):
  """First parts of imported names that are not Python's own."""
  heads = {name.partition('.')[0] for name in imports(tree)}
  return heads - set(sys.stdlib_module_names) - {'byol_jax'}


def fits(name, patterns):
  return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def calls(tree, name):
  return [
    node
    for node in ast.walk(tree)
    if isinstance(node, ast.Call)
    and isinstance(node.func, ast.Name)
    and node.func.id == name
  ]


def attributes(tree):
  return {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}


MODULES = sorted(set(sources()) - TRANSITION)


@pytest.mark.parametrize('name', MODULES)
def test_imports_point_down(name):
  rule = next((p for p in MAY_IMPORT if fits(name, [p])), None)
  assert rule, f'{name} is not in the table: say which layer it is'
  for imported in own(sources()[name]):
    assert fits(imported, MAY_IMPORT[rule]), f'{name} imports {imported}'


@pytest.mark.parametrize('name', MODULES)
def test_third_party_packages_are_in_their_places(name):
  packages = foreign(sources()[name])
  if fits(name, [*LAYER_0, *MATHS]):
    assert packages <= {'numpy', 'jax', 'haiku', 'optax', 'chex', 'numba'}
  for package in packages & (PLACES.keys() | {'argparse'}):
    assert fits(name, PLACES[package]), f'{name} imports {package}'


@pytest.mark.parametrize('path', config_files(), ids=lambda p: p.stem)
def test_configs_import_only_configs(path):
  tree = ast.parse(path.read_text())
  assert foreign(tree) <= {'ml_collections', 'configs'} and not list(own(tree))


def test_no_cycles():
  edges = {name: set(own(tree)) for name, tree in sources().items()}
  while edges:
    free = [name for name, below in edges.items() if not below & edges.keys()]
    assert free, f'a cycle among {sorted(edges)}'
    for name in free:
      del edges[name]


@pytest.mark.parametrize('name', [n for n in MODULES if fits(n, MATHS)])
def test_the_method_reads_no_config_file_clock_or_host(name):
  tree = sources()[name]
  heads = {imported.partition('.')[0] for imported in imports(tree)}
  forbidden = {'time', 'datetime', 'logging', 'os', 'pathlib', 'sys', 'random'}
  assert not heads & forbidden
  assert not calls(tree, 'print') and not calls(tree, 'open')
  assert not {'process_index', 'process_count', 'device_put'} & attributes(tree)
  for node in ast.walk(tree):
    if isinstance(node, ast.arg):
      assert node.arg != 'config', 'only experiment.build reads the config'


@pytest.mark.parametrize('name', MODULES)
def test_pmap_pickle_and_config_defaults_have_one_place(name):
  tree = sources()[name]
  assert name.split('.')[-1] not in ('utils', 'helpers')
  if name != 'distributed.placement':
    assert not {'jax.pmap', 'jax.experimental.shard_map'} & set(imports(tree))
    for node in ast.walk(tree):
      if isinstance(node, ast.Attribute) and node.attr == 'pmap':
        assert ast.unparse(node.value) == 'placement'
  if name not in ('convert.deepmind', 'convert.safe_pickle'):
    heads = {imported.partition('.')[0] for imported in imports(tree)}
    assert not heads & PICKLES
  assert not calls(tree, 'eval') and not calls(tree, 'exec')
  # The pickles of JAX name its modules.
  if not name.startswith('distributed.') and name != 'convert.safe_pickle':
    assert 'jax._src' not in ast.unparse(tree)
  for node in ast.walk(tree):
    get = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    if get and node.func.attr == 'get' and len(node.args) == 2:
      owner = ast.unparse(node.func.value)
      assert 'config' not in owner, 'defaults live in configs/ only'


@pytest.mark.parametrize('name', [n for n in MODULES if n != 'data.catalog'])
def test_facts_of_imagenet_are_in_the_catalog_and_configs(name):
  for node in ast.walk(sources()[name]):
    if isinstance(node, ast.Constant) and type(node.value) is int:
      is_known = (name, node.value) in OTHER_MEANINGS
      assert is_known or node.value not in IMAGENET, f'line {node.lineno}'


@pytest.mark.parametrize('name', MODULES)
def test_sizes_types_and_docstrings(name):
  tree = sources()[name]
  path = tiny_run.ROOT / 'byol_jax' / (name.replace('.', '/') + '.py')
  assert len(path.read_text().splitlines()) <= MAX_FILE
  assert ast.get_docstring(tree), 'a module says what it is'
  for node in ast.walk(tree):
    if isinstance(node, ast.FunctionDef):
      assert node.end_lineno - node.lineno < MAX_FUNCTION, node.name
  for node in tree.body:
    if isinstance(node, ast.FunctionDef) and not node.name.startswith('_'):
      assert ast.get_docstring(node), node.name
      assert node.returns is not None, node.name


def test_the_root_is_small():
  assert sum('.' not in name for name in MODULES) <= MAX_ROOT


def test_packages_do_nothing_when_imported():
  for path in (tiny_run.ROOT / 'byol_jax').rglob('*/__init__.py'):
    tree = ast.parse(path.read_text())
    assert all(isinstance(node, ast.Expr) for node in tree.body), path


@pytest.mark.parametrize(
  'statement, absent',
  [
    ('import byol_jax', ('jax', 'tensorflow', 'haiku')),
    ('import byol_jax.training.train', ('tensorflow', 'tensorflow_datasets')),
    ('import byol_jax.byol', ('tensorflow', 'orbax')),
    ('import configs.pretrain', ('tensorflow', 'jax', 'byol_jax')),
  ],
)
def test_imports_leave_slow_packages_out(statement, absent):
  code = f'{statement}\nimport sys\nprint("found", *sys.modules)'
  output = tiny_run.finish(tiny_run.start_python('-c', code))
  found = output.partition('found ')[2].split()
  assert 'sys' in found and not set(absent) & set(found)

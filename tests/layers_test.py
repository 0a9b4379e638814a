"""Who may import whom: the layer table of docs/architecture.md, enforced."""

import ast
import fnmatch
import sys

import pytest

from tests.helpers import tiny_run

METHOD = ['losses', 'augment', 'schedules', 'optimizers', 'metrics']
METHOD += ['convolution', 'modules', 'resnet']
LAYER_0 = (*('errors', 'files', *METHOD, 'data.catalog', 'data.sampling.*'),)
LAYER_1 = ['networks', 'parallel']
LAYER_2 = ['byol', 'evals.supervised']
MATHS = [*METHOD, *LAYER_1, *LAYER_2, 'gradients']
TO_LAYER_2 = [
  *(*LAYER_0, *LAYER_1, *LAYER_2, 'configuration', 'ranges'),
  *('checkpoints.*', 'distributed.*', 'data.*'),
]
TO_LAYER_3 = [*TO_LAYER_2, 'evals.*', 'convert.*']
TO_LAYER_5 = [*TO_LAYER_3, 'experiment', 'training.*']
SOURCES = ['errors', 'files', 'data.catalog', 'data.sampling.*']

# Module -> what it may import from byol_jax; the first pattern that fits.
MAY_IMPORT = {
  'errors': [],
  **dict.fromkeys(LAYER_0, LAYER_0),
  'networks': [*LAYER_0, 'parallel'],
  'parallel': ['errors'],
  **{name: [*LAYER_0, *LAYER_1] for name in LAYER_2},
  'gradients': [*LAYER_0, *LAYER_1, 'byol'],
  'ranges': ['errors', 'files'],
  'configuration': ['errors', 'files', 'ranges'],
  'checkpoints.*': ['errors', 'files', 'checkpoints.*'],
  'distributed.*': ['errors', 'parallel', 'distributed.*'],
  'data.sources.*': [*SOURCES, 'data.sources.*'],
  'data.loading.*': [*SOURCES, 'data.sources.*', 'data.loading.*'],
  'data.preparation.*': [*SOURCES, 'data.*'],
  'data.from_config': [*SOURCES, 'data.*'],
  'evals.*': [*LAYER_0, *LAYER_1, *LAYER_2, 'distributed.*', 'evals.*'],
  'convert.*': ['errors', 'files', 'networks', 'resnet', 'convert.*'],
  'experiment': [*MATHS, *LAYER_0, 'configuration', 'ranges'],
  'training.*': [
    *(*LAYER_0, *LAYER_1, *LAYER_2, 'configuration', 'experiment'),
    *('training.*', 'checkpoints.*', 'distributed.*'),
  ],
  'conformance.*': [*TO_LAYER_5, 'conformance.*'],
  'planning.*': [*TO_LAYER_5, 'planning.*'],
  'evaluation.*': [*TO_LAYER_5, 'evaluation.*'],
  'api': [
    *(*TO_LAYER_5, 'evaluation.*', 'conformance.*', 'planning.*'),
  ],
  **{name: ['*'] for name in ['__init__', '__main__', 'tools.*', 'cli.*']},
}

# Third-party packages that have one place.
PLACES = {
  'tensorflow': ['data.loading.tf_engine', 'convert.saved_model'],
  'tensorflow_datasets': ['data.sources.tfds', 'data.preparation.*'],
  'orbax': ['checkpoints.*'],
  'ml_collections': [
    *('configuration', 'experiment', 'data.from_config'),
    'training.old_values',
    *('conformance.*', 'evaluation.*', 'api', 'tools.*', 'cli.*'),
    'planning.*',
  ],
  'numba': ['data.sampling.resize_loops'],
  'llvmlite': ['data.sampling.resize_loops'],
  'scipy': ['evals.logistic'],
  'sklearn': ['tools.gallery'],
  'argparse': ['cli.*', '__main__'],
  'configs': [],
  'absl': [],
}
# Facts of ImageNet are in the catalog and in configs/; these numbers mean
# something else.
OTHER_MEANINGS = {
  ('data.sampling.resize', 224): "256 : 224, the ratio of the paper's crop",
  ('convert.parity', 224): 'sizes at which padding differs, among others',
  ('data.sources.shapes', 1000): 'images of its own test split',
  ('convert.weights', 224): 'the size of published weights',
}
IMAGENET = (224, 1_281_167)
PICKLES = {'pickle', 'dill', 'cloudpickle', 'marshal', 'shelve', 'joblib'}
MAX_FILE, MAX_FUNCTION, MAX_ROOT = 400, 60, 20


def parse_modules():
  """{module name inside byol_jax: syntax tree}, without empty packages."""
  root = tiny_run.ROOT / 'byol_jax'
  found = {}
  for path in sorted(root.rglob('*.py')):
    if path.name != '__init__.py' or path.parent == root:
      name = '.'.join(path.relative_to(root).with_suffix('').parts)
      found[name] = ast.parse(path.read_text())
  return found


SOURCES_OF = parse_modules()
MODULES = sorted(SOURCES_OF)
KNOWN = SOURCES_OF.keys() | {name.split('.')[0] for name in SOURCES_OF}


def nodes(tree, *kinds):
  return [node for node in ast.walk(tree) if isinstance(node, kinds)]


def imports(tree):
  """Dotted names of everything imported, at any depth of the file."""
  for node in nodes(tree, ast.Import):
    yield from (alias.name for alias in node.names)
  for node in nodes(tree, ast.ImportFrom):
    assert node.level == 0, 'imports are absolute'
    yield from (f'{node.module}.{alias.name}' for alias in node.names)


def heads(tree):
  return {name.partition('.')[0] for name in imports(tree)}


def own(tree):
  """Imported modules of byol_jax, without the package's name."""
  for name in imports(tree):
    head, _, rest = name.partition('.')
    if head == 'byol_jax':
      # `from byol_jax.errors import X` names the module before X.
      while rest and rest not in KNOWN:
        rest = rest.rpartition('.')[0]
      yield rest or '__init__'


def foreign(tree):
  """First parts of imported names that are not Python's own."""
  return heads(tree) - set(sys.stdlib_module_names) - {'byol_jax'}


def fits(name, patterns):
  return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def called(tree):
  """Names of the functions that are called by a bare name."""
  functions = [node.func for node in nodes(tree, ast.Call)]
  return {f.id for f in functions if isinstance(f, ast.Name)}


@pytest.mark.parametrize('name', MODULES)
def test_imports_point_down_and_packages_are_in_their_places(name):
  rule = next((p for p in MAY_IMPORT if fits(name, [p])), None)
  assert rule, f'{name} is not in the table: say which layer it is'
  for imported in own(SOURCES_OF[name]):
    assert fits(imported, MAY_IMPORT[rule]), f'{name} imports {imported}'
  packages = foreign(SOURCES_OF[name])
  if fits(name, [*LAYER_0, *MATHS]):
    assert packages <= {
      'numpy',
      'jax',
      'haiku',
      'optax',
      'chex',
      'numba',
      'llvmlite',
    }
  for package in heads(SOURCES_OF[name]) & PLACES.keys():
    assert fits(name, PLACES[package]), f'{name} imports {package}'


def test_no_cycles():
  edges = {name: set(own(tree)) for name, tree in SOURCES_OF.items()}
  while edges:
    free = [name for name, below in edges.items() if not below & edges.keys()]
    assert free, f'a cycle among {sorted(edges)}'
    for name in free:
      del edges[name]


def test_configs_import_only_configs_and_packages_nothing():
  for path in (tiny_run.ROOT / 'configs').rglob('*.py'):
    tree = ast.parse(path.read_text())
    assert foreign(tree) <= {'ml_collections', 'configs'}, path
    assert not [*own(tree)] and ast.get_docstring(tree), path
  for path in (tiny_run.ROOT / 'byol_jax').rglob('*/__init__.py'):
    tree = ast.parse(path.read_text())
    assert all(isinstance(node, ast.Expr) for node in tree.body), path


@pytest.mark.parametrize('name', [n for n in MODULES if fits(n, MATHS)])
def test_the_method_reads_no_config_file_clock_or_host(name):
  tree = SOURCES_OF[name]
  forbidden = {'time', 'datetime', 'logging', 'os', 'pathlib', 'sys', 'random'}
  assert not heads(tree) & forbidden
  assert not {'print', 'open'} & called(tree)
  attributes = {node.attr for node in nodes(tree, ast.Attribute)}
  assert not {'process_index', 'process_count', 'device_put'} & attributes
  # Only experiment.build reads the configuration.
  assert 'config' not in {node.arg for node in nodes(tree, ast.arg)}


@pytest.mark.parametrize('name', MODULES)
def test_pmap_pickle_defaults_and_imagenet_have_one_place(name):
  tree = SOURCES_OF[name]
  assert name.split('.')[-1] not in ('utils', 'helpers')
  if name != 'distributed.placement':
    assert not {'jax.pmap', 'jax.experimental.shard_map'} & set(imports(tree))
    for node in nodes(tree, ast.Attribute):
      assert node.attr != 'pmap' or ast.unparse(node.value) == 'placement'
  if name != 'convert.safe_pickle':
    assert not heads(tree) & PICKLES
  assert not {'eval', 'exec'} & called(tree)
  # The pickles of JAX name its modules.
  if not name.startswith('distributed.') and name != 'convert.safe_pickle':
    assert 'jax._src' not in ast.unparse(tree)
  for node in nodes(tree, ast.Call):
    is_method = isinstance(node.func, ast.Attribute) and len(node.args) == 2
    if is_method and node.func.attr == 'get':
      owner = ast.unparse(node.func.value)
      assert 'config' not in owner, 'defaults live in configs/ only'
  for node in nodes(tree, ast.Constant):
    if type(node.value) is int and name != 'data.catalog':
      is_known = (name, node.value) in OTHER_MEANINGS
      assert is_known or node.value not in IMAGENET, f'line {node.lineno}'


@pytest.mark.parametrize('name', MODULES)
def test_sizes_types_and_docstrings(name):
  tree = SOURCES_OF[name]
  path = tiny_run.ROOT / 'byol_jax' / (name.replace('.', '/') + '.py')
  assert len(path.read_text().splitlines()) <= MAX_FILE
  assert sum('.' not in other for other in MODULES) <= MAX_ROOT
  assert ast.get_docstring(tree), 'a module says what it is'
  for node in nodes(tree, ast.FunctionDef):
    assert node.end_lineno - node.lineno < MAX_FUNCTION, node.name
    if node in tree.body and not node.name.startswith('_'):
      assert ast.get_docstring(node), node.name
      assert node.returns is not None, node.name


def test_imports_leave_slow_packages_out():
  """One after the other in one process, the fastest first."""
  absent = {
    'configs.pretrain': {'jax', 'byol_jax'},
    'byol_jax.cli.console': {'jax', 'haiku', 'numpy', 'absl.app'},
    'byol_jax.byol': {'orbax'},
    'byol_jax.training.train': {'tensorflow', 'tensorflow_datasets'},
  }
  code = 'import sys, importlib\n' + ''.join(
    f'importlib.import_module({name!r}); print({name!r}, *sys.modules)\n'
    for name in absent
  )
  output = tiny_run.finish(tiny_run.start_python('-c', code))
  slow = {'tensorflow', 'tensorflow_datasets'}
  found = {x[0]: {*x} for x in map(str.split, output.splitlines()) if x}
  for name, others in absent.items():
    assert 'sys' in found[name] and not found[name] & (others | slow), name

"""The layout of the house, read from the source: who may import whom.

The table is that of the design: arrows point down. Third-party packages that
are slow or heavy are held to their places too.
"""

import ast
import fnmatch
import functools
import sys

import pytest
import tiny_run

LAYER_0 = [
  'errors',
  'losses',
  'augment',
  'schedules',
  'optimizers',
  'metrics',
  'monitor',
  'resnet',
  'resize',
  'data.catalog',
  'data.order',
  'evals.boxes',
]
HOST = [
  *('parallel', 'hosts', 'checkpoint', 'logs', 'workdir', 'watchdog'),
  # Parts of them: few arrays, named arrays, scalars on disk, Ctrl-C.
  *(
    'packing',
    'roll_call',
    'provenance',
    'background',
    'checkpoint_manifest',
    'checkpoint_places',
    'checkpoint_reading',
    'checkpoint_saving',
    'trees',
    'scalar_files',
    'json_files',
    'signals',
    'orbax_noise',
    'checkpoint_format',
  ),
]
# A configuration from a file, a preset and the command line; no mathematics.
CONFIGURATION = ['presets', 'overrides', 'arguments', 'console']
RUNS = [
  'train',
  'loop',
  'resume',
  'patience',
  'arriving',
  'calls',
  'pending',
  'experiment',
  'checks',
  'encode',
  'evals.*',
  'convert.*',
]
LAYERS_0_TO_2 = [*LAYER_0, 'guard', 'networks', 'byol', 'supervised']


def same(names, allowed):
  return dict.fromkeys(names, allowed)


# What each module may import from byol_jax; the first pattern that fits.
MAY_IMPORT = {
  **same(['__init__', '__main__', 'tools.*'], ['*']),
  # Where data meets the runs: what Python callers and the verbs share.
  **same(['api', 'datasets', 'saved'], ['*']),
  **same(LAYER_0, LAYER_0),
  'networks': LAYER_0,
  'byol': [*LAYER_0, 'networks', 'parallel', 'guard'],
  'supervised': [*LAYER_0, 'networks', 'parallel'],
  'guard': ['parallel'],
  **same(
    HOST,
    [
      'errors',
      'packing',
      'roll_call',
      'provenance',
      'background',
      'checkpoint_manifest',
      'checkpoint_places',
      'checkpoint_reading',
      'checkpoint_saving',
      'trees',
      'scalar_files',
      'json_files',
      'orbax_noise',
      'checkpoint_format',
    ],
  ),
  **same(CONFIGURATION, ['errors', *CONFIGURATION]),
  # Facts, for laptops too: no JAX, no configuration.
  'topologies': ['errors'],
  # Without TensorFlow: they resize by the same law as the encoder.
  'data.manifest': ['errors', 'json_files', 'data.*'],
  # One resize for all that is done on the host.
  'data.*': ['errors', 'resize', 'data.*'],
  **same(RUNS, [*LAYERS_0_TO_2, *HOST, *RUNS]),
}
MATHS = {'numpy', 'jax', 'haiku', 'optax', 'chex'}
TENSORFLOW = ['data.preprocess', 'data.pipeline']
# TFDS by itself loads no TensorFlow.
TFDS = [*TENSORFLOW, 'data.sources', 'data.records', 'data.prepare']
# Numbers that are not ImageNet's.
OTHER_MEANINGS = {
  ('data.assemble', 1000): 'a per mille',
  ('tools.data_check', 1000): 'bytes of a kB',
  ('tools.plan_report', 1000): 'milliseconds of a second',
  ('topologies', 224): 'virtual CPUs of a host',
  ('data.shapes', 1000): 'images of its own test split',
  ('data.preprocess', 224): "256 : 224, the ratio of the paper's crop",
  ('resize', 224): "256 : 224, the ratio of the paper's crop",
}
PICKLES = {'pickle', 'dill', 'cloudpickle', 'marshal', 'shelve', 'joblib'}


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
    # A package's own file is empty; another test holds it to that.
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


MODULES = sorted(sources())


@pytest.mark.parametrize('name', MODULES)
def test_imports_point_down(name):
  rule = next((p for p in MAY_IMPORT if fits(name, [p])), None)
  assert rule, f'{name} is not in the table: say which layer it is'
  for imported in own(sources()[name]):
    assert fits(imported, MAY_IMPORT[rule]), f'{name} imports {imported}'


@pytest.mark.parametrize('name', MODULES)
def test_third_party_packages_are_in_their_places(name):
  packages = foreign(sources()[name])
  if name in LAYERS_0_TO_2:
    assert packages <= MATHS | ({'numba'} if name == 'resize' else set())
  if name not in TENSORFLOW:
    assert 'tensorflow' not in packages
  if name not in TFDS:
    assert 'tensorflow_datasets' not in packages
  if name not in ('__main__',) and not name.startswith('tools.'):
    assert 'absl' not in packages, 'flags are read by the entries'
  assert 'configs' not in packages or fits(name, ['__main__', 'tools.*'])


@pytest.mark.parametrize('path', config_files(), ids=lambda p: p.stem)
def test_configs_import_only_configs(path):
  assert foreign(ast.parse(path.read_text())) <= {'ml_collections', 'configs'}
  assert not list(own(ast.parse(path.read_text())))


def test_no_cycles():
  edges = {name: set(own(tree)) for name, tree in sources().items()}
  while edges:
    free = [name for name, below in edges.items() if not below & edges.keys()]
    assert free, f'a cycle among {sorted(edges)}'
    for name in free:
      del edges[name]


@pytest.mark.parametrize('name', sorted(set(MODULES) & set(LAYERS_0_TO_2)))
def test_the_maths_knows_no_host(name):
  tree = sources()[name]
  heads = {imported.partition('.')[0] for imported in imports(tree)}
  forbidden = {'time', 'datetime', 'logging', 'os', 'pathlib', 'sys', 'random'}
  assert not heads & forbidden
  assert not calls(tree, 'print') and not calls(tree, 'open')
  assert not {'process_index', 'process_count', 'device_put'} & attributes(tree)
  for node in ast.walk(tree):
    if isinstance(node, ast.arg):
      assert node.arg != 'config', 'only `build` reads the config'
  for call in calls(tree, 'getattr'):
    assert isinstance(call.args[1], ast.Constant), 'a dict of functions serves'


@pytest.mark.parametrize('name', MODULES)
def test_what_must_never_be(name):
  tree = sources()[name]
  assert name.split('.')[-1] not in ('utils', 'helpers')
  if name != 'parallel':
    assert 'pmap' not in attributes(tree) or all(
      node.value.id == 'parallel'
      for node in ast.walk(tree)
      if isinstance(node, ast.Attribute) and node.attr == 'pmap'
    )
    assert not {'jax.pmap', 'jax.experimental.shard_map'} & set(imports(tree))
  if name != 'convert.deepmind':
    heads = {imported.partition('.')[0] for imported in imports(tree)}
    assert not heads & PICKLES
    assert not calls(tree, 'eval') and not calls(tree, 'exec')
  for node in ast.walk(tree):
    if not isinstance(node, ast.Call):
      continue
    get = isinstance(node.func, ast.Attribute) and node.func.attr == 'get'
    if get and len(node.args) == 2:
      owner = ast.unparse(node.func.value)
      assert 'config' not in owner, 'defaults live in configs/ only'


@pytest.mark.parametrize('name', MODULES)
def test_facts_of_imagenet_are_in_the_catalog_and_configs(name):
  if name == 'data.catalog':
    return
  for node in ast.walk(sources()[name]):
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
      if (name, node.value) in OTHER_MEANINGS:
        continue
      assert node.value not in (224, 1000, 1_281_167), f'line {node.lineno}'


@pytest.mark.parametrize('name', MODULES)
def test_functions_are_short_typed_and_described(name):
  tree = sources()[name]
  assert ast.get_docstring(tree) or not tree.body, 'a module says what it is'
  for node in ast.walk(tree):
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
      assert node.end_lineno - node.lineno < 80, node.name
  for node in tree.body:
    if isinstance(node, ast.FunctionDef) and not node.name.startswith('_'):
      assert ast.get_docstring(node), node.name
      assert node.returns is not None, node.name


@pytest.mark.parametrize('name', MODULES)
def test_files_are_under_250_lines(name):
  path = tiny_run.ROOT / 'byol_jax' / (name.replace('.', '/') + '.py')
  assert len(path.read_text().splitlines()) < 250


def test_packages_do_nothing_when_imported():
  for path in (tiny_run.ROOT / 'byol_jax').rglob('*/__init__.py'):
    tree = ast.parse(path.read_text())
    assert all(isinstance(node, ast.Expr) for node in tree.body), path.name


@pytest.mark.parametrize(
  'statement, absent',
  [
    ('import byol_jax', ('jax', 'tensorflow', 'haiku')),
    ('import byol_jax.train', ('tensorflow', 'tensorflow_datasets')),
    ('import byol_jax.byol', ('tensorflow', 'orbax')),
    ('import configs.pretrain', ('tensorflow', 'jax', 'byol_jax')),
  ],
)
def test_imports_leave_tensorflow_out(statement, absent):
  code = f'{statement}\nimport sys\nprint("found", *sys.modules)'
  output = tiny_run.finish(tiny_run.start_python('-c', code))
  found = output.partition('found ')[2].split()
  assert 'sys' in found and not set(absent) & set(found)

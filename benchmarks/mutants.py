"""Draws one-place edits of the source and runs the tests against each.

  python benchmarks/mutants.py draw LIST --seed=9 --each=25
  python benchmarks/mutants.py run LIST --tree=COPY [--only=ID,ID] [--known]

`draw` picks edits at random; `run` makes each in COPY (a copy of this tree,
which it changes), runs the tests named for its file until one fails, and
writes into LIST whether one did; without an edit these tests must pass. Where
the code has changed since the draw, `now` in LIST holds the line of today, or
why it is gone. A mutant is kept as the text of its line, not as a position as
mutmut and cosmic-ray do: so a list outlives a file that moves. The tests run
in a fork of a process that has imported JAX, TensorFlow and Orbax: 2 s a mutant
instead of 12.
"""

import argparse
import ast
import copy
import json
import os
import pathlib
import random
import signal
import sys
import time

SWAPS = {
  ast.Add: ast.Sub,
  ast.Sub: ast.Add,
  ast.Mult: ast.Div,
  ast.Div: ast.Mult,
  ast.FloorDiv: ast.Mult,
  ast.Mod: ast.Mult,
  ast.BitXor: ast.BitOr,
  ast.BitAnd: ast.BitOr,
  ast.BitOr: ast.BitAnd,
  ast.RShift: ast.LShift,
  ast.Eq: ast.NotEq,
  ast.NotEq: ast.Eq,
  ast.Lt: ast.LtE,
  ast.LtE: ast.Lt,
  ast.Gt: ast.GtE,
  ast.GtE: ast.Gt,
  ast.Is: ast.IsNot,
  ast.IsNot: ast.Is,
  ast.In: ast.NotIn,
  ast.NotIn: ast.In,
  ast.And: ast.Or,
  ast.Or: ast.And,
  ast.USub: ast.UAdd,
}
TIMEOUT = 400  # seconds for the tests of one mutant


def edits(node: ast.AST):
  """Copies of an expression, each with one operator or constant changed."""
  new = copy.deepcopy(node)
  if isinstance(node, ast.BinOp | ast.BoolOp | ast.UnaryOp):
    if isinstance(node.op, ast.Not):
      yield new.operand
    elif type(node.op) in SWAPS and not isinstance(
      getattr(node, 'left', None), ast.JoinedStr
    ):
      new.op = SWAPS[type(node.op)]()
      yield new
  elif isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
    new.ops[0] = SWAPS[type(node.ops[0])]()
    yield new
  elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
    new.value = not node.value
    yield new
  elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
    new.value = node.value + 1
    yield new
  elif isinstance(node, ast.IfExp):
    new.body, new.orelse = new.orelse, new.body
    yield new


def mutants_of(path: pathlib.Path):
  """(line number, old line, new line) of each edit that fits on one line."""
  text = path.read_text()
  lines = text.splitlines()
  skipped = set()
  for node in ast.walk(ast.parse(text)):
    # Text for people: annotations, docstrings, messages.
    if isinstance(node, ast.JoinedStr):
      skipped |= {id(x) for x in ast.walk(node)}
    if isinstance(node, ast.FunctionDef):
      for annotation in [node.returns, *(a.annotation for a in node.args.args)]:
        if annotation is not None:
          skipped |= {id(x) for x in ast.walk(annotation)}
  for node in ast.walk(ast.parse(text)):
    if not isinstance(node, ast.expr) or id(node) in skipped:
      continue
    if node.lineno != node.end_lineno:
      continue
    line = lines[node.lineno - 1]
    start = len(line.encode()[: node.col_offset].decode())
    stop = len(line.encode()[: node.end_col_offset].decode())
    for edit in edits(node):
      new = f'{line[:start]}{ast.unparse(edit)}{line[stop:]}'
      if ast.unparse(edit) != line[start:stop]:
        yield node.lineno, line, new


def draw(arguments: argparse.Namespace) -> None:
  """Writes LIST: the same number of mutants from each area."""
  content = json.loads(arguments.list.read_text())
  rng = random.Random(arguments.seed)
  found = []
  for area, files in content['areas'].items():
    all_of_area = [
      (file, *mutant)
      for file in sorted(files)
      for mutant in mutants_of(pathlib.Path(file))
    ]
    for file, number, old, new in rng.sample(all_of_area, arguments.each):
      found.append(
        {
          'id': len(found),
          'area': area,
          'file': file,
          'line': number,
          'old': old,
          'new': new,
        }
      )
    print(f'{area}: {arguments.each} of {len(all_of_area)}')
  content |= {'seed': arguments.seed, 'mutants': found}
  arguments.list.write_text(json.dumps(content, indent=1) + '\n')


def run_tests(tree: pathlib.Path, files: list[str]) -> str:
  """'killed', 'survived' or 'timeout', in a fork of this process."""
  child = os.fork()
  if not child:
    os.setsid()
    os.chdir(tree)
    output = os.open('mutant.log', os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.path.insert(0, str(tree))
    import pytest

    os._exit(pytest.main(['-x', '-q', '-p', 'no:cacheprovider', *files]))
  deadline = time.monotonic() + TIMEOUT
  while time.monotonic() < deadline:
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
      code = os.waitstatus_to_exitcode(status)
      return 'survived' if code == 0 else 'killed'
    time.sleep(0.2)
  os.killpg(child, signal.SIGKILL)
  os.waitpid(child, 0)
  return 'timeout'


def run(arguments: argparse.Namespace) -> None:
  """Makes each mutant in the copy and runs the tests of its file."""
  tree = arguments.tree.resolve()
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
  os.environ['PYTHONDONTWRITEBYTECODE'] = '1'
  import chex  # noqa: F401
  import haiku  # noqa: F401
  import jax  # noqa: F401
  import optax  # noqa: F401
  import orbax.checkpoint  # noqa: F401
  import tensorflow  # noqa: F401
  import tensorflow_datasets  # noqa: F401

  content = json.loads(arguments.list.read_text())
  wanted = {int(x) for x in arguments.only.split(',') if x}
  passing = set()  # files whose tests pass without an edit
  for mutant in content['mutants']:
    if wanted and mutant['id'] not in wanted:
      continue
    now = mutant.get('now', mutant)
    if 'gone' in now or (arguments.known and mutant['before'] == 'survived'):
      continue
    path = tree / now['file']
    text = path.read_text()
    lines = text.splitlines()
    places = [i for i, x in enumerate(lines) if x.strip() == now['old'].strip()]
    if not places:
      print(f'{mutant["id"]}: {now["file"]}: no line {now["old"].strip()!r}')
      continue
    near = now.get('line', 1) - 1
    place = min(places, key=lambda i: abs(i - near))
    indent = lines[place][: -len(lines[place].lstrip())]
    lines[place] = indent + now['new'].strip()
    tests = content['tests'][now['file']]
    if now['file'] not in passing and run_tests(tree, tests) != 'survived':
      log = (tree / 'mutant.log').read_text()
      sys.exit(f'{tests} do not pass without an edit:\n{log[-2000:]}')
    passing.add(now['file'])
    began = time.monotonic()
    path.write_text('\n'.join(lines) + '\n')
    try:
      found = run_tests(tree, tests)
    finally:
      path.write_text(text)
    mutant[arguments.column] = found
    seconds = time.monotonic() - began
    print(f'{mutant["id"]} {found} {seconds:.0f} s: {now["new"]}', flush=True)
    arguments.list.write_text(json.dumps(content, indent=1) + '\n')
  results = [m.get(arguments.column) for m in content['mutants']]
  for result in sorted({r for r in results if r}):
    print(f'{result}: {results.count(result)}')


def main() -> None:
  """Reads the command line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('verb', choices=['draw', 'run'])
  parser.add_argument('list', type=pathlib.Path)
  parser.add_argument('--seed', type=int, default=9)
  parser.add_argument('--each', type=int, default=25)
  parser.add_argument('--tree', type=pathlib.Path)
  parser.add_argument('--only', default='')
  parser.add_argument('--column', default='before')
  parser.add_argument('--known', action='store_true')
  arguments = parser.parse_args()
  {'draw': draw, 'run': run}[arguments.verb](arguments)


if __name__ == '__main__':
  main()

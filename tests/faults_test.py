"""Every kind of fault has a test; `docs/operations.md` lists the same."""

import ast
import json
import re

import pytest
import tiny_run

TESTS = tiny_run.ROOT / 'tests'
ROWS = json.loads((TESTS / 'faults.json').read_text())


def functions(path):
  """The names of the tests in a file that assert something."""
  tree = ast.parse(path.read_text())
  return {
    node.name
    for node in ast.walk(tree)
    if isinstance(node, ast.FunctionDef) and node.name.startswith('test_')
  }


def test_there_are_twenty_kinds_of_faults():
  assert [number for number, *_ in ROWS] == list(range(1, 21))


@pytest.mark.parametrize(
  'number, fault, tests', ROWS, ids=lambda x: str(x)[:30]
)
def test_each_kind_of_fault_has_tests_that_exist(number, fault, tests):
  assert tests, f'fault {number}: {fault}'
  for test in tests:
    name, _, function = test.partition('::')
    assert function in functions(TESTS / name), test


def test_the_operator_s_table_is_this_one():
  text = (tiny_run.ROOT / 'docs' / 'operations.md').read_text()
  found = re.findall(r'^\| (\d+) \| ([^|]+) \| (`[^|]+) \|$', text, re.M)
  assert len(found) == len(ROWS)
  for (number, fault, files), row in zip(found, ROWS, strict=True):
    assert [int(number), fault] == row[:2]
    expected = sorted({f'`{test.partition("::")[0]}`' for test in row[2]})
    assert files.split(', ') == expected

"""Structure of the code: imports without cycles, unique module names, and packages without command-line names."""

import ast
import fnmatch
import graphlib
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import train
from evaluation.evaluation_options import GENERATORS as GENERATOR_NAMES
from evaluation.generators import GENERATORS
from tests.helpers import ROOT, TINY, invoke, run_script

# Packages that each package may import.
BELOW = {
    'dnnlib': set(),
    'cli': {'dnnlib'},
    'torch_utils': {'dnnlib'},
    'dataset_utils': {'dnnlib', 'cli'},
    'training': {'dnnlib', 'torch_utils', 'dataset_utils'},
    'evaluation': {'dnnlib', 'torch_utils', 'dataset_utils', 'training'},
    'studies': {'dnnlib', 'torch_utils', 'dataset_utils', 'training', 'evaluation', 'cli'},
}
# A command-line option, except after a script name as in 'dataset_tool.py --resolution'.
OPTION = re.compile(r'(?<!\.py )(?<![\w-])--[a-z]')
SCRIPTS = {path.stem: path for path in ROOT.glob('*.py')}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


MODULES = {module_name(path): path for package in BELOW for path in (ROOT / package).rglob('*.py')}
BENCHMARKS = {module_name(path): path for path in (ROOT / 'benchmarks').rglob('*.py')}
EVERYTHING = MODULES | SCRIPTS | BENCHMARKS
TREES = {name: ast.parse(path.read_text(encoding='utf-8')) for name, path in EVERYTHING.items()}


def imports_of(name: str, nodes) -> set[str]:
    """The project's modules that these syntax-tree nodes import."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{name}: a relative import'
            found |= {f'{node.module}.{alias.name}' for alias in node.names} | {node.module}
    return {module for module in found if module in EVERYTHING}


def nodes_that_run(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes of a syntax tree, including those in functions, except under `if TYPE_CHECKING`."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == 'TYPE_CHECKING'):
            yield from nodes_that_run(child)


def test_there_are_no_import_cycles():
    graph = {}
    for name, tree in TREES.items():
        modules = imports_of(name, nodes_that_run(tree))
        # `from training import runs` counts as an import of training.runs, not of training.
        graph[name] = {m for m in modules if not any(other.startswith(f'{m}.') for other in modules)} - {name}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError if there is a cycle


@pytest.mark.parametrize('package', BELOW)
def test_packages_import_only_the_packages_below_them(package):
    for name, tree in TREES.items():
        if name.split('.')[0] == package and name in MODULES:
            rooms = {module.split('.')[0] for module in imports_of(name, ast.walk(tree))}
            own_command = {'cli'} if name.endswith('.__main__') else set()
            assert rooms <= BELOW[package] | {package} | own_command, name


def test_no_module_imports_a_script():
    for name, tree in TREES.items():
        assert not imports_of(name, ast.walk(tree)) & SCRIPTS.keys(), name


def test_no_two_modules_share_a_name():
    stems = Counter(path.stem for path in EVERYTHING.values() if path.stem not in ('__init__', '__main__'))
    assert [stem for stem, count in stems.items() if count > 1] == []


def test_no_module_is_named_like_a_test():
    for path in EVERYTHING.values():
        assert not any(fnmatch.fnmatch(path.name, pattern) for pattern in ('test_*.py', '*_test.py')), path


# Modules that write or read command lines.
COMMAND_LINES = {'studies.commands', 'studies.search', 'dataset_utils.command_line'}


def test_error_messages_of_packages_name_arguments_instead_of_options():
    found = []
    for name in MODULES.keys() - COMMAND_LINES:
        for node in ast.walk(TREES[name]):
            if isinstance(node, ast.Raise):
                texts = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
                found += [f'{name}:{node.lineno}: {text}' for text in texts if OPTION.search(text)]
    assert found == []


def test_the_list_of_generator_names_is_complete():
    assert set(GENERATOR_NAMES) == GENERATORS.keys()


HEAVY = ('torch', 'sklearn', 'scipy.stats', 'matplotlib')
COMMANDS = [
    *([script, '--help'] for script in sorted(SCRIPTS)),
    ['dataset_utils.command_line', '--help'],
    ['emm', 'search', '--help'],
    ['emm', 'status', 'STUDY'],
    ['emm', 'table', 'STUDY'],
]


@pytest.fixture
def study_folder(tmp_path):
    """Folder of a study with one finished point and one that was never started."""
    from dnnlib.util import write_json
    from evaluation.records import Numbers
    from studies.folder import claim
    from studies.points import DONE, Status, make_point, write_status
    from studies.study_file import read_study

    document = {
        'data': {'selection': 'size', 'source': 'digits'},
        'train': {'preset': 'digits'},
        'sizes': {'values': [10, 20]},
    }
    study = read_study(document, 'small', 'small.toml')
    claim(tmp_path / 'study', study)
    point = make_point(study, tmp_path / 'study', study.combinations[0], 10, 0)
    point.prepare()
    write_json(point.folder / 'result.json', dict.fromkeys(Numbers.__struct_fields__, 1))
    write_status(point.folder, Status(DONE))
    return tmp_path / 'study'


@pytest.mark.parametrize('words', COMMANDS, ids=' '.join)
def test_commands_that_compute_nothing_do_not_import_heavy_modules(words, study_folder):
    module, *arguments = [str(study_folder) if word == 'STUDY' else word for word in words]
    code = (
        f'import sys, {module} as script\n'
        f'script.main({arguments}, standalone_mode=False)\n'
        f'print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)'
    )
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == '[]'


def test_measuring_imports_neither_the_compiler_nor_scikit_learn(digits_20, tmp_path):
    """Importing torch's compiler takes as long as importing torch."""
    run, name = tmp_path / 'run', f'--outdir={tmp_path}/o'
    invoke(train.main, f'--outdir={run}', '--nosubdir', f'--data={digits_20}', *TINY, '--epochs=2')
    commands = {
        'mem_ratio': [f'--expdir={run}', f'--knn-ref={digits_20}', '--seeds=0-1'],
        'generate': [f'--network={run}', '--seeds=0-1', name],
        'generate_optim': [f'--data={digits_20}', '--seeds=0-1', name + 'ptimum'],
        'diagnose': ['levels', f'--expdir={run}', '--num=2', '--levels=1.0'],
    }
    code = ''.join(
        f'import {module}\n{module}.main({words}, standalone_mode=False)\n' for module, words in commands.items()
    )
    names = ['torch._dynamo', 'sklearn', 'scipy.stats']
    code += f'import sys\nprint([name for name in {names} if name in sys.modules], file=sys.stderr)'
    done = run_script('-c', code)
    assert done.stderr.splitlines()[-1] == '[]'

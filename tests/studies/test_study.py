"""The meaning of study files, and the error messages for invalid ones."""

import copy
import datetime
import json
import math
from pathlib import Path

import numpy as np
import pytest

from dnnlib.util import UserError
from evaluation.effective_memorization import Ratios
from evaluation.records import Numbers
from studies.commands import point_commands
from studies.points import DONE, Status, make_point
from studies.report.tables import emm_rows, ratio_rows
from studies.results import Outcome, PointResult, StudyResults
from studies.study import COLUMNS, Settings, Sizes
from studies.study_file import load_study, read_study
from studies.validation import Validator

BASE: dict[str, dict] = {
    'data': {'selection': 'size', 'source': 'digits'},
    'train': {'preset': 'digits', 'epochs': 2},
    'evaluate': {'seeds': '0-15', 'batch': 16},
    'sizes': {'values': [20, 10]},
}
DENOISERS = {'values': {'network': {}, 'optimum': {'evaluate': {'denoiser': 'optimal'}}}}
WIDTH = {'label': 'Channels', 'option': 'train.num-channels', 'values': [8, 16]}


def changed(**tables):
    """The base document, with some keys of its tables changed and further tables added. Tables given as None are
    removed."""
    document = copy.deepcopy(BASE)
    for name, table in tables.items():
        if table is None:
            del document[name]
        else:
            document[name] = document.get(name, {}) | table if isinstance(table, dict) else table
    return document


def read(**tables):
    return read_study(changed(**tables), 'test', 'test.toml')


def validated(**tables):
    study = read(**tables)
    validator = Validator()
    validator.check_options(study)
    return validator.with_steps(study, Path('nowhere'))


def test_a_point_consists_of_three_readable_commands():
    point = make_point(read(), Path('out'), read().combinations[0], 20, 0)
    folder = Path('out/points/all/000020-r0')
    assert point.folder == folder
    assert point.commands() == {
        'data': ['-m', 'dataset_utils', 'size', '--source=digits', f'--dest={folder}/data.zip', '--max-images=20'],
        'train': [
            *('train.py', f'--outdir={folder}/run', '--nosubdir', f'--data={folder}/data.zip', '--seed=1024'),
            *('--preset=digits', '--epochs=2'),
        ],
        'evaluate': [
            *('mem_ratio.py', f'--expdir={folder}/run', f'--knn-ref={folder}/data.zip', '--seeds=0-15', '--batch=16')
        ],
    }


def test_factors_are_combined_and_change_only_their_own_options():
    labels = {'values': {'none': {}, 'true': {'train': {'cond': True}}}}
    study = read(factors={'width': WIDTH, 'labels': labels})
    assert [combination.values for combination in study.combinations] == [
        {'width': '8', 'labels': 'none'},
        {'width': '8', 'labels': 'true'},
        {'width': '16', 'labels': 'none'},
        {'width': '16', 'labels': 'true'},
    ]
    assert study.combinations[3].settings.train == {'preset': 'digits', 'epochs': 2, 'num-channels': 16, 'cond': True}
    assert study.combinations[3].name == 'Channels 16, labels true'


def test_measurements_run_after_the_evaluation_and_leave_the_training_command_unchanged():
    plain, measured = read(), read(diagnose={'levels': {'num': 20}, 'clocks': {'test': 'held-out.zip'}})
    points = [make_point(study, Path('out'), study.combinations[0], 20, 0) for study in (plain, measured)]
    assert points[0].identity == points[1].identity
    commands = points[1].commands()
    assert list(commands) == ['data', 'train', 'evaluate', 'levels', 'clocks']
    run = '--expdir=out/points/all/000020-r0/run'
    assert commands['levels'] == ['diagnose.py', 'levels', run, '--num=20']
    assert commands['clocks'] == ['diagnose.py', 'clocks', run, '--test=held-out.zip']


SPLIT = {'halves': {'selection': 'split', 'source': 'digits', 'max-images': 800}}


def test_a_closed_form_is_evaluated_without_training():
    network, optimum = read(factors={'denoiser': DENOISERS}).combinations
    assert list(make_point(read(), Path('out'), network, 20, 0).commands()) == ['data', 'train', 'evaluate']
    point = make_point(read(), Path('out'), optimum, 20, 0)
    folder = Path('out/points/denoiser=optimum/000020-r0')
    assert list(point.commands()) == ['data', 'evaluate']
    assert point.commands()['evaluate'] == [
        'mem_ratio.py',
        f'--data={folder}/data.zip',
        f'--log={folder}/run/mem_traj.log',
        f'--knn-ref={folder}/data.zip',
        '--seeds=0-15',
        '--batch=16',
        '--denoiser=optimal',
    ]
    changes = {'train': {'epochs': 3}, 'repeats': {'train-seed': 5}}
    edited = [
        make_point(study, Path('out'), study.combinations[place], 20, 0).identity
        for study in [read(factors={'denoiser': DENOISERS}, **changes)]
        for place in (0, 1)
    ]
    assert edited[0] != make_point(read(), Path('out'), network, 20, 0).identity
    assert edited[1] == point.identity  # a closed form does not depend on [train]


def test_agreement_trains_a_second_network_on_the_other_half_of_a_split():
    data, options = {'source': 'sources.halves-a'}, {'seeds': '0-9', 'test': 'sources.halves-b'}
    study = read(data=data, sources=SPLIT, diagnose={'agreement': options})
    Validator().check_options(study)
    point = make_point(study, Path('out'), study.combinations[0], 20, 0)
    commands, folder = point.commands(), 'out/points/all/000020-r0'
    assert list(commands) == ['data', 'train', 'evaluate', 'data-b', 'train-b', 'agreement']
    assert '--source=out/sources/halves-a.zip' in commands['data']
    swapped = [word.replace('halves-a', 'halves-b').replace('data.zip', 'data-b.zip') for word in commands['data']]
    assert commands['data-b'] == swapped
    trained = [word.replace('/run', '/run-b').replace('data.zip', 'data-b.zip') for word in commands['train']]
    assert commands['train-b'] == trained
    assert commands['agreement'] == [
        *('diagnose.py', 'agreement', f'--expdir={folder}/run', f'--expdir={folder}/run-b', '--seeds=0-9'),
        '--test=out/sources/halves-b.zip',
    ]
    other = read(data=data, sources={'halves': SPLIT['halves'] | {'seed': 1}}, diagnose={'agreement': options})
    changed = make_point(other, Path('out'), other.combinations[0], 20, 0)
    assert changed.identity != point.identity
    assert changed.diagnose != point.diagnose  # the held-out set has changed and must be measured again


def test_switches_in_a_study_file_are_booleans():
    options = {'test': 'held-out.zip', 'allow-overlap': True, 'no-labels': False}
    study = read(
        data={'selection': 'imagenet-class', 'skip-unreadable': True},
        train={'allow-overlap': True, 'xflip': False},
        evaluate={'save-images': True, 'subdirs': False},
        diagnose={'levels': options},
    )
    commands = make_point(study, Path('out'), study.combinations[0], 20, 0).commands()
    assert '--skip-unreadable' in commands['data']
    assert commands['train'][-2:] == ['--allow-overlap', '--xflip=False']
    assert commands['evaluate'][-1] == '--save-images'
    assert commands['levels'][3:] == ['--test=held-out.zip', '--allow-overlap']
    Validator().check_options(read(evaluate={'save-images': True}, diagnose={'levels': options}))


def test_a_factor_value_can_have_its_own_sizes():
    study = read(factors={'x': {'values': {'a': {}, 'b': {'sizes': {'search': [10, 100]}}}}})
    assert study.combinations[0].sizes == Sizes(values=(10, 20))
    assert study.combinations[1].sizes.search == (10, 100)


def test_each_repeat_has_its_own_seeds():
    study = read(repeats={'count': 2, 'train-seed': 5, 'select-seed': 7})
    commands = make_point(study, Path('out'), study.combinations[0], 20, 1).commands()
    assert '--seed=8' in commands['data']
    assert '--seed=6' in commands['train']


@pytest.mark.parametrize('size', [7, 30, 50, 400, 1797])
def test_lengths_given_in_images_are_equal_at_every_size(size):
    train = {'epochs': {'images': 51_200}, 'warmup': {'images': 5000}, 'ema': {'images': 4000}}
    seeds = {'train': 0, 'select': None}
    command = point_commands(Settings(BASE['data'], train, {}), size, seeds, Path('o/x'), Path('o/sources'), {}, {})[
        'train'
    ]
    options = dict(word.removeprefix('--').split('=') for word in command if '=' in word)
    assert 51_200 <= int(options['epochs']) * size < 51_200 + size
    # train.py converts both lengths to kimg, |D| * warmup / 1000 and 1000 * ema * |D| / 50000, and rounds them down.
    assert size * int(options['warmup']) // 1000 == 5
    assert int(1000 * float(options['ema']) * size / 50_000) == 4


def test_lists_and_booleans_are_written_in_the_format_of_train_py():
    factors = {'skips': {'option': 'train.skip-connections', 'values': [[1, 0, 1, 1, 1, 1]]}}
    study = read(train={'cond': True}, factors=factors)
    point = make_point(study, Path('o'), study.combinations[0], 20, 0)
    assert '--skip-connections=1,0,1,1,1,1' in point.commands()['train']
    assert '--cond=True' in point.commands()['train']


def test_a_search_over_a_balanced_selection_uses_multiples_of_the_classes():
    document = changed(sizes=None) | {'sizes': {'search': [15, 105]}}
    study = read_study(document, 'test', 'test.toml')
    validator = Validator()
    validator.check_options(study)
    sizes = validator.with_steps(study, Path('nowhere')).combinations[0].sizes
    assert (sizes.search, sizes.step) == ((20, 100), 10)


def test_an_invalid_search_step_is_refused_before_anything_runs():
    document = changed(sizes=None) | {'sizes': {'search': [10, 100], 'step': 5}}
    study = read_study(document, 'test', 'test.toml')
    with pytest.raises(UserError, match=r'all, 15 images: .*multiple'):
        Validator().with_steps(study, Path('nowhere'))


def test_a_factor_value_in_images_is_named_after_the_number_of_images():
    study = read(factors={'length': {'option': 'train.epochs', 'values': [{'images': 500}, 20]}})
    assert [combination.values['length'] for combination in study.combinations] == ['500 images', '20']


def test_every_table_column_is_reserved_as_a_factor_name(tmp_path):
    study = read()
    record = dict.fromkeys(Numbers.__struct_fields__, 1)
    point = PointResult(make_point(study, tmp_path, study.combinations[0], 10, 0), Status(DONE), record)
    value = Outcome(study.combinations[0], [point], [Ratios(10, (1,), (1,))], None, None, [])
    results = StudyResults(study, tmp_path, [value], [])
    measured = {'repeat', 'kimg', 'source', 'sigma', 'pairs'}  # columns of levels.csv, agreement.csv and clocks.csv
    assert {*ratio_rows(results)[0], *emm_rows(results)[0]} | measured == COLUMNS


def point_with_source(class_name):
    """A point whose training set is selected from one of the study's own data sets, the digits of one class."""
    sources = {'own': {'selection': 'one-class', 'source': 'digits', 'class-name': class_name}}
    study = read(data={'source': 'sources.own'}, sources=sources)
    return make_point(study, Path('out'), study.combinations[0], 10, 0)


def test_a_training_set_is_selected_from_a_source_of_the_study():
    assert '--source=out/sources/own.zip' in point_with_source('0').commands()['data']


def test_the_identity_of_a_point_contains_the_sources_of_its_study():
    point = point_with_source('0')
    assert point.identity['sources']['own']['class-name'] == '0'
    assert point.identity != point_with_source('1').identity


@pytest.mark.parametrize(
    ('tables', 'message'),
    [
        ({'sises': {}}, r'the file has an unknown key, sises; did you mean sizes'),
        ({'train': {'outdir': 'x'}}, r'outdir in \[train\] is set by the study itself'),
        ({'train': {'lr': {'images': 5}}}, r'lr in \[train\] cannot be given in images; .* can: epochs, duration'),
        (
            {'train': {'epochs': {'images': 0}}},
            r'train.epochs.images must be .* at least 1, not 0',
        ),
        ({'train': {'lr': [0.5]}}, r'train.lr\[0\] must be a whole number, not 0.5'),
        ({'sizes': {'search': [10, 20]}}, r'sizes: requires either values'),
        ({'sizes': {'values': []}}, r'sizes: requires either values'),
        ({'sizes': {'values': [0]}}, r'at least 1'),
        ({'sizes': {'values': 'all'}}, r"sizes.values must be a list, not 'all'"),
        ({'repeats': {'count': 0}}, r'repeats.count must be a whole number of at least 1, not 0'),
        ({'repeats': {'counts': 3}}, r'repeats has an unknown key, counts'),
        ({'factors': {'x': {}}}, r'factors.x: requires values'),
        ({'factors': {'x': {'values': [1]}}}, r'factors.x: requires values: either option and a list'),
        ({'factors': {'x': {'option': 'lr', 'values': [1]}}}, r"option = 'lr' in \[factors.x\] must name an option of"),
        ({'factors': {'x': {'values': {'a': {'trane': {}}}}}}, r'factors.x.values.a has an unknown key, trane'),
        ({'factors': {'x': WIDTH, 'y': WIDTH}}, r'\[factors.x\] and \[factors.y\] both set num-channels of \[train\]'),
        ({'factors': {'x': WIDTH | {'values': [8, 8]}}}, r'contains a value twice'),
        (
            {'data': {'source': 'sources.dogs'}},
            r"source = 'sources.dogs' in \[data\] is not made by any table of \[sources\]",
        ),
        ({'threshold': 2.0}, r'threshold must be a number below 1.0, not 2.0'),
        ({'title': 5}, r'title must be a string, not 5'),
        ({'train': 5}, r'train must be a table, not 5'),
        ({'name': '../x'}, r"name is '../x'; use letters"),
        ({'name': '/x'}, r'name is'),
        ({'name': ''}, r'name is'),
        ({'title': 'a\x1b[31m'}, r'title contains a control character'),
        ({'data': {'source': 'a\x00b'}}, r'data.source contains a control character'),
        ({'train': {'batch': 10**400}}, r'train.batch must be .* not 1000\S*…'),
        ({'train': {'skip-connections': [1, 10**400]}}, r'train.skip-connections\[1\] must be .* not 1000\S*…'),
        ({'train': {'lr': math.inf}}, r'lr = inf in \[train\] must be'),
        (
            {'train': {'preset': datetime.date(1979, 5, 27)}},
            r'train.preset must be .* not datetime.date\(1979, 5, 27\)',
        ),
        ({'sizes': {'values': [10**400]}}, r'sizes.values\[0\] must be a whole number of at most 1000000000'),
        ({'sizes': {'values': [10**5000]}}, r'sizes.values\[0\] must be .* not a number with thousands of digits'),
        ({'repeats': {'count': 10**6}}, r'repeats.count must be .* at most 1000, not 1000000'),
        ({'factors': {'size': WIDTH}}, r'\[factors.size\]: every table already has a column size'),
        ({'factors': {'': WIDTH}}, r"factors.'' is not a name"),
        ({'factors': {'x': {'values': {' ': {}}}}}, r"factors.x.values.' ' is not a name"),
        ({'sources': {'../x': {}}}, r"the name of \[sources.../x\] is '../x'"),
        (
            {'sources': {'x': {'source': 'sources.y'}}},
            r"'sources.y' in \[sources.x\]: a source cannot be made from",
        ),
        (
            {'diagnose': {'agreement': {}}},
            r'\[diagnose.agreement\] trains a second network on the other half of a split',
        ),
        (
            {'diagnose': {'levels': {'test': 'sources.y'}}, 'sources': {'x': {'selection': 'split'}}},
            r"sources.y' in \[diagnose.levels\] is not made by any table of \[sources\]; available: sources.x-a",
        ),
        ({'diagnose': {'clocks': {'num': 5}}}, r'diagnose: clocks requires test \(the held-out set\)'),
        ({'diagnose': {'levels': {'expdir': 'x'}}}, r'expdir in \[diagnose.levels\] is set by the study itself'),
        ({'evaluate': {'data': 'x.zip'}}, r'data in \[evaluate\] is set by the study itself'),
        (
            {'factors': {'x': DENOISERS}, 'diagnose': {'clocks': {'test': 'digits'}}},
            r"measures a training run, but the closed form denoiser = 'optimal' in \[evaluate\] has none",
        ),
        (
            {'evaluate': {'denoiser': 'local'}, 'repeats': {'count': 2}},
            r"denoiser = 'local' in \[evaluate\] gives the same images in every repeat; set select-seed in \[repeats\]",
        ),
    ],
)
def test_errors_in_a_study_file_name_the_table_and_the_key(tables, message):
    with pytest.raises(UserError, match=r'^test\.toml: ') as error:
        read(**tables)
    assert error.match(message)


@pytest.mark.parametrize(
    ('tables', 'message'),
    [
        (
            {'train': {'num-chanels': 8}},
            r"test.toml: \[train\]: No such option '--num-chanels'.*'--num-channels'",
        ),
        ({'evaluate': {'sedes': '0-3'}}, r"test.toml: \[evaluate\]: No such option '--sedes'.*'--seeds'"),
        ({'data': {'num-classes': 2}}, r"test.toml: \[data\]: No such option '--num-classes'"),
        (
            {'data': {'selection': 'sice'}},
            r"test.toml: \[data\]: unknown selection = 'sice'; choose one of classes",
        ),
        ({'train': {'arch': 'unet'}}, r"arch.*'unet' is not one of"),
        ({'train': {'lr': -1}}, r'lr'),
        (
            {'factors': {'x': {'values': {'a': {'train': {'widht': 3}}}}}},
            r"test.toml: x a: \[train\]: No such option '--widht'",
        ),
        ({'factors': {'x': {'values': {'a b': {}, 'a-b': {}}}}}, r'x a b and x a-b would share a folder'),
        ({'sizes': {'values': [15]}}, r'all, 15 images: .*multiple'),
        ({'sizes': {'values': [5000]}}, r'all, 5000 images: max-images requires 500 images of class 0, which has 178'),
        ({'data': {'source': 'nothing.zip'}}, r'^test.toml: \[data\]: source=nothing.zip: no such file'),
        (
            {'diagnose': {'levels': {'nun': 5}}},
            r'\[diagnose.levels\]: No such option .*--nun',
        ),
        ({'diagnose': {'levels': {'levels': 1}}}, r'\[diagnose.levels\]: .*1 levels are too few'),
        (
            {'diagnose': {'clocks': {'test': 'nothing.zip'}}},
            r'test.toml: \[diagnose.clocks\]: test=nothing.zip: no such',
        ),
        (
            {'evaluate': {'metrics': 'nope'}},
            r"test.toml: \[evaluate\]: metrics: unknown metric 'nope'; choose from ratio",
        ),
        (
            {'evaluate': {'metrics': 'test_gap'}},
            r'test.toml: \[evaluate\]: metrics=test_gap requires a held-out set; give',
        ),
        ({'evaluate': {'resize': 'box'}}, r'test.toml: \[evaluate\]: resize has no effect with expdir'),
        (
            {'evaluate': {'metrics': 'test_gap', 'test-ref': 'none.zip'}},
            r'test.toml: \[evaluate\]: test-ref=none.zip: no such',
        ),
        (
            {'factors': {'x': {'option': 'evaluate.denoiser', 'values': ['optimal', 'optimum']}}},
            r'test.toml: x optimum: \[evaluate\]: denoiser=optimum: no such closed form; choose one of optimal',
        ),
        (
            {'evaluate': {'denoiser': 'local:k=5'}},
            r'\[evaluate\]: `k`: the local denoiser does not have this parameter',
        ),
        ({'evaluate': {'denoiser': 'local:window=a.json'}}, r'window=a.json: the file a.json does not exist'),
        ({'evaluate': {'denoiser': ''}}, r'\[evaluate\]: give exactly one of expdir'),
        ({'evaluate': {'denoiser': 'local', 'race': True}}, r'\[evaluate\]: race has no effect with denoiser'),
        ({'evaluate': {'class': 1}}, r'all, 10 images: class = 1 in \[evaluate\] requires cond = true in \[train\]'),
        (
            {'evaluate': {'class': 10}, 'train': {'cond': True}},
            r'all, 10 images: class = 10 in \[evaluate\]: no training image has this class',
        ),
    ],
)
def test_options_and_sizes_are_checked_before_anything_runs(tables, message):
    with pytest.raises(UserError, match=message):
        validated(**tables)


@pytest.mark.parametrize(
    ('tables', 'shape', 'is_refused'),
    [
        ({'evaluate': {'metrics': 'test_gap', 'test-ref': 'SET'}}, (5, 16, 16, 1), True),
        ({'evaluate': {'metrics': 'test_gap', 'test-ref': 'SET'}}, (5, 8, 8, 3), False),  # colour images become grey
        ({'train': {'test-data': 'SET'}}, (5, 8, 8, 3), True),
        ({'train': {'test-data': 'SET'}}, (5, 8, 8, 1), False),
        ({'diagnose': {'clocks': {'test': 'SET'}}}, (5, 8, 8, 3), True),
        ({'diagnose': {'levels': {'test': 'SET'}}}, (5, 4, 4, 1), True),
    ],
)
def test_held_out_images_of_another_shape_are_refused_before_anything_runs(tables, shape, is_refused, tmp_path):
    path = str(tmp_path / 'held-out.npy')
    np.save(path, np.zeros(shape, np.uint8))
    tables = json.loads(json.dumps(tables).replace('SET', path))
    if not is_refused:
        validated(**tables)
        return
    with pytest.raises(
        UserError, match=r'all, 10 images: the held-out images in .*held-out\.npy.* but training images are 8x8 grey'
    ):
        validated(**tables)


def test_the_evaluation_may_be_restricted_to_one_class():
    validated(train={'cond': True}, evaluate={'class': 9, 'metrics': 'all'})


@pytest.mark.parametrize('text', ['[data', 'x = ' + '9' * 5000, 'x = ' + '[' * 50_000, '\ud800'])
def test_a_file_that_is_not_toml_is_named_in_the_error(tmp_path, text):
    (tmp_path / 'x.toml').write_bytes(text.encode(errors='surrogatepass'))
    with pytest.raises(UserError, match=r'x\.toml is not a TOML file'):
        load_study(tmp_path / 'x.toml')
    with pytest.raises(UserError, match='no such file'):
        load_study(tmp_path / 'y.toml')

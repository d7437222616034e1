"""Runs the commands of diagnose.py, from options to records, JSON, CSV and printed tables.

Each command's function returns the records (on every rank) and the path of the result files without extension.
"""

import functools
import inspect
from pathlib import Path

import numpy as np
import torch

from dnnlib.util import UserError, file_sha256, write_json
from evaluation.diagnosis import agreement_table, calibration, clocks_table, geometry_table, levels
from evaluation.diagnosis.image_sets import ImageSets, load_sets, noise_levels
from evaluation.diagnosis.result_files import Row, measure_missing, text_table, write_csv
from evaluation.diagnosis_options import (
    SOURCES,
    AgreementOptions,
    CalibrateOptions,
    ClocksOptions,
    DenoisingOptions,
    GeometryOptions,
    LevelsOptions,
    OutputOptions,
    SetOptions,
)
from evaluation.features.saved import read_features
from evaluation.generators import (
    ClosedFormGenerator,
    Generator,
    Sampling,
    SnapshotGenerator,
    fetched,
    generators_of_run,
)
from evaluation.records import format_seeds, newest_evaluation, read_records
from torch_utils import distributed
from torch_utils.distributed import print0
from training.closed_form import denoiser_class, files_of, read_name
from training.closed_form.gaussian import GaussianDenoiser
from training.config import read_run, require_known_data
from training.dataset import load_dataset, require_shape

Results = tuple[list[Row], Path]


def run_levels(options: LevelsOptions, device: torch.device) -> Results:
    """Measure each denoiser's denoising error. Raises UserError for sets and denoisers that do not match."""
    if options.data is None and options.expdir is None:
        raise UserError('`data` is missing; give the training set')
    sampling = Sampling(precision=options.denoising.precision, class_index=None, data=options.data)
    generators = levels_generators(options, sampling, device)
    sources = options.sources or [name for name in SOURCES if name != 'test' or options.sets.test is not None]
    if 'test' in sources and options.sets.test is None:
        raise UserError('`test` is missing; give the held-out set to which noise is added')
    data = options.data or data_of(options.expdir)
    sets = open_sets(data, options.sets)
    closed_forms = options.denoiser if options.network or options.expdir is not None else ()
    request = levels.LevelsRequest(options, sets, sources, closed_forms, device)
    wanted = []
    for generator in generators:
        require_shape(sets.training.images.shape[1:], generator.shape, f'`data`={data}', f'{generator.where} makes')
        settings = {
            'denoiser': generator.name,
            'kimg': generator.kimg,
            'sha256': generator.sha256,
            'precision': generator.precision,
            **sets_settings(sets, options.sets),
            'levels': options.levels,
            'sources': sources,
            **denoising_settings(options.denoising),
        }
        if closed_forms:
            settings['closed_forms'] = [[name, *map(file_sha256, files_of(name))] for name in closed_forms]
        wanted.append((settings, functools.partial(levels.measure_levels, request, generator.denoiser)))
    path = results_path(options.output, 'levels', options.expdir)
    records = measure_missing(path.with_suffix('.json'), wanted)
    rows = [
        {**{name: record['settings'][name] for name in ('denoiser', 'kimg')}, **row}
        for record in records
        for row in record['rows']
    ]
    distributed.on_main(lambda: write_csv(path.with_suffix('.csv'), rows))
    for record in records:
        for source in sources:
            own = [row for row in record['rows'] if row['source'] == source]
            print0(f'\n{record["settings"]["denoiser"]}: {source}, {own[0]["num_images"]} images; 95 % intervals')
            print0(text_table(own, levels.COLUMNS))
            for heading, columns in levels.explained_tables(request.compared) if request.compared else ():
                print0(f'{heading}\n{text_table(own, columns)}')
    return records, path


def run_calibrate(options: CalibrateOptions, device: torch.device) -> Results:
    """For each noise level, find the window with which a closed form best resembles a network.

    Raises UserError if the closed form has no windows, or the training set does not match the network.
    """
    if 'window' not in inspect.signature(denoiser_class(read_name(options.denoiser)[0])).parameters:
        raise UserError(f'`denoiser`={options.denoiser} has no windows; give local, equivariant or patch')
    generator = SnapshotGenerator(
        fetched(options.network), Sampling(precision=options.denoising.precision, data=options.data), device
    )
    sets = load_sets(options.data, None, options.num, allow_overlap=False)
    require_shape(sets.training.images.shape[1:], generator.shape, f'`data`={options.data}', f'{generator.where} makes')
    settings = {
        **_identity(generator),
        'training': sets.training.sha256,
        'closed_form': options.denoiser,
        'levels': options.levels,
        'num': sets.num,
        'seed': options.seed,
        **denoising_settings(options.denoising),
    }
    path = results_path(options.output, 'calibrate')
    measure = functools.partial(calibration.measure_windows, options, sets, device, generator.denoiser)
    (record,) = measure_missing(path.with_suffix('.json'), [(settings, measure)])
    table = path.with_name('windows.json')
    distributed.on_main(lambda: write_json(table, {'windows': record['windows']}))
    print0(f'Windows with which {options.denoiser} best resembles {generator.name} ({sets.num} sampling trajectories)')
    print0(text_table(record['rows'], calibration.COLUMNS))
    print0(f'To use these windows in a closed form, give it window={table}')
    return [record], path


def run_geometry(options: GeometryOptions, device: torch.device) -> Results:
    """Measure the geometry of a training set. Raises UserError for sets that do not match."""
    sets = open_sets(options.data, options.sets)
    gaussian = GaussianDenoiser(sets.training.images, device=device)
    sigmas = noise_levels(options.levels, gaussian)
    settings = {**sets_settings(sets, options.sets), 'levels': sigmas}
    path = results_path(options.output, 'geometry')
    measure = functools.partial(geometry_table.measure_geometry, sets, gaussian, sigmas, options.sets.seed, device)
    (record,) = measure_missing(path.with_suffix('.json'), [(settings, measure)])
    distributed.on_main(lambda: write_csv(path.with_suffix('.csv'), record['rows']))
    distributed.on_main(lambda: write_csv(path.with_name(f'{path.name}_images.csv'), record['images']))
    print0(f'{len(sets.training.images):,} training images; {sets.num} images measured in each set; 95 % intervals')
    print0(text_table(record['rows'], geometry_table.COLUMNS))
    held_out, gaussian_level = record['collapse_level'], record['gaussian_collapse_level']
    measured = '' if held_out is None else f'at sigma = {held_out:.4g} for held-out images and '
    print0(f'The information (in nats) increases as the noise decreases. It reaches ln |D| = {record["log_size"]:.4g}')
    print0(f'{measured}at sigma = {gaussian_level:.4g} for a Gaussian population.')
    if held_out is None:
        print0('For held-out images, it ' + ('does not reach ln |D|.' if sets.held_out else 'is not measured.'))
    print0(text_table(record['classes'], geometry_table.CLASS_COLUMNS))
    return [record], path


def run_agreement(options: AgreementOptions, device: torch.device) -> Results:
    """Measure how well two generators agree. Raises UserError for generators and sets that do not match."""
    count = len(options.network) + len(options.expdir) + (options.denoiser is not None)
    if count != 2:
        raise UserError(f'`network`, `expdir` and `denoiser` must give two generators in total, not {count}')
    paths = list(options.data) or [data_of(expdir) for expdir in options.expdir if not options.network]
    if not paths:
        raise UserError('`data` is missing; give one training set for both networks, or one for each')
    if len(paths) > 2:
        raise UserError('`data`: more than two training sets are given; give one for both generators, or one for each')
    if len(options.seeds) < 2:
        raise UserError('`seeds`: intervals need at least two seeds')
    sampling = Sampling.of(options, data=paths[-1])
    first, second = generators = compared_generators(options, sampling, device)
    training = [load_dataset(path, argument='data') for path in paths]
    held_out = None if options.test is None else load_dataset(options.test, argument='test')
    require_shape(second.shape, first.shape, second.where, f'{first.where} makes')
    for generator, dataset in zip(generators, (training[0], training[-1]), strict=True):
        generator.draw_unknown_classes_from(dataset.class_sizes)
    for dataset, data in zip(training, paths, strict=True):
        require_shape(dataset.images.shape[1:], first.shape, f'`data`={data}', f'{first.where} makes')
    features = None
    if options.features is not None:
        read = read_features(options.features, len(options.seeds), len(options.seeds), None)
        features = [np.array(read.generated), np.array(read.training)]
    pair = agreement_table.Pair(generators, [training[0], training[-1]], held_out, features)
    settings = {
        'generators': [_identity(generator) for generator in generators],
        'training': [dataset.sha256 for dataset in pair.training],
        'held_out': held_out.sha256 if held_out else None,
        'seeds': format_seeds(options.seeds),
        'batch': options.batch_size,
        'threshold': options.threshold,
        'features': options.features,
    }
    path = results_path(options.output, 'agreement', options.expdir[0] if options.expdir else None)
    gallery = path.with_name(f'{path.name}_gallery.png')
    measure = functools.partial(
        agreement_table.measure_agreement, pair, options.seeds, options.batch_size, options.threshold, gallery
    )
    (record,) = measure_missing(path.with_suffix('.json'), [(settings, measure)])
    distributed.on_main(lambda: write_csv(path.with_suffix('.csv'), record['rows']))
    distributed.on_main(lambda: write_csv(path.with_name(f'{path.name}_images.csv'), record['images']))
    print0(f'A: {first.where}, B: {second.where}; cosines for {len(options.seeds)} seeds; 95 % intervals')
    print0(text_table(record['rows'], agreement_table.COLUMNS))
    rms = record['rms']
    print0(
        f'Root mean square distance: {rms["mean"]:.4g} pixel levels ({rms["mean_low"]:.4g} to {rms["mean_high"]:.4g})'
    )
    print0(f'Gallery: {gallery}')
    return [record], path


def run_clocks(options: ClocksOptions, device: torch.device) -> Results:
    """Measure the clocks of runs. Raises UserError without a held-out set, or for a run with one snapshot."""
    if options.sets.test is None:
        raise UserError('`test` is missing; give the held-out set whose error determines the clocks')
    wanted = []
    for expdir in options.expdir:
        data = data_of(expdir, None)
        sets = open_sets(data, options.sets)
        sampling = Sampling(precision=options.denoising.precision)
        run = open_run(expdir, sets.training.sha256, sampling, device)
        shape = run.snapshots[0].shape
        require_shape(sets.training.images.shape[1:], shape, f'`data`={data}', f'the networks of {expdir} make')
        settings = {
            'run': str(expdir),
            'snapshots': {snapshot.name: snapshot.sha256 for snapshot in run.snapshots},
            'copies': [[record['snapshot'], record['num_memorized'], record['num_images']] for record in run.records],
            **sets_settings(sets, options.sets),
            'levels': options.levels,
            **denoising_settings(options.denoising),
        }
        wanted.append((settings, functools.partial(clocks_table.measure_clocks, run, sets, options, device)))
    path = results_path(options.output, 'clocks', options.expdir[0] if len(options.expdir) == 1 else None)
    records = measure_missing(path.with_suffix('.json'), wanted)
    rows = [{'run': record['run'], **row} for record in records for row in record['rows']]
    distributed.on_main(lambda: write_csv(path.with_suffix('.csv'), rows))
    print0('Times in thousands of training images seen; 95 % intervals')
    # Without the word, a column in which no run has a time would be omitted, but not the columns of its interval.
    unknown = dict.fromkeys(clocks_table.CLOCKS, 'none')
    found = [
        unknown | {name: value for name, value in clocks_table.summary_row(record).items() if value is not None}
        for record in records
    ]
    print0(text_table(found, clocks_table.COLUMNS))
    if comparison := clocks_table.compare_runs(records):
        distributed.on_main(lambda: write_json(path.with_name(f'{path.name}_comparison.json'), comparison))
        for line in clocks_table.comparison_lines(comparison):
            print0(line)
    return records, path


def levels_generators(options: LevelsOptions, sampling: Sampling, device: torch.device) -> list[Generator]:
    """The denoisers to measure: networks (a run's snapshots, oldest first) or, if none are given, closed forms."""
    networks = bool(options.network) + (options.expdir is not None)
    if networks > 1 or not (networks or options.denoiser):
        raise UserError('give `network` or `expdir`, or closed forms with `denoiser`')
    if options.expdir is not None:
        return generators_of_run(options.expdir, sampling, device)[::-1]
    if options.network:
        return [SnapshotGenerator(path, sampling, device) for path in network_files(options)]
    return [ClosedFormGenerator(name, sampling, device) for name in options.denoiser]


def compared_generators(options: AgreementOptions, sampling: Sampling, device: torch.device) -> list[Generator]:
    """The two generators to compare: networks come first, then the last snapshots of runs, then the closed form."""
    found: list[Generator] = [SnapshotGenerator(path, sampling, device) for path in network_files(options)]
    found += [generators_of_run(expdir, sampling, device)[0] for expdir in options.expdir]
    if options.denoiser is not None:
        found.append(ClosedFormGenerator(options.denoiser, sampling, device))
    return found


def network_files(options: LevelsOptions | AgreementOptions) -> list[Path]:
    """The files of the networks; a network given as a URL is downloaded once."""
    if options.download.sha256 is not None and len(options.network) != 1:
        raise UserError(
            f'`sha256` is the hash of one file, but `network` is given {len(options.network)} times; remove `sha256`'
        )
    return [fetched(network, options.download) for network in options.network]


def open_run(expdir: Path, dataset_sha256: str, sampling: Sampling, device: torch.device) -> clocks_table.Run:
    """Open a run with its newest evaluation that compared images with the training set.

    dataset_sha256: the training set's hash. Raises UserError if the run has fewer than two snapshots.
    """
    generators = generators_of_run(expdir, sampling, device)[::-1]
    if len(generators) < 2:
        raise UserError(f'`expdir`={expdir} has one snapshot after 0 kimg, but clocks need several')
    given, records = read_run(expdir).options, read_records(expdir / 'mem_traj.jsonl')
    return clocks_table.Run(
        name=expdir.name,
        snapshots=generators,
        batch=given.batch,
        lr=given.lr,
        records=newest_evaluation([record for record in records if record['dataset_sha256'] == dataset_sha256]),
    )


def open_sets(data: str, options: SetOptions) -> ImageSets:
    return load_sets(data, options.test, options.num, options.allow_overlap)


def sets_settings(sets: ImageSets, options: SetOptions) -> Row:
    return {**sets.sha256, 'num': sets.num, 'seed': options.seed}


def denoising_settings(options: DenoisingOptions) -> Row:
    return {'class_index': options.class_index, 'use_labels': not options.no_labels, 'batch': options.batch_size}


def data_of(expdir: Path | None, argument: str | None = 'data') -> str:
    """The training set of a run of train.py. Raises UserError if it is unknown or not found.

    argument: the argument that can give the training set instead, or None.
    """
    assert expdir is not None
    path = read_run(expdir).options.data
    require_known_data(path, argument)
    return path


def results_path(options: OutputOptions, name: str, run_dir: Path | None = None) -> Path:
    return (options.outdir or run_dir or Path()) / name


def _identity(generator: Generator) -> Row:
    return {
        'name': generator.name,
        'sha256': generator.sha256,
        'sampler': generator.sampler,
        'class_index': generator.class_index,
        **generator.prior,
        'precision': generator.precision,
    }

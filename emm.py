"""Entry script: find the effective model memorization (EMM), sweep over factors, and show the results."""

from pathlib import Path

import click

from cli.command import with_options
from dnnlib.options import options_in, spelling
from dnnlib.util import report_errors
from evaluation.effective_memorization import most_sizes
from studies.study_options import SearchOptions, SessionOptions
from training.training_options import RunOptions


class StudyCommand(click.Command):
    """A command that refuses options of train.py and explains where they belong."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if error.option_name.removeprefix('--') not in {spelling(field) for field, _ in options_in(RunOptions)}:
                raise
            search = self.name == 'search'
            place = 'go after --' if search else 'belong in the table [train] of the study file'
            text = f'{error.option_name}: options of train.py {place}'
            if error.option_name == '--data':
                place = '--source' if search else 'source in the table [data] of the study file'
                text = f'--data: a study makes its own training sets; give the images as {place}'
            raise click.UsageError(text, ctx) from error


@click.group()
def main() -> None:
    """Find the effective model memorization (EMM): the size of the largest training set that a model still memorizes.

    A study consists of points, each of which is one training run with its evaluation. Each study has a folder with an
    HTML page of its results. If you run a study again, finished points are kept and interrupted points resume.

    \b
    # The EMM of a small network on the built-in digits
    python emm.py search --outdir=digits-emm --source=digits --range=10-40 --seeds=0-255 -- \\
        --preset=digits --batch=32 --epochs=51200images --warmup=5000images --ema=4000images --snapshots=1

    \b
    # A study of skip connections, and its progress
    python emm.py sweep scripts/studies/pocket/skip_connections.toml --outdir=skips
    python emm.py status skips
    """


@main.command(cls=StudyCommand, context_settings={'ignore_unknown_options': False})
@click.argument('train_options', nargs=-1, type=click.UNPROCESSED)
@report_errors
@with_options(SearchOptions)
@with_options(SessionOptions, 'session')
def search(options: SearchOptions, session: SessionOptions, train_options: tuple[str, ...]) -> None:
    """Search for the EMM of one configuration.

    TRAIN_OPTIONS (all options after --) are passed to train.py; training lengths can be given in images, such as
    50000images. The search first trains on the smallest training set and then on the largest; after that, it repeatedly
    halves the range of sizes that contains the EMM. If the smallest set is not memorized, the
    result is only an upper bound on the EMM. If the largest set is memorized, the result is only a lower bound.

    \b
    # The paper's basic run, between 500 and 5,000 images of CIFAR-10
    python emm.py search --outdir=emm-cifar10 --source=datasets/cifar10/cifar-10-python.tar.gz \\
        --range=500-5000 --gpus-per-job=8 -- --preset=paper

    \b
    # A search on the built-in digits, which takes a few minutes
    python emm.py search --outdir=digits-emm --source=digits --range=10-40 --seeds=0-255 -- \\
        --preset=digits --batch=32 --epochs=51200images --warmup=5000images --ema=4000images --snapshots=1
    """
    from studies.search import search_study
    from studies.session import carry_out

    study = search_study(options, train_options)
    if not session.dry_run:
        low, high = options.size_range
        print(f'The search tries at most {most_sizes(low, high, options.tolerance)} sizes |D| from {low} to {high}.')
        if not {word.partition('=')[0] for word in train_options} & {'--preset', '--num-channels', '--cbase'}:
            print(
                "Warning: each point trains train.py's large default network, which can take days without a GPU; choose a "
                '--preset after --, or estimate the cost with --dry-run.'
            )
    carry_out(study, options.outdir, session)


@main.command(cls=StudyCommand)
@click.argument('study_file', metavar='STUDY.toml', type=click.Path(path_type=Path))
@click.option('--outdir', metavar='DIR', type=click.Path(path_type=Path), help='Study folder. [default: studies-out/NAME]')  # fmt: skip
@report_errors
@with_options(SessionOptions, 'session')
def sweep(study_file: Path, outdir: Path | None, session: SessionOptions) -> None:
    """Run a study: every combination of factor values at every training-set size, with all repeats.

    docs/studies.md describes the format of the study file. A point is one training run (or one closed-form denoiser)
    with its evaluation. If you add values, sizes or repeats to the file, only the new points run; if you change the
    settings of a point, its old results are set aside and it runs again.

    \b
    # A study on the built-in digits, on a laptop
    python emm.py sweep scripts/studies/pocket/width.toml --outdir=width

    \b
    # The paper's study of width on a cluster: eight GPUs for each point
    python emm.py sweep scripts/studies/width.toml --outdir=width-cifar10 --launcher=slurm \\
        --gpus-per-job=8 --jobs=16 --time-limit=720
    """
    from studies.session import carry_out
    from studies.study_file import load_study

    study = load_study(study_file)
    carry_out(study, outdir or Path('studies-out') / study.name, session)


@main.command()
@click.argument('folder', metavar='STUDY', type=click.Path(path_type=Path))
@report_errors
def status(folder: Path) -> None:
    """Show which points are done, running, failed or pending, and estimate the remaining time.

    \b
    python emm.py status width
    watch python emm.py status width
    """
    from studies.folder import open_results
    from studies.report.tables import status_text

    print(status_text(open_results(folder)))


@main.command()
@click.argument('folder', metavar='STUDY', type=click.Path(path_type=Path))
@report_errors
def table(folder: Path) -> None:
    """Print the ratio by size and the EMM by factor value, with intervals; also write these tables as CSV and JSON.

    \b
    python emm.py table width
    python -m json.tool width/tables.json
    """
    from studies.folder import open_results
    from studies.report.tables import table_text, write_tables

    results = open_results(folder)
    print(table_text(results))
    print('\nWritten: ' + ', '.join(map(str, write_tables(results))))


@main.command()
@click.argument('folder', metavar='STUDY', type=click.Path(path_type=Path))
@click.argument('saved', metavar='TABLES.json', type=click.Path(path_type=Path))
@report_errors
def compare(folder: Path, saved: Path) -> None:
    """Compare a study with a saved tables.json: report which ratios and EMMs agree within their intervals.

    \b
    python emm.py compare studies-out/dimension docs/results/photographs/dimension/tables.json
    """
    from studies.folder import open_results
    from studies.report.comparison import comparison_text

    print(comparison_text(open_results(folder), saved))


@main.command()
@click.argument('folder', metavar='STUDY|RUN', type=click.Path(path_type=Path))
@report_errors
def plot(folder: Path) -> None:
    """Plot the ratio against |D| and against epochs, and the EMM by factor value, as PNG and SVG.

    For a run folder of train.py, plot the loss and the ratios of the snapshots. If the snapshots were evaluated with
    several settings, there is one figure for each.

    \b
    python emm.py plot width
    python emm.py plot runs/00000-digits
    """
    from studies.report.figures import write_folder_figures

    paths = write_folder_figures(folder)
    print('Written: ' + ', '.join(map(str, paths)) if paths else 'No results yet, so there is nothing to draw.')


@main.command()
@click.argument('folder', metavar='STUDY', type=click.Path(path_type=Path))
@report_errors
def report(folder: Path) -> None:
    """Write a study's page: one HTML file with all results.

    \b
    python emm.py report width
    xdg-open width/report.html
    """
    from studies.folder import open_results
    from studies.report.sections import write_study_page

    print(f'Page: {write_study_page(open_results(folder))}')


if __name__ == '__main__':
    main()

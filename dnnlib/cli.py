"""What the scripts' command lines share: lists and ranges of numbers, and the options of samplers, downloads and devices."""

import functools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Decorator = Callable[[Callable], Callable]

# Longer lists of seeds would not fit in memory as a list.
_MAX_SEEDS = 100_000_000


class IntList(click.ParamType):
    """Comma-separated integers, such as '1,0,2', as a list."""

    name = 'list'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        if isinstance(value, list):
            return value
        try:
            return [int(part) for part in str(value).split(',')] if str(value).strip() else []
        except ValueError:
            self.fail(f'{value!r} is not a list of integers such as 1,2,2', param, ctx)


class FloatPair(click.ParamType):
    """Two numbers, the lower first, such as '-1,1'."""

    name = 'range'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, float]:
        if isinstance(value, tuple):
            return value
        try:
            low, high = map(float, str(value).split(','))
        except ValueError:
            self.fail(f'{value!r} is not two numbers such as -1,1', param, ctx)
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            self.fail(f'{value!r} is no range; give the lower number first', param, ctx)
        return low, high


class Words(click.ParamType):
    """Comma-separated words, as a list."""

    name = 'list'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        if isinstance(value, list):
            return value
        words = [word.strip() for word in str(value).split(',')]
        if not all(words):
            self.fail(f'{value!r} has an empty part', param, ctx)
        return words


class Seeds(click.ParamType):
    """Comma-separated integers and ranges, such as '0,1,5-10', as a list."""

    name = 'list'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        if isinstance(value, list):
            return value
        seeds: list[int] = []
        for part in str(value).split(','):
            match = re.fullmatch(r'\s*(\d+)(?:-(\d+))?\s*', part)
            if match is None:
                self.fail(f'{part!r} is neither a seed nor a range of seeds such as 0-63', param, ctx)
            first, last = int(match[1]), int(match[2] or match[1])
            if last < first:
                self.fail(f'the range {part} is empty; give the smaller seed first', param, ctx)
            if last - first >= _MAX_SEEDS:
                self.fail(f'the range {part} has more than {_MAX_SEEDS} seeds', param, ctx)
            seeds += range(first, last + 1)
        if len(set(seeds)) < len(seeds):
            self.fail('a seed is given twice; each gives the same image again', param, ctx)
        return seeds


def chain(options: list[Decorator]) -> Decorator:
    """One decorator that applies click options in the order in which the help shows them."""
    return lambda command: functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)


def sampler_options(command: Callable) -> Callable:
    """EDM's sampler options; pass their values to `sampler_keywords`."""
    positive = click.FloatRange(min=0, min_open=True)
    return chain(
        [
            click.option(
                '--steps',
                'num_steps',
                metavar='INT',
                type=click.IntRange(min=2),
                default=18,
                show_default=True,
                help='Number of sampling steps.',
            ),
            click.option(
                '--sigma_min',
                metavar='FLOAT',
                type=positive,
                help="Lowest noise level. [default: 0.002, or the denoiser's]",
            ),
            click.option(
                '--sigma_max',
                metavar='FLOAT',
                type=positive,
                help="Highest noise level. [default: 80, or the denoiser's]",
            ),
            click.option(
                '--rho',
                metavar='FLOAT',
                type=positive,
                default=7,
                show_default=True,
                help='Exponent of the time steps.',
            ),
            click.option(
                '--S_churn',
                'S_churn',
                metavar='FLOAT',
                type=click.FloatRange(min=0),
                default=0,
                show_default=True,
                help='Strength of stochasticity.',
            ),
            click.option(
                '--S_min',
                'S_min',
                metavar='FLOAT',
                type=click.FloatRange(min=0),
                default=0,
                show_default=True,
                help='Lowest noise level that is churned.',
            ),
            click.option(
                '--S_max',
                'S_max',
                metavar='FLOAT',
                type=click.FloatRange(min=0),
                default=math.inf,
                show_default=True,
                help='Highest noise level that is churned.',
            ),
            click.option(
                '--S_noise',
                'S_noise',
                metavar='FLOAT',
                type=float,
                default=1,
                show_default=True,
                help="Inflation of the churn's noise.",
            ),
            click.option(
                '--solver', metavar='euler|heun', type=click.Choice(['euler', 'heun']), help='Ablation: the solver.'
            ),
            click.option(
                '--disc',
                'discretization',
                metavar='vp|ve|iddpm|edm',
                type=click.Choice(['vp', 've', 'iddpm', 'edm']),
                help='Ablation: the time steps.',
            ),
            click.option(
                '--schedule',
                metavar='vp|ve|linear',
                type=click.Choice(['vp', 've', 'linear']),
                help='Ablation: the noise schedule sigma(t).',
            ),
            click.option(
                '--scaling',
                metavar='vp|none',
                type=click.Choice(['vp', 'none']),
                help='Ablation: the signal scaling s(t).',
            ),
        ]
    )(command)


SAMPLER_KEYWORDS = (
    'num_steps',
    'sigma_min',
    'sigma_max',
    'rho',
    'S_churn',
    'S_min',
    'S_max',
    'S_noise',
    'solver',
    'discretization',
    'schedule',
    'scaling',
)


def sampler_keywords(options: dict[str, Any]) -> dict[str, Any]:
    """The sampler's keywords among a command's options, removed from them.

    Raises click.UsageError where they do not fit together.
    """
    keywords = {name: options.pop(name) for name in SAMPLER_KEYWORDS}
    low, high = keywords['sigma_min'], keywords['sigma_max']
    if low is not None and high is not None and low >= high:
        raise click.UsageError(f'--sigma_min={low:g} must be below --sigma_max={high:g}')
    if keywords['S_min'] > keywords['S_max']:
        raise click.UsageError(f'--S_min={keywords["S_min"]:g} must not be above --S_max={keywords["S_max"]:g}')
    return keywords


def cache_options(of: str) -> Decorator:
    """`--cache-dir` and `--sha256` for what `fetch` gets. of: the option that names the file."""
    return chain(
        [
            click.option(
                '--cache-dir',
                metavar='DIR',
                type=click.Path(path_type=Path),
                help="Where downloads are kept. [default: the user's cache folder]",
            ),
            click.option('--sha256', metavar='HEX', type=str, help=f'SHA-256 that the file of {of} must have.'),
        ]
    )


def download_options(of: str) -> Decorator:
    """`cache_options` and `--download-only`."""
    only = click.option(
        '--download-only', is_flag=True, help=f'Download the file of {of}, print where it is, and stop.'
    )
    return chain([cache_options(of), only])


def device_option(command: Callable) -> Callable:
    return click.option(
        '--device', metavar='auto|cuda|mps|cpu', default='auto', show_default=True, help='Where to compute.'
    )(command)


def precision_option(help_text: str, default: str | None = None) -> Decorator:
    """`--precision`, one of the four that networks run at."""
    choices = ['fp32', 'tf32', 'bf16', 'fp16']
    return click.option(
        '--precision', metavar='|'.join(choices), type=click.Choice(choices), default=default, help=help_text
    )

"""The timing code that all benchmarks share.

Implementations of the same task run in turn, and their median times are compared. The result is a printed table and, on
request, a line of JSON for each implementation. On a CPU with one thread, times are processor times, which other
processes hardly affect. Otherwise they are wall-clock times, measured until the device has finished its work.
"""

import contextlib
import json
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from dnnlib.options import option

# Instruction sets that speed up matrix products, by their names in /proc/cpuinfo.
INSTRUCTION_SETS = ('avx2', 'avx_vnni', 'avx512_vnni', 'avx512_bf16', 'amx_int8')


@dataclass(frozen=True, kw_only=True)
class TimingOptions:
    """Device, time and output file of a comparison."""

    # fmt: off
    device: str = option('auto', 'Device to compute on.', unit='auto|cuda|cpu')
    seconds: float = option(5, 'Time in seconds for each implementation.', unit='FLOAT', above=0)
    out: Path | None = option(None, 'File to which a line of JSON is appended for each implementation.', unit='FILE')
    # fmt: on


@dataclass(frozen=True)
class Way:
    """One implementation of a task.

    run: function that does `amount` units of work. plain: whether the implementation is a baseline, to which others are
    compared.
    """

    name: str
    amount: float
    run: Callable[[], object]
    plain: bool = False


@dataclass(frozen=True)
class Timing:
    """Speed and peak memory of one implementation.

    per_second: units of work per second. times_plain: speed relative to the fastest baseline. megabytes: peak memory
    during the first run. On a GPU, this is the memory that the run allocates; networks and training sets, which exist
    before the run, do not count, because those of all implementations exist at the same time. A CUDA graph is recorded
    later. Without a GPU, it is the memory of the process.
    """

    task: str
    way: str
    unit: str
    per_second: float
    times_plain: float | None
    megabytes: int
    runs: int
    machine: str
    torch: str


def compare(task: str, unit: str, ways: Sequence[Way], device: torch.device, options: TimingOptions) -> list[Timing]:
    """Run the implementations in turn, each at least twice; print and return their timings.

    On average, an implementation runs for `options.seconds`. If an implementation runs out of GPU memory, this is
    printed instead of a timing.
    """
    print(f'\n{task}: {machine(device)}\n')
    print(f'| implementation | {unit}/s | times plain | peak memory, MB |\n|---|---|---|---|')
    memory = {way.name: peak_megabytes(way.run, device) for way in ways}  # also warms up
    ways = [way for way in ways if memory[way.name]]
    if device.type == 'cuda':  # the memory measurement was the first call; the CUDA graph is recorded in the third
        for way in [*ways, *ways]:
            way.run()
    seconds: dict[str, list[float]] = {way.name: [] for way in ways}
    left = options.seconds * len(ways)
    while ways and (left > 0 or len(seconds[ways[-1].name]) < 2):
        for way in ways:
            seconds[way.name].append(elapsed(way.run, device))
            left -= seconds[way.name][-1]
    speeds = {way.name: way.amount / statistics.median(seconds[way.name]) for way in ways}
    best = max((speeds[way.name] for way in ways if way.plain), default=None)
    timings = [
        Timing(task, way.name, unit, speeds[way.name], best and speeds[way.name] / best, memory[way.name],
               len(seconds[way.name]), machine(device), torch.__version__)
        for way in ways
    ]  # fmt: skip
    for timing in timings:
        ratio = '' if timing.times_plain is None else f'{timing.times_plain:.2f}'
        print(f'| {timing.way} | {timing.per_second:.4g} | {ratio} | {timing.megabytes} |', flush=True)
    for name in memory.keys() - speeds.keys():
        print(f'| {name} | out of memory | | |', flush=True)
    write(options.out, timings)
    return timings


def elapsed(run: Callable[[], object], device: torch.device) -> float:
    """Seconds that one run takes: processor time on a CPU with one thread, otherwise wall-clock time."""
    clock = time.process_time if device.type == 'cpu' and torch.get_num_threads() == 1 else time.perf_counter
    synchronize(device)
    start = clock()
    run()
    synchronize(device)
    return clock() - start


def synchronize(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def peak_megabytes(run: Callable[[], object], device: torch.device) -> int:
    """Peak memory of one run in MB, see `Timing`; 0 if the GPU's memory does not suffice."""
    if device.type == 'cuda':
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        try:
            elapsed(run, device)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            return 0
        return max(1, (torch.cuda.max_memory_allocated(device) - before) // 10**6)
    with contextlib.suppress(OSError):
        Path('/proc/self/clear_refs').write_text('5')  # Linux: resets the peak
    run()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 10**6


def write(path: Path | None, timings: Iterable[Timing]) -> None:
    """Append a line of JSON for each timing."""
    if path is not None:
        with open(path, 'a', encoding='utf-8') as file:
            file.writelines(json.dumps(asdict(timing)) + '\n' for timing in timings)


def machine(device: torch.device) -> str:
    """Return the GPU's name; without a GPU, the processor's name, its instruction sets and the number of threads."""
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    ending = f'{threads} thread{"s" * (threads != 1)}'
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
    except OSError:
        return f'{platform.processor() or platform.machine()}, {ending}'
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(':') for line in reversed(lines))}
    found = [name for name in INSTRUCTION_SETS if name in facts.get('flags', '').split()]
    return f'{facts.get("model name", platform.machine())} ({" ".join(found)}), {ending}'

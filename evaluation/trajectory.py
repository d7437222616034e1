"""The memorization ratio of every snapshot of a run, or of one model; evaluated over ranks, and resumed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from dnnlib.util import UserError, atomic_file
from evaluation.best import BEST_NAME, read_best
from evaluation.generators import Model, SnapshotModel
from evaluation.memorization import TrainingImages
from evaluation.model_judge import Evaluation, Judged, ModelJudge, log_line, partial_path, progress_bar
from evaluation.pictures import gallery, rms_per_pixel
from evaluation.records import find_record, read_records
from torch_utils import distributed
from training.dataset import Dataset
from training.sampling import SamplerOptions
from training.snapshot import list_snapshots

GALLERY_SIZE = 48


def models_of_run(
    run_dir: Path,
    sampler: SamplerOptions,
    device: torch.device | str,
    class_index: int | None = None,
    precision: str | None = None,
) -> list[Model]:
    """Every snapshot of a run but that at 0 kimg, newest first. Raises UserError where there is none."""
    paths = [path for kimg, path in reversed(list_snapshots(run_dir)) if kimg]
    if not paths:
        raise UserError(
            f'--expdir={run_dir}: no network-snapshot-*.safetensors or .pkl in it, but for one at 0 kimg at most'
        )
    return [SnapshotModel(path, sampler, device, class_index, precision) for path in paths]


def evaluate_models(
    models: Sequence[Model],
    reference: Dataset,
    training: TrainingImages,
    evaluation: Evaluation,
    log_path: Path,
    gallery_path: Path,
) -> list[dict[str, Any]]:
    """Evaluate models in their order; return their records.

    log_path: one readable line for each model goes there; beside it go one record each, as .jsonl, and what is kept of
    the best, as mem_best.npz. Ranks share the batches of seeds; the records are the same at any world size.
    Raises UserError where a model does not fit the reference.
    """
    for model in models:
        check_fits(model, reference)
    records_path, kept_path = log_path.with_suffix('.jsonl'), log_path.with_name(BEST_NAME)
    judges = [ModelJudge(model, reference, training, evaluation) for model in models]
    records: list[dict[str, Any]] = []
    with progress_bar(len(models) * len(evaluation.seeds)) as bar:
        for judge in judges:
            record = distributed.on_main(
                lambda judge=judge: find_record(read_records(records_path), judge.settings)  # type: ignore[misc]
            )
            if record is None:
                judged = judge.run(bar, log_path)
                record = judged.record
                if all(height(record) > height(earlier) for earlier in records):
                    judge.keep(kept_path, judged.result)
            else:
                bar.update(len(evaluation.seeds))
                if distributed.is_main():
                    tqdm.write(f'{log_line(record)}  (evaluated before)')
            records.append(record)
        judge = judges[best_of(records)]
        if not distributed.on_main(lambda: read_best(kept_path, judge.settings) is not None):
            bar.total += len(evaluation.seeds)
            judge.keep(kept_path, judge.judge_resumably(bar, log_path))
            distributed.on_main(lambda: partial_path(log_path).unlink(missing_ok=True))
    distributed.on_main(lambda: save_gallery(gallery_path, kept_path, judge))
    return records


def judge_in_memory(model: Model, reference: Dataset, training: TrainingImages, evaluation: Evaluation) -> Judged:
    """Evaluate one model, keep all its images in memory, and write nothing. Raises UserError as `evaluate_models`."""
    check_fits(model, reference)
    with progress_bar(len(evaluation.seeds)) as bar:
        return ModelJudge(model, reference, training, evaluation).judge_in_memory(bar)


def best_of(records: Sequence[dict[str, Any]]) -> int:
    """The place of the record of the highest ratio, and of equal ones that of the latest snapshot."""
    return max(range(len(records)), key=lambda place: height(records[place]))


def height(record: dict[str, Any]) -> tuple[float, float]:
    return record['ratio'], record['kimg'] or 0


def check_fits(model: Model, reference: Dataset) -> None:
    """Raise UserError where a model's images differ in shape from the reference's."""
    if model.shape == tuple(reference.images.shape[1:]):
        return
    _, channels, height, width = reference.images.shape
    raise UserError(
        f'--knn-ref={reference.name} has {width}x{height} images of {channels} channels, but {model.path} makes '
        f'{model.shape[2]}x{model.shape[1]} of {model.shape[0]}; give the training set of that model'
    )


def save_gallery(path: Path, kept_path: Path, judge: ModelJudge) -> None:
    """Write a gallery of the first seeds' images of a model that is kept, each beside its nearest training image."""
    kept = read_best(kept_path, judge.settings)
    assert kept is not None
    write_gallery(path, kept.first_images, judge.reference, judge.training)


def write_gallery(path: Path, images: torch.Tensor, reference: Dataset, training: TrainingImages) -> None:
    """Write a gallery of images uint8 [N, C, H, W]."""
    result = training.summarize(*training.nearest_two(images))
    nearest = reference.images[result.indices[:, 0]]
    distances = rms_per_pixel(result.squared_distances[:, 0], training.num_pixels)
    picture = gallery(images.cpu(), nearest, distances.tolist(), result.memorized.tolist())
    with atomic_file(path) as file:
        picture.save(file, format='PNG')

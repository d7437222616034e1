"""Judges images, snapshots, runs and pipelines: the memorization ratio and what was asked for beside it.

`judge` does what a `Request` says and returns a record of each set of images, fit for JSON.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dataset_utils.sources.arrays import FloatRange
from dnnlib.util import UserError
from evaluation.features.saved import Features, read_features
from evaluation.generators import Model, PipelineModel, SnapshotModel
from evaluation.given_images import ImageSet, fitted, read_images
from evaluation.image_table import JudgedSet, write_image_table
from evaluation.memorization import Memorization, TrainingImages
from evaluation.metrics import compute_metrics, require_known
from evaluation.model_judge import Evaluation, facts
from evaluation.spaces import FeatureSpace, PixelSpace
from evaluation.trajectory import GALLERY_SIZE, best_of, evaluate_models, judge_in_memory, models_of_run, write_gallery
from torch_utils import distributed
from training.config import read_options
from training.dataset import Dataset, load_dataset
from training.sampling import SamplerOptions


@dataclass(frozen=True)
class Extras:
    """What is asked for beside the ratio.

    metrics: names of `evaluation.metrics.METRICS`. test_ref: a held-out set. features: files of features of generated,
    training and, at times, test images, to compute metrics in. table, gallery: files to write.
    """

    metrics: Sequence[str] = ()
    test_ref: str | None = None
    features: Sequence[str] = ()
    table: Path | None = None
    gallery: Path | None = None

    @property
    def has_test(self) -> bool:
        return self.test_ref is not None or len(self.features) > 2

    @property
    def need_images(self) -> bool:
        """Whether they need the images themselves, and not only what was found of each."""
        return bool(self.metrics) or self.table is not None


@dataclass(frozen=True)
class Request:
    """What to judge, and by what.

    One of images (paths), expdir, network and pipeline says what is judged. knn_ref: the training set; None takes that
    of the run. resize, float_range: see `evaluation.given_images`. num_steps: of a pipeline, None for the usual number.
    log: file of the log of a run or a model; None writes none.
    """

    evaluation: Evaluation
    sampler: SamplerOptions
    images: Sequence[str] = ()
    expdir: Path | None = None
    network: Path | None = None
    pipeline: Path | None = None
    knn_ref: str | None = None
    log: Path | None = None
    class_index: int | None = None
    precision: str | None = None
    num_steps: int | None = None
    resize: str | None = None
    float_range: FloatRange | None = None
    extras: Extras = Extras()


def judge(request: Request, device: torch.device) -> list[dict[str, Any]]:
    """Judge, write what is to be written, and return the records. Raises UserError for whatever cannot be judged."""
    require_known(request.extras.metrics, request.extras.has_test)
    if request.expdir is not None and not request.expdir.is_dir():
        raise UserError(f'--expdir={request.expdir}: no such folder; give the run folder that train.py made')
    require_folders({'--table': request.extras.table, '--gallery': request.extras.gallery, '--log': request.log})
    knn_ref = request.knn_ref
    if knn_ref is None:
        assert request.expdir is not None
        knn_ref = training_set_of(request.expdir)
    models = models_of(request, device)
    reference = load_dataset(knn_ref, option='--knn-ref')
    prepared = Judge(request, reference, f'--knn-ref={knn_ref}', device)
    return prepared.judge_models(models) if models else prepared.judge_image_sets()


def require_folders(files: dict[str, Path | None]) -> None:
    """Raise UserError where a file of an option could not be written, before hours of work are lost for it."""
    for option, path in files.items():
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            problem = 'is a folder' if path.is_dir() else f'there is no folder {path.parent}'
            raise UserError(f'{option}={path}: {problem}; name a file in a folder that exists')


def models_of(request: Request, device: torch.device) -> list[Model]:
    """The models to judge, newest first; none where images are."""
    sampling = request.sampler, device, request.class_index, request.precision
    if request.expdir is not None:
        return models_of_run(request.expdir, *sampling)
    if request.network is not None:
        return [SnapshotModel(request.network, *sampling)]
    if request.pipeline is not None:
        return [PipelineModel(request.pipeline, request.num_steps, device)]
    return []


def training_set_of(run_dir: Path) -> str:
    """The path of the training set that train.py was given. Raises UserError where the run is not one of train.py's."""
    try:
        return read_options(run_dir)['data']
    except (UserError, KeyError) as error:
        problem = str(error).split(';')[0]
        raise UserError(f'{problem}; give --knn-ref, the training set to compare with') from error


class Judge:
    """A training set, prepared for judging. where: the option and path that named it, for messages."""

    def __init__(self, request: Request, reference: Dataset, where: str, device: torch.device):
        self.request, self.reference, self.where, self.device = request, reference, where, device
        self.extras = request.extras
        self.test: torch.Tensor | None = None
        if self.extras.test_ref is not None:
            self.test = torch.from_numpy(self.read(self.extras.test_ref, '--test-ref').pixels)
        self.training = TrainingImages(reference.images, device, name=where)

    def judge_image_sets(self) -> list[dict[str, Any]]:
        """Judge every set of images; the table has all of them."""
        sets = [self.read(path, '--images') for path in self.request.images]
        features = [self.read_features(len(images)) for images in sets]
        judged, records = [], []
        for images, own_features in zip(sets, features, strict=True):
            result = self.training.summarize(*self.nearest_two(images))
            record = {'images': images.name, **facts(result, self.reference)}
            record |= {} if images.resized is None else {'resize': images.resized}
            records.append({**record, **self.metrics(images, result, own_features)})
            judged.append(JudgedSet(images, result))
        self.write(judged)
        return records

    def judge_models(self, models: Sequence[Model]) -> list[dict[str, Any]]:
        """Judge all models; what is asked for beside the ratio is done for the best, which is sampled again for it."""
        request, records = self.request, None
        features = self.read_features(len(request.evaluation.seeds))
        best = models[0]
        if request.log is not None:
            gallery = self.extras.gallery or (request.expdir or request.log.parent) / 'mem_gallery.png'
            records = evaluate_models(models, self.reference, self.training, request.evaluation, request.log, gallery)
            best = models[best_of(records)]
            if not self.extras.need_images:
                return records
        judged = judge_in_memory(best, self.reference, self.training, request.evaluation)
        assert judged.images is not None
        seeds = request.evaluation.seeds
        images = ImageSet(best.name, str(best.path), judged.images.numpy(), lambda place: str(seeds[place]))
        records = [judged.record] if records is None else records
        place = models.index(best)
        records[place] = {**records[place], **self.metrics(images, judged.result, features)}
        self.write([JudgedSet(images, judged.result)])
        return records

    def read(self, path: str, option: str) -> ImageSet:
        """Images in the shape of the training set's."""
        images = read_images(path, option, self.request.float_range, progress=distributed.is_main())
        return fitted(images, self.reference.images.shape[1:], self.where, self.request.resize)

    def read_features(self, num_images: int) -> Features | None:
        if not self.extras.features:
            return None
        num_test = None if self.test is None else len(self.test)
        return read_features(self.extras.features, num_images, len(self.reference.images), num_test)

    def nearest_two(self, images: ImageSet) -> tuple[torch.Tensor, torch.Tensor]:
        """As `TrainingImages.nearest_two`, each rank looking up a part of the images."""
        rank, ranks, size = distributed.rank(), distributed.world_size(), len(images)
        mine = images.pixels[size * rank // ranks : size * (rank + 1) // ranks]
        indices, squared_distances = zip(*distributed.gather(self.training.nearest_two(mine)), strict=True)
        return torch.cat(indices), torch.cat(squared_distances)

    def metrics(self, images: ImageSet, result: Memorization, features: Features | None) -> dict[str, Any]:
        """What a record says of the metrics that were asked for; the main rank computes them."""
        names = self.extras.metrics
        if not names:
            return {}

        def compute() -> dict[str, Any]:
            if features is not None:
                space = FeatureSpace(self.device)
                return compute_metrics(names, space, features.generated, features.training, features.test)
            found = result.indices, result.squared_distances
            pixels = PixelSpace(self.device)
            return compute_metrics(names, pixels, images.pixels, self.reference.images, self.test, nearest_two=found)

        space = 'pixels' if features is None else 'features'
        return {'metrics_space': space, 'metrics': distributed.on_main(compute)}

    def write(self, judged: Sequence[JudgedSet]) -> None:
        """Write the table, and the gallery of the first set."""

        def write() -> None:
            if self.extras.table is not None:
                write_image_table(self.extras.table, judged)
            if self.extras.gallery is not None:
                first = torch.from_numpy(judged[0].images.pixels[:GALLERY_SIZE])
                write_gallery(self.extras.gallery, first, self.reference, self.training)

        distributed.on_main(write)


def table_of_records(records: Sequence[dict[str, Any]]) -> str:
    """One line for each set of images, to be read."""
    rows = [('images', 'count', 'copies', '95 % interval', 'mean distance')]
    for record in records:
        interval = f'{100 * record["ratio_low"]:.2f} to {100 * record["ratio_high"]:.2f} %'
        ratio, distance = f'{100 * record["ratio"]:.2f} %', f'{record["mean_distance"]:.2f}'
        rows.append((record['images'], str(record['num_images']), ratio, interval, distance))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ([text.rjust(width) for text, width in zip(row, widths, strict=True)] for row in rows)
    return '\n'.join('  '.join([row[0].ljust(widths[0]), *line[1:]]) for row, line in zip(rows, lines, strict=True))

"""Shows which training images a point's best snapshot copies, as numbers and in a gallery."""

from io import BytesIO
from pathlib import Path

import torch

from dataset_utils import open_source
from dnnlib.util import UserError
from evaluation.copied import copied_images, copied_record, draw_copied
from evaluation.memorization import memorized
from studies.report.finding import percent
from studies.report.gallery import best_images
from studies.report.page import PageFigure

# Largest number of images in the gallery, and number of images per row. The gallery must be readable on a phone.
MOST_SHOWN, IMAGES_PER_ROW = 12, 6


def copied_parts(folder: Path, num_duplicates: int) -> tuple[list[tuple[str, str]], PageFigure | None]:
    """Return facts about a point's copied training images, as (name, value) pairs, and a gallery of these images.

    The facts are [] if the generated images or the training set are missing. The gallery is None in this case, and also
    if there are no copies.
    """
    best = best_images(folder)
    if best is None:
        return [], None
    try:
        source = open_source(folder / 'data.zip')
        labels = None if source.labels is None else torch.tensor(source.labels)
        copies = memorized(best.squared_distances[:, 0], best.squared_distances[:, 1])
        copied = copied_images(copies, best.indices[:, 0], labels)
        num_distinct = len(source) - num_duplicates
        record = copied_record(copied, num_distinct, labels)
        facts = [
            ('Training images copied', f'{record["num_images"]:,} of {num_distinct:,} ({percent(record["share"])})')
        ]
        if record['classes']:
            classes = (f'{entry["class"]} ({entry["copies"]:,})' for entry in record['classes'])
            facts.append(('Classes copied most often (number of copies)', ', '.join(classes)))
        if not copied:
            return facts, None
        training = torch.from_numpy(source.load().transpose(0, 3, 1, 2).copy())
        data = BytesIO()
        squared, sizes = best.squared_distances[:, 0], (MOST_SHOWN, IMAGES_PER_ROW)
        draw_copied(copied, best.images, training, 'Best snapshot', *sizes, squared).save(data, format='PNG')
        which = (
            f' copied most often ({MOST_SHOWN} of {len(copied):,})' if len(copied) > MOST_SHOWN else ' that are copied'
        )
        caption = f'Training images{which}, each with up to two of its copies'
        return facts, PageFigure(caption, caption, data.getvalue())
    except (UserError, IndexError, RuntimeError):
        return [], None  # the training set cannot be read, or differs from the one used in the evaluation

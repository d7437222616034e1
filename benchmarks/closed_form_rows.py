"""Draw one row of images for each folder of generated images, with the same seeds in every row.

python -m benchmarks.closed_form_rows --row=optimum=images-optimal --row=network=images-network --dest=rows.png
"""

from pathlib import Path

import click
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from dnnlib.util import UserError, report_errors
from evaluation.pictures import save_png

CELL, GAP, LABELS = 48, 4, 150


@click.command()
@report_errors
@click.option('--row', 'rows', multiple=True, required=True, help='NAME=DIR: label and folder of a row of PNGs.')
@click.option('--count', type=int, default=10, help='Number of images in a row, starting with the first.')
@click.option('--dest', type=Path, required=True, help='PNG file to write.')
def main(rows: tuple[str, ...], count: int, dest: Path) -> None:
    """Draw the rows into one PNG."""
    picture = PIL.Image.new('RGB', (LABELS + count * (CELL + GAP), len(rows) * (CELL + GAP) - GAP), 'white')
    draw, font = PIL.ImageDraw.Draw(picture), PIL.ImageFont.load_default(18)
    for place, row in enumerate(rows):
        name, _, folder = row.partition('=')
        paths = sorted(Path(folder).glob('[0-9]*.png'))[:count]
        if len(paths) < count:
            raise UserError(f'{folder} has {len(paths)} images, fewer than --count={count}')
        top = place * (CELL + GAP)
        draw.text((LABELS - 8, top + CELL // 2), name, 'black', font, anchor='rm')
        for column, path in enumerate(paths):
            with PIL.Image.open(path) as image:
                cell = image.convert('RGB').resize((CELL, CELL), PIL.Image.Resampling.NEAREST)
            picture.paste(cell, (LABELS + column * (CELL + GAP), top))
    save_png(dest, picture)


if __name__ == '__main__':
    main()

"""The page of a study as one self-contained HTML file: the parts that a page can have, and how they are written.

`Page` is a sequence of sections, each a sequence of blocks; `write_page` writes any, and `studies.report.sections`
makes the sections of a study. The file has no scripts, styles, fonts or images outside of itself, and its policy
forbids browsers to load any.
"""

import base64
import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import jinja2
import numpy as np
import PIL.Image

from dnnlib.util import atomic_file
from studies.report.gallery import GalleryItem

TEMPLATES = Path(__file__).resolve().parent / 'templates'
_LONGEST_LIST = 24  # entries of a list in a configuration; those beyond are counted


class Block:
    """A part of a section. kind: the macro of parts.html.j2 that draws it."""

    kind: ClassVar[str]


@dataclass(frozen=True)
class Sentences(Block):
    """Paragraphs. style: 'lead' (large), 'plain', or 'warning'."""

    kind = 'sentences'
    texts: Sequence[str]
    style: str = 'plain'


@dataclass(frozen=True)
class Cell:
    """A cell of a table. detail: on a second line. share: in [0, 1], drawn as a bar behind the text. anchor: of the
    training that it links to."""

    text: str
    detail: str = ''
    share: float | None = None
    anchor: str | None = None


@dataclass(frozen=True)
class PageTable(Block):
    """A table. left: number of leading text columns, aligned to the left; the others hold numbers."""

    kind = 'table'
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    left: int = 1
    note: str = ''


@dataclass(frozen=True)
class PageFigure(Block):
    """A figure. alt: what it shows, in words. data: the bytes of a PNG or SVG file."""

    kind = 'figure'
    caption: str
    alt: str
    data: bytes


@dataclass(frozen=True)
class Strips(Block):
    """Rows of generated images above their nearest training images, each with its caption."""

    kind = 'strips'
    rows: Sequence[tuple[str, Sequence[GalleryItem]]]
    note: str = ''


@dataclass(frozen=True)
class PagePoint:
    """One training and its evaluation. Unknown fields are empty, and omitted from the page.

    anchor: its identifier on the page, letters, digits and dashes. group: of the points that share its factor values.
    state: 'left', 'running', 'stopped', 'failed' or 'done'. ratio: of memorized images, in [0, 1]. headline: the ratio
    in words. facts: further numbers with their names. message: of a point that is not done, the last line of its log.
    copied: the training images copied most. gallery: closest to the threshold first. gallery_note: how many of all
    images it shows.
    """

    anchor: str
    name: str
    group: str = ''
    size: int = 0
    state: str = 'done'
    ratio: float | None = None
    headline: str = ''
    facts: Sequence[tuple[str, str]] = ()
    message: str = ''
    figure: PageFigure | None = None
    copied: PageFigure | None = None
    configuration: dict[str, Any] = field(default_factory=dict)
    commands: Sequence[str] = ()
    gallery: Sequence[GalleryItem] = ()
    gallery_note: str = ''


@dataclass(frozen=True)
class Trainings(Block):
    """All trainings, folded, with buttons that choose which images of their galleries are shown."""

    kind = 'trainings'
    points: Sequence[PagePoint]

    @property
    def groups(self) -> list[tuple[str, list[PagePoint]]]:
        """Points by group, in the order in which the groups first appear."""
        groups: dict[str, list[PagePoint]] = {}
        for point in self.points:
            groups.setdefault(point.group, []).append(point)
        return list(groups.items())

    @property
    def gallery(self) -> list[GalleryItem]:
        """The items of all galleries."""
        return [item for point in self.points for item in point.gallery]


@dataclass(frozen=True)
class Section:
    """A section with its heading. name: its identifier on the page, in lower case."""

    name: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """Everything that a page shows, in this order. Texts are plain, without markup.

    updated: when it was written, and the progress of the study. refreshes: whether a browser loads it again every few
    seconds, because the study is still running.
    """

    title: str
    description: str = ''
    updated: str = ''
    refreshes: bool = False
    sections: Sequence[Section] = ()


def write_page(path: Path, page: Page) -> None:
    """Write the page as one HTML file, completely or not at all."""
    html = render_page(page)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write(html.encode())


def render_page(page: Page) -> str:
    """The page as HTML. The same page gives the same text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {'data_uri': data_uri, 'pixels_uri': pixels_uri, 'entries': entries}
    script = (TEMPLATES / 'page.js').read_text(encoding='utf-8')
    return environment.get_template('page.html.j2').render(
        page=page,
        style=(TEMPLATES / 'page.css').read_text(encoding='utf-8'),
        script=script,
        # The only script that a browser runs here: a name in a study file cannot add another.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def data_uri(data: bytes) -> str:
    """A PNG or SVG file as a data URI."""
    kind = 'image/png' if data.startswith(b'\x89PNG') else 'image/svg+xml'
    return f'data:{kind};base64,{base64.b64encode(data).decode()}'


def pixels_uri(image: np.ndarray) -> str:
    """uint8 [C, H, W], grey or RGB, as the data URI of a PNG."""
    pixels = np.ascontiguousarray(image.transpose(1, 2, 0))
    picture = PIL.Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    data = io.BytesIO()
    picture.save(data, format='PNG', optimize=True)
    return data_uri(data.getvalue())


def entries(configuration: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """Keys of a configuration, each with a text or a nested configuration."""
    for key, value in configuration.items():
        yield str(key), value if isinstance(value, dict) and value else _setting(value)


def _setting(value: Any) -> str:
    if isinstance(value, list | tuple):
        more = f', … ({len(value)} in all)' if len(value) > _LONGEST_LIST else ''
        return ', '.join(map(_setting, value[:_LONGEST_LIST])) + more or 'none'
    if isinstance(value, bool):
        return 'yes' if value else 'no'
    return 'none' if value is None or value == {} else str(value)

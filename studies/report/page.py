"""The parts of a study's page, and `write_page`, which writes them as one self-contained HTML file.

A `Page` is a sequence of sections, and a section is a sequence of blocks; `studies.report.sections` makes the sections
for a study. The file needs no external scripts, styles, fonts or images, and its content security policy forbids
browsers to load any.
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
_LONGEST_LIST = 24  # a longer list in a configuration is cut off after this many entries, and ends with its length


class Block:
    """A part of a section. kind: name of the macro in parts.html.j2 that renders the block."""

    kind: ClassVar[str]


@dataclass(frozen=True)
class Sentences(Block):
    """Paragraphs. style: 'lead' (large), 'plain', or 'warning'."""

    kind = 'sentences'
    texts: Sequence[str]
    style: str = 'plain'


@dataclass(frozen=True)
class Cell:
    """A table cell.

    detail: text on a second line. share: a number in [0, 1], drawn as a bar behind the text. anchor: identifier of the
    training run that the cell links to.
    """

    text: str
    detail: str = ''
    share: float | None = None
    anchor: str | None = None


@dataclass(frozen=True)
class PageTable(Block):
    """A table. left: number of leading text columns, which are left-aligned; the remaining columns contain numbers."""

    kind = 'table'
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    left: int = 1
    note: str = ''


@dataclass(frozen=True)
class PageFigure(Block):
    """A figure. alt: a description in words. data: the content of a PNG or SVG file."""

    kind = 'figure'
    caption: str
    alt: str
    data: bytes


@dataclass(frozen=True)
class Strips(Block):
    """Rows of generated images above their nearest training images, each row with a caption."""

    kind = 'strips'
    rows: Sequence[tuple[str, Sequence[GalleryItem]]]
    note: str = ''


@dataclass(frozen=True)
class PagePoint:
    """One training run and its evaluation. Fields without a known value are empty, and the page omits them.

    anchor: identifier on the page (letters, digits and dashes). group: heading shared by points with the same factor
    values. state: 'left', 'running', 'stopped', 'failed' or 'done'. ratio: memorization ratio, in [0, 1]. headline: the
    ratio in words. facts: further numbers, as (name, value) pairs. message: the last log line of an unfinished point.
    copied: figure of the training images copied most often. gallery: generated images; those closest to the threshold
    come first.
    gallery_note: a sentence about the images in the gallery.
    """

    anchor: str
    name: str
    group: str = ''
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
    """All training runs, collapsed, with buttons that choose which images the galleries show."""

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
    """A section with a heading. name: its identifier on the page, in lower case."""

    name: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """Everything on a page, in display order. Texts are plain, without markup.

    updated: when the page was written, and the study's progress. refreshes: whether the browser reloads the page every
    few seconds, because the study is still running.
    """

    title: str
    description: str = ''
    updated: str = ''
    refreshes: bool = False
    sections: Sequence[Section] = ()


def write_page(path: Path, page: Page) -> None:
    """Write the page as one HTML file. If writing fails, an earlier file at this path remains unchanged."""
    html = render_page(page)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write(html.encode())


def render_page(page: Page) -> str:
    """Render the page as HTML. The result depends only on `page`."""
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
        # Browsers run only the script with this hash, so text in a study file cannot inject another script.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def data_uri(data: bytes) -> str:
    """Encode a PNG or SVG file as a data URI."""
    kind = 'image/png' if data.startswith(b'\x89PNG') else 'image/svg+xml'
    return f'data:{kind};base64,{base64.b64encode(data).decode()}'


def pixels_uri(image: np.ndarray) -> str:
    """Encode a grey or RGB image as a PNG data URI. image: uint8 [C, H, W]."""
    pixels = np.ascontiguousarray(image.transpose(1, 2, 0))
    picture = PIL.Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    data = io.BytesIO()
    picture.save(data, format='PNG', optimize=True)
    return data_uri(data.getvalue())


def entries(configuration: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """Yield each key of a configuration with its value: a text or a nested configuration."""
    for key, value in configuration.items():
        yield str(key), value if isinstance(value, dict) and value else _setting(value)


def _setting(value: Any) -> str:
    if isinstance(value, list | tuple):
        more = f', … ({len(value)} in total)' if len(value) > _LONGEST_LIST else ''
        return ', '.join(map(_setting, value[:_LONGEST_LIST])) + more or 'none'
    if isinstance(value, bool):
        return 'yes' if value else 'no'
    return 'none' if value is None or value == {} else str(value)

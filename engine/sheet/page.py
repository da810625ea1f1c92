"""A contact sheet as one HTML file that needs nothing else: no script, no font, no address."""

from __future__ import annotations

import base64
import html
import io

from PIL import Image

from engine.inert import inert
from engine.sheet.values import Cell, Row, Sheet

QUALITY = 92
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Nothing in the page can reach anywhere, whatever a prompt says."""
STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1c1c; --dim: #5f5f5f; --line: #d7d7d7;
  --accent: #d7005f; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #121212; --ink: #d8d8d8; --dim: #a8a8a8; --line: #3a3a3a; --accent: #ff5f87; }
}
body { margin: 1.5rem; background: var(--paper); color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.3rem; margin: 0 0 .2rem; border-left: .3rem solid var(--accent); padding-left: .6rem; }
p { margin: .2rem 0 .8rem; color: var(--dim); }
.sheet { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { padding: .35rem; text-align: left; vertical-align: top; font-weight: normal; }
thead th { position: sticky; top: 0; background: var(--paper); max-width: 20rem; color: var(--dim); }
tbody th { position: sticky; left: 0; background: var(--paper); white-space: nowrap; }
tbody tr { border-top: 1px solid var(--line); }
img { display: block; max-width: min(22vw, 512px); min-width: 128px; height: auto; cursor: zoom-in; }
img:focus { max-width: none; outline: .2rem solid var(--accent); cursor: default; }
small { color: var(--dim); }
"""


def page_of(sheet: Sheet) -> str:
    """The whole page. All words from files and prompts are escaped."""
    heads = "".join(f"<th scope=col>{_words(name)}</th>" for name in sheet.columns)
    rows = "\n".join(_row(row) for row in sheet.rows)
    notes = "".join(f"<p>{_words(line)}</p>" for line in sheet.left_out)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{_words(sheet.title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{_words(sheet.title)}</h1>
<p>{sheet.pictures} pictures on {_words(sheet.base)}. Click a picture to see it at its own size.</p>
{notes}<div class="sheet"><table>
<thead><tr><td></td>{heads}</tr></thead>
<tbody>
{rows}
</tbody>
</table></div>
</body>
</html>
"""


def _row(row: Row) -> str:
    cells = "".join(f"<td>{_cell(cell, row.label)}</td>" for cell in row.cells)
    return f"<tr><th scope=row>{_words(row.label)}</th>{cells}</tr>"


def _cell(cell: Cell, label: str) -> str:
    shot = cell.shot
    if cell.path is None:
        return f"<small>{_words(cell.note)}</small>"
    told = (
        f"{shot.prompt}\n{label}, {shot.sampler}, {shot.steps} steps, guidance {shot.guidance:g}, "
        f"seed {shot.seed}, {shot.width} x {shot.height}"
    )
    with Image.open(cell.path) as picture:
        size = f'width="{picture.width}" height="{picture.height}"'
        data = _jpeg(picture)
    words = html.escape(inert(told.replace("\n", " - "), 1000), quote=True)
    source = f"data:image/jpeg;base64,{data}"
    return f'<img src="{source}" {size} alt="{words}" title="{words}" tabindex="0">'


def _jpeg(picture: Image.Image) -> str:
    body = io.BytesIO()
    picture.convert("RGB").save(body, "JPEG", quality=QUALITY, subsampling=0)
    return base64.b64encode(body.getvalue()).decode("ascii")


def _words(text: str) -> str:
    return html.escape(inert(text, 1000), quote=True)

"A web page in one file: text, tables, code, and pictures inside it; nothing is fetched from anywhere"
import base64
from html import escape
from pathlib import Path

__all__ = []

_CSS = """
:root { color-scheme: light; }
body { font: 17px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
       color: #1d2329; background: #fff; max-width: 60rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 2.1rem; line-height: 1.2; margin: 0 0 .6rem; }
h2 { font-size: 1.35rem; margin: 2.8rem 0 .6rem; }
p, li { max-width: 46rem; }
.lead { font-size: 1.15rem; color: #3c4650; }
.tiles { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1.6rem 0; }
.tile { flex: 1 1 14rem; border: 1px solid #d9dee3; border-top: 5px solid var(--c, #0072B2); border-radius: 6px;
        padding: .9rem 1.1rem; }
.tile b { display: block; font-size: 2rem; line-height: 1.2; }
.tile span { color: #55606b; font-size: .92rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .42rem .55rem; text-align: right; border-bottom: 1px solid #e3e7eb; }
td { white-space: nowrap; }
th:first-child, td:first-child { text-align: left; font-weight: 600; }
thead th { border-bottom: 2px solid #1d2329; vertical-align: bottom; }
figure { margin: 1.4rem 0; }
.sheet { display: flex; flex-wrap: wrap; gap: 1.1rem .9rem; margin: 1.2rem 0; }
.card { width: 7.3rem; font-size: .86rem; line-height: 1.35; overflow-wrap: anywhere; }
.card img { width: 7.3rem; height: 7.3rem; object-fit: contain; background: #f4f6f8; border-radius: 4px; }
.card s { color: #a33f00; }
.card b { display: block; }
.card i { color: #55606b; font-style: normal; font-size: .78rem; }
img { max-width: 100%; height: auto; }
figcaption { color: #55606b; font-size: .93rem; max-width: 46rem; }
pre { background: #f4f6f8; border-left: 4px solid #0072B2; padding: 1rem 1.2rem; overflow-x: auto; font-size: .88rem;
      line-height: 1.5; }
code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
ul.small { font-size: .92rem; color: #3c4650; }
footer { margin-top: 3rem; padding-top: 1rem; border-top: 1px solid #d9dee3; color: #55606b; font-size: .9rem; }
@media print { body { padding: 0; } h2 { break-after: avoid; } figure, pre { break-inside: avoid; } }
"""

def para(text, cls=''):
    if cls: return f'<p class="{cls}">{escape(text)}</p>'
    return f'<p>{escape(text)}</p>'

def heading(text): return f'<h2>{escape(text)}</h2>'

def code(text): return f'<pre><code>{escape(text)}</code></pre>'

def bullets(items):
    rows = ''.join(f'<li>{escape(o)}</li>' for o in items)
    return f'<ul class="small">{rows}</ul>'

def tiles(items):
    "Big numbers: (number, what it is, colour) each"
    tile = '<div class="tile" style="--c: {2}"><b>{0}</b><span>{1}</span></div>'
    all_tiles = ''.join(tile.format(escape(a), escape(b), c) for a,b,c in items)
    return f'<div class="tiles">{all_tiles}</div>'

def table(df):
    "DataFrame of strings"
    head = ''.join(f'<th>{escape(str(k))}</th>' for k in ['', *df.columns])
    body = ''
    for i,row in df.iterrows():
        cells = ''.join(f'<td>{escape(str(v))}</td>' for v in (i, *row))
        body += f'<tr>{cells}</tr>'
    return (f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
            f'<tbody>{body}</tbody></table></div>')

def figure(path, caption, alt):
    "The PNG at `path`, as part of the page"
    data = base64.b64encode(Path(path).read_bytes()).decode()
    return (f'<figure><img src="data:image/png;base64,{data}" alt="{escape(alt)}">'
            f'<figcaption>{escape(caption)}</figcaption></figure>')

def page(title, parts, foot=''):
    "The whole document"
    title,foot = escape(title),escape(foot)
    head = ('<head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<title>{title}</title><style>{_CSS}</style></head>')
    body = '\n'.join(parts)
    return (f'<!DOCTYPE html>\n<html lang="en">{head}<body>\n'
            f'<h1>{title}</h1>\n{body}\n<footer>{foot}</footer></body></html>\n')

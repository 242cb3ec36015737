"The page an audit leaves: how many labels are wrong, which ones most likely, how to go on, and what it cannot know"
import base64, io, platform
from pathlib import Path
import pandas as pd
import fastai, torch
from PIL import Image
from fastrobust import __version__
from fastrobust.reporting import page as html

__all__ = []

WORST = 60      # Images on the page; all are in issues.csv

def _png(file, side=128):
    "The image as PNG for the page, at most `side` pixels"
    with Image.open(file) as im:
        grey = im.mode in ('1', 'L', 'I;16', 'I')
        im = im.convert('L' if grey else 'RGB')
        im.thumbnail((side, side))
        buf = io.BytesIO()
        im.save(buf, 'PNG')
    return base64.b64encode(buf.getvalue()).decode()

def sure(v): return '> 99%' if v > .99 else f'{v:.0%}'
def _pct(v): return f'{v:.1%}' if v < .1 else f'{v:.0%}'

def rate_words(rep):
    "The noise rate with its interval, in a sentence"
    n = len(rep.table)
    return (f"About {_pct(rep.rate)} of the {n:,} labels are wrong, that is {round(rep.rate*n):,} "
            f"images; anything between {_pct(rep.lo)} and {_pct(rep.hi)} agrees with what was "
            "seen.")

def by_class(t):
    "Items and suspects of each given class, and what they are most often taken for"
    rows,count = {},{}
    for k,g in t.groupby('given'):
        sus = g[g.flagged]
        top = sus.suggested.value_counts()
        taken = f'{top.index[0]} ({top.iloc[0]})' if len(top) else ''
        rows[k] = [f'{len(g):,}', f'{len(sus):,}', f'{len(sus)/len(g):.1%}', taken]
        count[k] = len(sus)
    columns = ['images', 'suspects', 'share', 'most often taken for']
    df = pd.DataFrame.from_dict(rows, 'index', columns=columns)
    return df.loc[sorted(df.index, key=lambda k: -count[k])]

def _code(listing, out, size):
    def load(label):
        if any(Path(o).is_absolute() for o in listing.paths):
            return (f"label = {{path/f: k for f,k in zip(df.path, df.{label})}}\n"
                    "dls = ImageDataLoaders.from_path_func(path, list(label), lambda f: label[f], "
                    f"{how}, {tfm})")
        return (f"dls = ImageDataLoaders.from_df(df, path, fn_col='path', label_col={label!r}, "
                f"{how},\n{' '*31}{tfm})")

    tfm = f'item_tfms=Resize({size})'
    how,own = 'valid_pct=.2',''
    if listing.split:
        a,b = (o+'/' for o in listing.split)
        how = "valid_col='is_valid'"
        own = (f"df  = df[df.path.str.startswith(({a!r}, {b!r}))]"
               f".assign(is_valid=df.path.str.startswith({b!r}))\n")
    less = ''
    if listing.skipped: less = f"; the {len(listing.skipped)} left out are not in it"
    return f'''from fastai.vision.all import *
from fastrobust.all import *

path = Path({str(listing.root.resolve())!r})

# the images that were looked at, with your labels and the suggested ones{less}
df  = pd.read_csv({str((out/'fixed.csv').resolve())!r}, dtype=str, keep_default_na=False)
{own}
# your labels, the suspects left out of the training set (files are found by name)
{load('given')}
dls = fix_labels(dls, {str((out/'issues.csv').resolve())!r}, how='drop')

# or the suggested labels
{load('label')}'''

def limits(rep):
    "What a reader must know before believing the numbers"
    notes = [o[0].upper() + o[1:] for o in rep.notes]
    return [*notes,
            "A suspicion is no proof: rare but right images are among the suspects. Look before "
            "you delete.",
            "An image that is none of the classes cannot get a right label here. Write drop beside "
            "it.",
            "Images shown twice, of the same thing or file, vouch for each other's wrong labels."]

def _tiles(rep, n_suspects):
    "The three numbers of the page"
    return [(_pct(rep.rate), f'of the labels wrong, {_pct(rep.lo)} to {_pct(rep.hi)}', '#D55E00'),
            (f'{n_suspects:,}', f'suspects among {len(rep.table):,} images', '#E69F00'),
            (f'{rep.acc:.1%}', 'of the given labels predicted by networks that did not see them',
             '#0072B2')]

def _worst(rep, root, bad):
    "Heading, sentence and pictures of the suspects; without any, of what fits its label least"
    title,some = 'No suspects: these fit their label least',''
    shown = rep.table[:12]
    if len(bad):
        title = 'The worst first'
        shown = bad[:WORST]
        some = f"{len(shown)} of {len(bad):,} suspects; about {rep.precision:.0%} are wrong. "
    cards = [(_png(root/r.name_), r.given, r.suggested, sure(r.confidence), r.name_)
             for r in shown.rename(columns=dict(name='name_')).itertuples()]
    return [html.heading(title),
            html.para(some + "Struck through: the label as given. Below it: the one suggested by a "
                      "network that was trained without this image, and how probable it is."),
            html.sheet(cards)]

def _left_out(skipped):
    "What could not be looked at, and why"
    parts = [html.heading('Left out'), html.bullets([f'{p}: {why}' for p,why in skipped[:50]])]
    if len(skipped) > 50: parts.append(html.para(f'.. and {len(skipped)-50:,} more.'))
    return parts

def audit_page(
    rep,        # `NoiseReport`, its table with relative paths as `name`
    listing,    # What was audited
    out,        # Folder of the CSV files
    pics,       # Name -> (PNG file, caption, alt)
    settings,   # Sentences: how it was done
    size        # Pixels, for the code
):
    "The report as HTML"
    t = rep.table
    bad = t[t.flagged]
    parts = [html.para(rate_words(rep), 'lead'),
             html.tiles(_tiles(rep, len(bad))),
             *_worst(rep, listing.root, bad),
             html.heading('How to go on'),
             html.bullets(["Look: issues.csv has every image, the most suspicious first. In its "
                           "column decision write keep, drop or the right class; fix_labels takes "
                           "the file back, rows in any order.",
                           "fixed.csv has the suggested label wherever one is suspected, and says "
                           "so in its column.",
                           "Nothing was changed in your files."]),
             html.code(_code(listing, out, size)),
             html.heading('Where the suspects are'),
             html.table(by_class(t)),
             *[html.figure(*v) for v in pics.values()],
             html.heading('What this cannot know'),
             html.bullets(limits(rep))]
    if listing.skipped: parts += _left_out(listing.skipped)
    parts += [html.heading('How this was measured'), html.bullets(settings)]
    foot = (f'fastrobust {__version__}, fastai {fastai.__version__}, torch {torch.__version__}, '
            f'Python {platform.python_version()}.')
    return html.page(f'Label audit of {listing.root.resolve().name or "your images"}', parts, foot)

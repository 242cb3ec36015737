"The page an audit leaves: how many labels are wrong, which ones, how to go on, what it cannot know"
import base64, io, platform
from html import escape
import pandas as pd
import fastai, torch
from PIL import Image
from fastrobust import __version__
from fastrobust.audit.words import (chance_words, headline, not_judged, nothing_shown,
                                    precision_words)
from fastrobust.labels.words import pct, unjudged
from fastrobust.reporting import page as html

__all__ = []

WORST = 60      # Images on the page; all are in issues.csv

# --- parts ----------------------------------------------------------------------------------------
def _png(file, side=128):
    "The image as PNG for the page, at most `side` pixels"
    with Image.open(file) as im:
        grey = im.mode in ('1', 'L', 'I;16', 'I')
        im = im.convert('L' if grey else 'RGB')
        im.thumbnail((side, side))
        buf = io.BytesIO()
        im.save(buf, 'PNG')
    return base64.b64encode(buf.getvalue()).decode()

def _banner(first, sentences):
    "What stands in place of numbers"
    style = ('border-left: 6px solid #D55E00; background: #fdf3ec; padding: .8rem 1.2rem; '
             'margin: 1.4rem 0')
    text = html.para(first, 'lead') + ''.join(map(html.para, sentences))
    return f'<div class="banner" style="{style}">{text}</div>'

def _card(png, r, trusted):
    "One image: its label, struck through where it is called wrong, and the suggested one"
    name,given,other = (escape(str(o)) for o in (r.name_, r.given, r.suggested))
    if trusted and r.flagged: given = f'<s>{given}</s>'
    parts = [f'<img src="data:image/png;base64,{png}" alt="{name}">', f'<div>{given}</div>']
    if r.suggested != r.given:
        parts.append(f'<b>{other}</b>' if trusted else f'<div>or {other}?</div>')
    if trusted and chance_words(r): parts.append(f'<div>{chance_words(r)}</div>')
    return f'<div class="card">{"".join(parts)}<i>{name}</i></div>'

def by_class(rep):
    "Items and suspects of each given class, and what they are most often taken for"
    rows,count = {},{}
    out = {rep.vocab[k] for k in unjudged(rep)}
    for k,g in rep.table.groupby('given'):
        sus = g[g.flagged]
        top = sus.suggested.value_counts()
        taken = f'{top.index[0]} ({top.iloc[0]})' if len(top) else ''
        rows[k] = [f'{len(g):,}', f'{len(sus):,}', f'{len(sus)/len(g):.1%}', taken]
        if k in out: rows[k] = [f'{len(g):,}', 'not judged', '', '']
        count[k] = len(sus)
    columns = ['images', 'suspects', 'share', 'most often taken for']
    df = pd.DataFrame.from_dict(rows, 'index', columns=columns)
    return df.loc[sorted(df.index, key=lambda k: -count[k])]

def limits():
    "What a reader must know before believing any such list"
    return ["A suspicion is no proof: rare but right images are among the suspects. Look before "
            "you delete.",
            "An image that is none of the classes cannot get a right label here. Write drop beside "
            "it.",
            "Photographs of the same thing, alike but no copies, vouch for each other's wrong labels. "
            "Copies, or nearly so, are left out together."]

# --- sections -------------------------------------------------------------------------------------
def _tiles(rep, n_suspects):
    "The three numbers of the page"
    rate = (pct(rep.rate), f'of the labels wrong, {pct(rep.lo)} to {pct(rep.hi)}', '#D55E00')
    if nothing_shown(rep):
        says = 'of the labels wrong; nothing shows for certain that any is'
        rate = (f'0 to {pct(rep.hi)}', says, '#D55E00')
    sus = f'suspects among {len(rep.table):,} images'
    if n_suspects: sus += '; ' + precision_words(rep)
    return [rate, (f'{n_suspects:,}', sus, '#E69F00'),
            (f'{rep.acc:.1%}', 'of the labels agree with the judge, which had not seen them',
             '#0072B2')]

def _top(rep, said, n_suspects):
    "What was found, or why nothing can be told; caveats; who judged"
    if rep.trusted:
        parts = [html.para(headline(rep), 'lead'), html.tiles(_tiles(rep, n_suspects))]
    else: parts = [_banner(headline(rep), said)]
    parts.append(html.para(f'Judge: {rep.judge}.'))
    if rep.trusted: parts.append(html.bullets(said))
    left = not_judged(rep)
    if left:
        parts += [html.para('Not judged:'), html.bullets(left)]
    return parts

def _pictured(rep, root, bad):
    "Heading, sentence and pictures: of the suspects, else of what comes first"
    chance = ''
    if bad.wrong.notna().any(): chance = ' Then the chance that the given label is wrong.'
    if not rep.trusted:
        title,shown = 'To look at',rep.table[:WORST]
        text = (f"The first {len(shown):,} of {len(rep.table):,} images in the order of suspicion. None "
                "of these labels is called wrong: the order says where to look first. Below each "
                "image its label, and what else it may be.")
    elif len(bad):
        title,shown = 'The worst first',bad[:WORST]
        text = (f"{len(shown):,} of {len(bad):,} suspects; {precision_words(rep)}. Struck through: "
                f"the label as given. Below it: the one that is suggested.{chance}")
    else:
        title,shown = 'No suspects: these fit their label least',rep.table[:12]
        text = "Below each image its label, and what else it may be. None of these is called wrong."
    rows = shown.rename(columns=dict(name='name_')).itertuples()
    cards = ''.join(_card(_png(root/r.name_), r, rep.trusted and len(bad) > 0) for r in rows)
    return [html.heading(title), html.para(text), f'<div class="sheet">{cards}</div>']

def _files(written):
    "What to do with the files that were written"
    res = ["Look: issues.csv has every image, the most suspicious first. In its column decision "
           "write keep, drop or the right class; fix_labels takes the file back, rows in any order."]
    if 'fixed.csv' in written:
        res.append("fixed.csv has the suggested label wherever one is suspected, and says so in its "
                   "column action. Nobody has looked at these.")
    return [*res, "Nothing was changed in your files."]

def _left_out(skipped):
    "What could not be looked at, and why"
    parts = [html.heading('Left out'), html.bullets([f'{p}: {why}' for p,why in skipped[:50]])]
    if len(skipped) > 50: parts.append(html.para(f'.. and {len(skipped)-50:,} more.'))
    return parts

def audit_page(
    rep,        # `NoiseReport`, its table with relative paths as `name`
    listing,    # What was audited
    said,       # Sentences beside the numbers, as `remarks` gives them
    written,    # Names of the CSV files
    code,       # Lines to paste
    pics,       # Name -> (PNG file, caption, alt)
    how         # Sentences: how it was done
):
    "The report as HTML"
    bad = rep.table[rep.table.flagged & rep.trusted]
    parts = [*_top(rep, said, len(bad)), *_pictured(rep, listing.root, bad),
             html.heading('How to go on'), html.bullets(_files(written)), html.code(code)]
    if rep.trusted: parts += [html.heading('Where the suspects are'), html.table(by_class(rep))]
    parts += [html.figure(*v) for v in pics.values()]
    parts += [html.heading('What this cannot know'), html.bullets(limits())]
    if listing.skipped: parts += _left_out(listing.skipped)
    parts += [html.heading('How this was measured'), html.bullets(how)]
    foot = (f'fastrobust {__version__}, fastai {fastai.__version__}, torch {torch.__version__}, '
            f'Python {platform.python_version()}.')
    return html.page(f'Label audit of {listing.root.resolve().name or "your images"}', parts, foot)

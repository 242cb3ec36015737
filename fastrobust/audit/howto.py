"The code a report gives to paste: it runs as it is, and changes nothing that nobody has looked at"
import numpy as np
from fastrobust.labels.reviewing import clashing

__all__ = []

def _splitter(split):
    if not split: return 'RandomSplitter(.2, seed=0)'
    return f'FuncSplitter(lambda f: f.relative_to(path).parts[0] == {split[1]!r})'

def _batch(n):
    "A batch size as an argument, '' where fastai's is good"
    return '' if n >= 512 else f', bs={2**int(np.log2(max(n//8, 1)))}'

def _loading(listing, out, size):
    "Lines that load all images that were looked at, with their labels as given"
    n,own,less = round(.8*len(listing.paths)),'',''
    if listing.split:
        a,b = (o+'/' for o in listing.split)
        n = sum(o.startswith(a) for o in listing.paths)
        own = f'df   = df[df.name.str.startswith(({a!r}, {b!r}))]\n'
    if listing.skipped: less = f"; the {len(listing.skipped)} left out are not in it"
    return f'''from fastai.vision.all import *
from fastrobust.all import *

path = Path({str(listing.root.resolve())!r})
file = Path({str((out/'issues.csv').resolve())!r})

# the images that were looked at, with your labels{less}
# (saved by a spreadsheet with semicolons: sep=';')
df   = pd.read_csv(file, dtype=str, keep_default_na=False)
{own}label = dict(zip([path/o for o in df.name], df.given))
block = DataBlock((ImageBlock, CategoryBlock(sorted(set(df.given)))), get_y=lambda f: label[f],
                  splitter={_splitter(listing.split)}, item_tfms=Resize({size}))
dls   = block.dataloaders(list(label), path=path{_batch(n)})
'''

_DECISIONS = '''
# what you wrote into the column decision of issues.csv; the validation set keeps its labels
dls_reviewed = fix_labels(dls, df[['item', 'name', 'given', 'decision']].assign(flagged=False))
'''

_WEIGHTS = '''
# or, without looking: suspects stay, but are drawn less often, by their chance to be right
told = df[df.wrong != '']
dls_weighted = fix_labels(dls, told[['item', 'name', 'given', 'flagged', 'wrong']], how='weight')
'''

def code(
    rep,        # `NoiseReport`
    listing,    # What was audited
    out,        # Folder of the CSV files
    size        # Pixels
):
    "Lines to paste"
    res = _loading(listing, out, size)
    if not clashing(rep.vocab): res += _DECISIONS
    t = rep.table
    if rep.trusted and (t.flagged & ~np.isnan(t.wrong)).any(): res += _WEIGHTS
    return res.strip()

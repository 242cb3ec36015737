"The audit: images of a folder or a CSV, a judge that has not seen them, a page of what it found"
import os, shutil, tempfile, textwrap
from itertools import count
from pathlib import Path
import numpy as np
from fastrobust.audit.files import read_source
from fastrobust.audit.howto import code
from fastrobust.audit.judges import FrozenJudge, TrainedJudge, need_together
from fastrobust.audit.loading import loaders
from fastrobust.audit.network import SCRATCH, need_network
from fastrobust.audit.page import audit_page
from fastrobust.audit.words import chance_words, headline, not_judged, nothing_shown, remarks
from fastrobust.basics import robust_warn
from fastrobust.labels.planting import few_share
from fastrobust.labels.reviewing import clashing, read_cells
from fastrobust.labels.pictures import plot_noise_matrices
from fastrobust.reporting.report import saving
from fastrobust.reporting.style import save_figure

__all__ = ['audit']

_LEAVES = 'issues.csv','fixed.csv','rate.png','matrix.png','report.html'    # The page last
_FORCED = ("fixed.csv was written because it was asked for (--force). How many of its changes are right "
           "cannot be told: look at each of them.")

class Stopped(KeyboardInterrupt): "An audit was stopped; says what it leaves"

def _say_found(listing, names):
    less = f'; {len(listing.skipped)} left out' if listing.skipped else ''
    print(f"{len(listing.paths):,} images, {len(names)} classes{less}", flush=True)
    for p,why in listing.skipped[:5]: print(f"  left out: {p}: {why}")
    clash = clashing(names)
    if clash:
        robust_warn(f"a class is called {clash[0]!r}, so a decision of that name in issues.csv has "
                    "two meanings. Rename it before you write decisions.")

# --- what it leaves -------------------------------------------------------------------------------
def keep_decisions(out):
    "Put an issues.csv with decisions aside, before a new one takes its place"
    old = out/'issues.csv'
    try: said = read_cells(old).get('decision')
    except (OSError, ValueError): return
    if said is None or not said.str.strip().ne('').any(): return
    aside = next(f for i in count(1) if not (f := out/f'issues-reviewed-{i}.csv').exists())
    os.replace(old, aside)
    robust_warn(f"issues.csv of an earlier audit holds decisions: it is {aside.name} now. fix_labels takes it "
                "as long as your labels are those it was made of.")

def _csvs(rep, tmp, fixed):
    t = rep.table
    t.assign(decision='').to_csv(tmp/'issues.csv')
    if not fixed: return
    f = t.sort_values('item')
    swap = f.flagged & rep.judged[rep.given[f['item']]]
    f = f.assign(path=f.name, label=np.where(swap, f.suggested, f.given),
                 action=np.where(swap, 'relabel', 'keep'))
    f[['path', 'label', 'action', 'given', 'wrong']].to_csv(tmp/'fixed.csv', index=False)

def _pictures(rep, tmp):
    "Figures of a report whose numbers hold"
    import matplotlib.pyplot as plt
    if not rep.trusted: return {}
    pics = {}
    with plt.rc_context({'font.size': 11}):
        save_figure(rep.plot(), tmp/'rate.png', 110)
        pics['rate'] = (tmp/'rate.png', "How the rate was found: labels are changed on purpose. What "
                        "the judge makes of these planted errors tells how it treats the unknown "
                        "ones. Right: estimates of the same share beside each other; the first two "
                        "count.", 'Planted and other labels, and the estimates')
        if len(rep.vocab) <= 40 and not nothing_shown(rep):
            matrix = plot_noise_matrices({'Estimated noise matrix': rep.T}, rep.vocab)
            save_figure(matrix, tmp/'matrix.png', 110)
            pics['matrix'] = (tmp/'matrix.png', "Which class is given for which, as estimated: rows "
                              "are what an image shows, columns what it is called.",
                              'Estimated noise matrix')
    return pics

def _write(rep, listing, out, said, how, size, fixed):
    "All files come into `out` when all are there, the page last; others of an earlier audit go"
    with saving(out):
        out.mkdir(parents=True, exist_ok=True)
        tmp = Path(tempfile.mkdtemp(prefix='.audit-', dir=out))
        try:
            _csvs(rep, tmp, fixed)
            written = sorted(o.name for o in tmp.iterdir())
            pics,lines = _pictures(rep, tmp),code(rep, listing, out, size)
            page = audit_page(rep, listing, said, written, lines, pics, how)
            (tmp/'report.html').write_text(page, encoding='utf-8')
            keep_decisions(out)
            for name in _LEAVES:
                if (tmp/name).exists(): os.replace(tmp/name, out/name)
                else: (out/name).unlink(missing_ok=True)
        finally: shutil.rmtree(tmp, ignore_errors=True)
    return written

# --- what it says ---------------------------------------------------------------------------------
def _told(text, first='', more=''):
    print(textwrap.fill(text, 100, initial_indent=first, subsequent_indent=more or ' '*len(first),
                        break_long_words=False, break_on_hyphens=False))

def _tell(rep, said, out, written):
    "The page in short"
    print()
    _told(headline(rep))
    for o in said: _told(o, '- ')
    _told(f'Judge: {rep.judge}.')
    left = not_judged(rep)
    if left: _told(f"Not judged: {', '.join(left)}.")
    bad = rep.table[rep.table.flagged & rep.trusted]
    first = bad if len(bad) else rep.table
    if len(bad): print(f"\n{len(bad):,} {'suspect' if len(bad) == 1 else 'suspects'}, the worst first:")
    else: print(f"\n{'No suspects. ' if rep.trusted else ''}To look at first:")
    for r in first[:8].rename(columns=dict(name='name_')).itertuples():
        chance = chance_words(r) if len(bad) else ''
        also = f", {'looks like' if len(bad) else 'or'} {r.suggested}" if r.suggested != r.given else ''
        print(f"  {r.name_}: given {r.given}{also}{chance and f' ({chance})'}")
    print(f"\nThe images: {out/'report.html'}   (open it in a browser)\n"
          f"To edit and give back to fix_labels: {out/'issues.csv'}")
    if 'fixed.csv' in written:
        print(f"The same images, suggested labels in place of suspects: {out/'fixed.csv'}")

# --- all of it ------------------------------------------------------------------------------------
def audit(
    source,             # Folder of class folders (also inside train/ and valid/), or a CSV of paths and labels
    out='./fastrobust-audit', # Folder for report.html, issues.csv, fixed.csv, figures
    *,
    # Frozen: a torchvision or timm name, pretrained, or 'plain' (gradients and colours); 'small' is
    # trained. None: resnet18, 'plain' where its weights cannot be had
    arch:str=None,
    weights=None,       # File with a state dict of `arch`, for machines without network
    train:bool=False,   # Train networks in folds instead of a frozen one? `arch='small'` does
    size:int=None,      # Pixels; None: 224, plain and trained 128; small images their own
    epochs:int=None,    # Trained: of each fold; None: 4 of `fine_tune`, for 'small' 8 to 20
    folds:int=None,     # Trained: networks, each judges the images it has not seen; None: 3
    plant:float=.05,    # Share of the labels changed on purpose to measure by; one at the least
    draws:int=None,     # Frozen: times that labels are changed; None: 5
    seed:int=0,         # Of planted errors, folds and training
    bs:int=None,        # Images at a time; None: 64, trained 8 to 64 by the number of images
    force:bool=False    # Write fixed.csv also where the report cannot be trusted?
):
    "Audit the labels of image files: writes the report, returns the `NoiseReport`"
    need_together(arch, weights, train, folds, epochs, draws)
    need_network(arch, weights)
    out = Path(out)
    listing = read_source(source, out)
    names = sorted(set(listing.labels))
    _say_found(listing, names)
    judge:TrainedJudge|FrozenJudge
    if train or arch == SCRATCH:
        judge = TrainedJudge(listing, arch, weights, size, epochs, folds, bs, out)
    else: judge = FrozenJudge(listing, arch, weights, size, draws, bs, out)
    if plant: plant = few_share(plant, len(listing.paths))
    try:
        dls = loaders(listing, names, judge.loading)
        print(f"{judge.what}; {judge.settings()}, device {dls.device}", flush=True)
        rep = judge.report(dls, plant, seed)
        rep.table['name'] = [listing.paths[i] for i in rep.table['item']]
        said = remarks(rep, judge)
        holds = rep.trusted and rep.precision_lo > 0
        fixed = holds or force
        if force and not holds: said.append(_FORCED)
        with_what = f"{judge.what}; {judge.settings()}, seed {seed}, device {dls.device}."
        how = [*judge.how(plant), with_what]
        written = _write(rep, listing, out, said, how, judge.loading.size, fixed)
    except KeyboardInterrupt: raise Stopped(judge.kept()) from None
    judge.clean()
    _tell(rep, said, out, written)
    return rep

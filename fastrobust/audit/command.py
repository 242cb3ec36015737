"The audit: images of a folder or a CSV, networks that have not seen them, a page with the labels that look wrong"
import os, shutil, tempfile, zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np
from PIL import Image, ImageOps
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.transforms import IndexSplitter, Normalize
from fastai.vision.augment import Resize
from fastai.vision.core import imagenet_stats
from fastai.vision.data import ImageBlock
from fastrobust.audit.files import read_source
from fastrobust.audit.network import BODY, DEFAULT, SMALL, learner_maker
from fastrobust.audit.page import audit_page, rate_words, sure
from fastrobust.data.fromarrays import array_dls
from fastrobust.labels.outoffold import OtherRun, drop_folds
from fastrobust.labels.pictures import plot_noise_matrices
from fastrobust.labels.report import noise_report
from fastrobust.reporting.report import saving
from fastrobust.reporting.style import save_figure

__all__ = ['audit']

# --- the data -------------------------------------------------------------------------------------
def _small_images(listing, size):
    "All images as one array: small ones are read once"
    mode = 'L' if listing.grey else 'RGB'
    def read(p):
        with Image.open(listing.root/p) as im:
            return np.asarray(ImageOps.fit(im.convert(mode), (size, size)))
    with ThreadPoolExecutor() as pool:
        return np.stack(list(pool.map(read, listing.paths)))

def _loaders(listing, names, small, size, bs):
    "fastai loaders over all images; nothing is held out, the folds do that"
    if small:
        X = _small_images(listing, size)
        return array_dls(X, listing.labels, valid=(X[:1], listing.labels[:1]), vocab=names, bs=bs)
    label = {listing.root/p: k for p,k in zip(listing.paths, listing.labels)}
    normalize = Normalize.from_stats(*imagenet_stats)
    block = DataBlock((ImageBlock, CategoryBlock(names)), get_y=lambda f: label[f],
                      splitter=IndexSplitter([]), item_tfms=Resize(size), batch_tfms=normalize)
    return block.dataloaders(list(label), bs=bs, path=listing.root)

def _settings(n, small, side, size, epochs, bs):
    "What was not said: few images need small batches and more epochs (rules of thumb)"
    if not bs: bs = int(np.clip(n//28, 8, 64))
    if not size:
        size = max(16, min(side, SMALL['side'])) if small else BODY['side']
    if epochs is None:
        epochs = int(np.clip(225*bs//n, *SMALL['epochs'])) if small else BODY['epochs']
    return size,epochs,bs

def _say_found(listing, names):
    less = f'; {len(listing.skipped)} left out' if listing.skipped else ''
    print(f"{len(listing.paths):,} images, {len(names)} classes{less}", flush=True)
    for p,why in listing.skipped[:5]: print(f"  left out: {p}: {why}")

# --- what it leaves -------------------------------------------------------------------------------
def _csvs(rep, tmp):
    t = rep.table
    t.assign(decision='').to_csv(tmp/'issues.csv')
    f = t.sort_values('item')
    label = np.where(f.flagged, f.suggested, f.given)
    action = np.where(f.flagged, 'relabel', 'keep')
    fixed = f.assign(path=f.name, label=label, action=action)
    columns = ['path', 'label', 'action', 'given', 'confidence']
    fixed[columns].to_csv(tmp/'fixed.csv', index=False)

def _pictures(rep, names, tmp):
    import matplotlib.pyplot as plt
    pics = {}
    with plt.rc_context({'font.size': 11}):
        if rep.draw is not None:
            save_figure(rep.plot(), tmp/'rate.png', 110)
            pics['rate'] = (tmp/'rate.png', "How the rate was found: a known share of the labels "
                            "was changed before the training. What the networks make of these "
                            "planted errors tells how they treat the unknown ones. Right: "
                            "estimates of the same share beside each other; the first two count.",
                            'Planted and other labels, and the estimates')
        if len(names) <= 40:
            matrix = plot_noise_matrices({'Estimated noise matrix': rep.T}, names)
            save_figure(matrix, tmp/'matrix.png', 110)
            pics['matrix'] = (tmp/'matrix.png', "Which class is given for which, as estimated: "
                              "rows are what an image shows, columns what it is called.",
                              'Estimated noise matrix')
    return pics

def _write(rep, listing, names, out, said, size):
    "All files of the report: they come into `out` when all are there, the page last"
    with saving(out):
        out.mkdir(parents=True, exist_ok=True)
        tmp = Path(tempfile.mkdtemp(prefix='.audit-', dir=out))
        try:
            _csvs(rep, tmp)
            page = audit_page(rep, listing, out, _pictures(rep, names, tmp), said, size)
            (tmp/'report.html').write_text(page, encoding='utf-8')
            for f in sorted(tmp.iterdir(), key=lambda f: f.suffix == '.html'):
                os.replace(f, out/f.name)
        finally: shutil.rmtree(tmp, ignore_errors=True)
        drop_folds(out/'folds')

def audit(
    source,             # Folder of class folders (also inside train/ and valid/), or a CSV of paths and labels
    out='./fastrobust-audit', # Folder for report.html, issues.csv, fixed.csv, figures; till then finished folds
    *,
    arch:str=None,      # 'small', a torchvision or timm name; None: pretrained resnet18, 'small' where none can be had
    weights=None,       # File with a state dict for `arch`, for machines without network
    size:int=None,      # Pixels; None: 128, for 'small' the images' own up to 64
    epochs:int=None,    # Of each fold; None: 4 of `fine_tune`, for 'small' 8 to 20
    folds:int=3,        # Networks, each judges the images it was not trained on
    plant:float=.05,    # Share of the labels changed on purpose to measure by
    seed:int=0,         # Of folds, planted errors and training
    bs:int=None         # Batch size; None: 8 to 64 by the number of images
):
    "Audit the labels of image files: writes the report, returns the `NoiseReport`"
    out = Path(out)
    listing = read_source(source, out)
    names = sorted(set(listing.labels))
    _say_found(listing, names)
    if weights is not None and (arch or DEFAULT) == 'small':
        raise ValueError("--weights are of a pretrained network, got --arch small. Name theirs: "
                         "--arch resnet18.")
    make,what,small = learner_maker(arch, weights)
    size,epochs,bs = _settings(len(listing.paths), small, listing.side, size, epochs, bs)
    dls = _loaders(listing, names, small, size, bs)
    how = f'{size} pixels, {epochs} epochs, batches of {bs}'
    print(f"{what}; {how}, {folds} folds, device {dls.device}", flush=True)

    crc = '' if weights is None else zlib.crc32(Path(weights).read_bytes())
    run = dict(n_folds=folds, plant=plant, seed=seed, epochs=epochs, path=out/'folds',
               tag=f'{what}; {how}; weights {crc}')
    try: rep = noise_report(make, dls, **run)
    except OtherRun:
        print(f"folds of other labels or settings in {out/'folds'}: deleted", flush=True)
        drop_folds(out/'folds')
        rep = noise_report(make, dls, **run)
    rep.table['name'] = [listing.paths[i] for i in rep.table['item']]
    said = [f"Each image was judged by a network that had not seen it: {folds} folds, {what}; "
            f"{how}, seed {seed}, device {dls.device}.",
            f"{plant:.0%} of the labels were changed at random before the training, to measure by; "
            "your labels are as they were."]
    _write(rep, listing, names, out, said, size)
    _tell(rep, out)
    return rep

def _tell(rep, out):
    bad = rep.table[rep.table.flagged]
    end = ', the worst:' if len(bad) else '.'
    print(f"\n{rate_words(rep)}\n{len(bad):,} suspects{end}")
    for r in bad[:8].rename(columns=dict(name='name_')).itertuples():
        print(f"  {r.name_}: given {r.given}, looks like {r.suggested} ({sure(r.confidence)})")
    print(f"\nThe images: {out/'report.html'}   (open it in a browser)\n"
          f"To edit and give back to fix_labels: {out/'issues.csv'}   "
          f"With suggested labels: {out/'fixed.csv'}")

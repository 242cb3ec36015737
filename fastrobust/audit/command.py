"The audit: images of a folder or a CSV, networks that have not seen them, a page with the labels that look wrong"
import inspect, os, shutil, tempfile, zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np
import torch, torchvision
from PIL import Image, ImageOps
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.transforms import IndexSplitter, Normalize
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.vision.augment import Resize
from fastai.vision.core import imagenet_stats
from fastai.vision.data import ImageBlock
from fastai.vision.learner import create_body, model_meta, vision_learner, _default_meta
from fastrobust.audit.files import read_source
from fastrobust.audit.page import audit_page, rate_words, sure
from fastrobust.basics import nearest, robust_warn
from fastrobust.data.arrays import array_dls
from fastrobust.labels.report import noise_report
from fastrobust.labels.outoffold import OtherRun, drop_folds
from fastrobust.losses import GCELoss
from fastrobust.nets import small_cnn
from fastrobust.labels.pictures import plot_noise_matrices
from fastrobust.reporting.report import saving
from fastrobust.reporting.style import save_figure

__all__ = ['audit']

DEFAULT = 'resnet18'
SMALL = dict(lr=3e-3, side=64, epochs=(8, 20))  # From scratch: learning rate, largest images; 150 steps at least
BODY  = dict(epochs=4, side=128)    # Pretrained: epochs of `fine_tune`, size of the images
FORGIVING = 20                      # Classes up to which GCE learns fast enough; it keeps folds from learning errors

# --- the network -----------------------------------------------------------------------------------------------------
def _arch(name):
    "Architecture of that name: a function of torchvision, or a name timm knows"
    f = getattr(torchvision.models, name, None)
    if inspect.isfunction(f): return f
    try: import timm
    except ImportError: known = []
    else: known = timm.list_models()
    if name in known: return name
    both = ['small', *torchvision.models.list_models(torchvision.models), *known]
    raise ValueError(f"expected --arch small, a network of torchvision or of timm, got {name!r}. "
                     f"{nearest(name, both).split('Known')[0]}For example: resnet18, mobilenet_v3_small.")

def _load(file):
    try: sd = torch.load(file, map_location='cpu', weights_only=True)
    except FileNotFoundError: raise FileNotFoundError(f"expected weights, got {str(file)!r}, which does not exist.")
    except Exception as e:      # torch raises pickle, zip and runtime errors for what is no state dict
        raise ValueError(f"expected a state dict saved by torch.save in {str(file)!r} ({type(e).__name__}). Save "
                         "`model.state_dict()` of the architecture.") from e
    sd = sd.get('state_dict', sd.get('model', sd)) if isinstance(sd, dict) else sd
    if not isinstance(sd, dict) or not all(isinstance(v, torch.Tensor) for v in sd.values()):
        raise ValueError(f"expected a state dict (name -> tensor) in {str(file)!r}, got something else. Save "
                         "`model.state_dict()`.")
    return sd

def _into(net, sd, name, file):
    "Load `sd`, the classifier's last layer aside"
    own = net.state_dict()
    fits = {k: v for k,v in sd.items() if k in own and own[k].shape == v.shape}
    lack = [k for k in own if k not in fits]
    if len(lack) > 4:
        raise ValueError(f"expected weights of {name} in {str(file)!r}, got a file without {len(lack)} of its "
                         f"{len(own)} tensors, e.g. {lack[0]!r}. Name the architecture they are of: --arch.")
    net.load_state_dict(fits, strict=False)

def _body(arch, name, file):
    "What a new learner's body gets: the weights of `file` in the shape fastai gives the network"
    if isinstance(arch, str):
        import timm
        net = timm.create_model(arch, pretrained=False, num_classes=0)
        _into(net, _load(file), name, file)
        return {f'model.{k}': v for k,v in net.state_dict().items()}
    net = arch(weights=None)
    _into(net, _load(file), name, file)
    return create_body(net, cut=model_meta.get(arch, _default_meta)['cut']).state_dict()

def _maker(arch, weights):
    "(function dls -> learner, what it is in words, None or 'small' if it had to be that one)"
    def small(dls):
        n_in = dls.train_ds.items.x.shape[1]
        loss = GCELoss() if dls.c <= FORGIVING else CrossEntropyLossFlat()
        return Learner(dls, small_cnn(dls.c, n_in), loss_func=loss, lr=SMALL['lr'])
    scratch = 'a network of four convolutions, trained from scratch'
    if arch == 'small': return small,scratch,True
    name = arch or DEFAULT
    net = _arch(name)
    if weights is not None:
        body = _body(net, name, weights)
        def local(dls):
            learn = vision_learner(dls, net, pretrained=False, normalize=False)
            learn.model[0].load_state_dict(body)
            learn.freeze()
            return learn
        return local,f'{name} with the weights of {Path(weights).name}, fine-tuned',False
    try: _pretrained(net)
    except (OSError, RuntimeError, ValueError) as e:
        why = f"the weights of {name} could not be had ({type(e).__name__}: no network?)"
        if arch is not None:
            raise OSError(f"{why}. Give a file of them, --weights {name}.pth, or use --arch small.") from e
        robust_warn(f"{why}: {scratch} takes its place, which sees less. Better: --weights {name}.pth.")
        return small,scratch+f' ({name} pretrained would see more, its weights could not be had)',True
    return (lambda dls: vision_learner(dls, net, normalize=False)),f'{name}, pretrained, fine-tuned',False

def _pretrained(net):
    "Find out before the folds whether the weights can be had; they stay in torch's cache"
    if isinstance(net, str):
        import timm
        return timm.create_model(net, pretrained=True)
    return net(weights='DEFAULT')

# --- the data --------------------------------------------------------------------------------------------------------
def _small_images(listing, size):
    "All images as one array: small ones are read once"
    def read(p):
        with Image.open(listing.root/p) as im:
            return np.asarray(ImageOps.fit(im.convert('L' if listing.grey else 'RGB'), (size, size)))
    with ThreadPoolExecutor() as pool: return np.stack(list(pool.map(read, listing.paths)))

def _loaders(listing, names, small, size, bs):
    "fastai loaders over all images; nothing is held out, the folds do that"
    if small:
        X = _small_images(listing, size)
        return array_dls(X, listing.labels, valid=(X[:1], listing.labels[:1]), vocab=names, bs=bs)
    label = {listing.root/p: k for p,k in zip(listing.paths, listing.labels)}
    block = DataBlock((ImageBlock, CategoryBlock(names)), splitter=IndexSplitter([]), item_tfms=Resize(size),
                      get_y=lambda f: label[f], batch_tfms=Normalize.from_stats(*imagenet_stats))
    return block.dataloaders(list(label), bs=bs, path=listing.root)

def _settings(n, small, side, size, epochs, bs):
    "What was not said: few images need small batches and more epochs (rules of thumb)"
    bs = bs or int(np.clip(n//28, 8, 64))
    size = size or (max(16, min(side, SMALL['side'])) if small else BODY['side'])
    if epochs is None: epochs = int(np.clip(225*bs//n, *SMALL['epochs'])) if small else BODY['epochs']
    return size,epochs,bs

# --- what it leaves --------------------------------------------------------------------------------------------------
def _csvs(rep, listing, tmp):
    t = rep.table
    t.assign(decision='').to_csv(tmp/'issues.csv')
    f = t.sort_values('item')
    label = np.where(f.flagged, f.suggested, f.given)
    f.assign(path=f.name, label=label, action=np.where(f.flagged, 'relabel', 'keep'))[
        ['path', 'label', 'action', 'given', 'confidence']].to_csv(tmp/'fixed.csv', index=False)

def _pictures(rep, names, tmp):
    import matplotlib.pyplot as plt
    pics = {}
    with plt.rc_context({'font.size': 11}):
        if rep.draw is not None:
            save_figure(rep.plot(), tmp/'rate.png', 110)
            pics['rate'] = (tmp/'rate.png', "How the rate was found: a known share of the labels was changed before "
                            "the training. What the networks make of these planted errors tells how they treat the "
                            "unknown ones. Right: estimates of the same share beside each other; the first two count.",
                            'Planted and other labels, and the estimates')
        if len(names) <= 40:
            save_figure(plot_noise_matrices({'Estimated noise matrix': rep.T}, names), tmp/'matrix.png', 110)
            pics['matrix'] = (tmp/'matrix.png', "Which class is given for which, as estimated: rows are what an image "
                              "shows, columns what it is called.", 'Estimated noise matrix')
    return pics

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
    n,names = len(listing.paths),sorted(set(listing.labels))
    less = f'; {len(listing.skipped)} left out' if listing.skipped else ''
    print(f"{n:,} images, {len(names)} classes{less}", flush=True)
    for p,why in listing.skipped[:5]: print(f"  left out: {p}: {why}")
    if weights is not None and (arch or DEFAULT) == 'small':
        raise ValueError("--weights are of a pretrained network, got --arch small. Name theirs: --arch resnet18.")
    make,what,small = _maker(arch, weights)
    size,epochs,bs = _settings(n, small, listing.side, size, epochs, bs)
    dls = _loaders(listing, names, small, size, bs)
    print(f"{what}; {size} pixels, {epochs} epochs, batches of {bs}, {folds} folds, device {dls.device}", flush=True)
    crc = '' if weights is None else zlib.crc32(Path(weights).read_bytes())
    run = dict(n_folds=folds, plant=plant, seed=seed, epochs=epochs, path=out/'folds',
               tag=f'{what}; {size} pixels, {epochs} epochs, batches of {bs}; weights {crc}')
    try: rep = noise_report(make, dls, **run)
    except OtherRun:
        print(f"folds of other labels or settings in {out/'folds'}: deleted", flush=True)
        drop_folds(out/'folds')
        rep = noise_report(make, dls, **run)
    rep.table['name'] = [listing.paths[i] for i in rep.table['item']]
    said = [f"Each image was judged by a network that had not seen it: {folds} folds, {what}; {size} pixels, "
            f"{epochs} epochs, batches of {bs}, seed {seed}, device {dls.device}.",
            f"{plant:.0%} of the labels were changed at random before the training, to measure by; your labels are "
            "as they were."]
    with saving(out):
        out.mkdir(parents=True, exist_ok=True)
        tmp = Path(tempfile.mkdtemp(prefix='.audit-', dir=out))
        try:
            _csvs(rep, listing, tmp)
            page = audit_page(rep, listing, out, _pictures(rep, names, tmp), said, size)
            (tmp/'report.html').write_text(page, encoding='utf-8')
            for f in sorted(tmp.iterdir(), key=lambda f: f.suffix == '.html'): os.replace(f, out/f.name)
        finally: shutil.rmtree(tmp, ignore_errors=True)
        drop_folds(out/'folds')
    _tell(rep, out)
    return rep

def _tell(rep, out):
    bad = rep.table[rep.table.flagged]
    print(f"\n{rate_words(rep)}\n{len(bad):,} suspects" + (", the worst:" if len(bad) else "."))
    for r in bad[:8].rename(columns=dict(name='name_')).itertuples():
        print(f"  {r.name_}: given {r.given}, looks like {r.suggested} ({sure(r.confidence)})")
    print(f"\nThe images: {out/'report.html'}   (open it in a browser)\n"
          f"To edit and give back to fix_labels: {out/'issues.csv'}   With suggested labels: {out/'fixed.csv'}")

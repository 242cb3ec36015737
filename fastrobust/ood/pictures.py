"Pictures of what a network does not know: unknown images it is sure about, known ones it doubts"
import math
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from fastrobust.basics import need_whole, target_vocab
from fastrobust.inference.collect import collect
from fastrobust.inference.loaders import loaders_of, need_image
from fastrobust.inference.passes import AtRest
from fastrobust.ood.metrics import auroc, fpr_at_tpr
from fastrobust.ood.report import ood_report
from fastrobust.reporting.style import BLUE, VERMILION, bare, new_figure

__all__ = ['show_unknowns']

_ME,_UNKNOWN,_KNOWN = 'show_unknowns',VERMILION,BLUE

def pictures(learn, data, ids, who=_ME):
    "The images of `data` at positions `ids`, pixels in [0,1] as they are before Normalize, (h,w,c) each"
    ids = list(ids)
    found,at = {},0
    with AtRest(learn, who) as rest:
        for dl in loaders_of(learn, data, who)[0]:
            for xb,_ in rest.read(dl, cut=True):
                x = need_image(xb, who)
                for i in ids:
                    if at <= i < at+len(x):
                        found[i] = x[i-at].as_subclass(Tensor).cpu()
                at += len(x)
                if len(found) == len(set(ids)):
                    return [_pixels(found[i]) for i in ids]
    raise ValueError(f"{who} expected the same images in every pass, got {at} of them the second "
                     "time. Give a loader that does not sample.")

def _pixels(x):
    whole = not x.is_floating_point()
    x = x.float()
    if whole: x = x/255
    return x.clamp(0, 1).permute(1, 2, 0).numpy()

def _share(p):
    "A probability in words: 100 % is never reached"
    return f'{100*p:.1f} %' if p < .9995 else '> 99.9 %'

def _short(name):
    if len(name) <= 16: return name
    return name[:15].rstrip() + '…'

def _panel(fig, title, color, images, above, below):
    cols = min(4, len(images))
    rows = math.ceil(len(images)/cols)
    axs = fig.subplots(rows, cols, squeeze=False)
    fig.suptitle(title, color=color, fontsize=11)
    for ax in axs.flat[len(images):]: ax.set_axis_off()
    for ax,im,up,down in zip(axs.flat, images, above, below):
        if im.shape[-1] == 1: im = im[..., 0]
        ax.imshow(im, cmap='gray', vmin=0, vmax=1)
        bare(ax).set_title(up, fontsize=8.5, loc='left')
        ax.set_xlabel(down, fontsize=8.5, loc='left')
        ax.spines[:].set(color=color, linewidth=2)

def _answers(said, k, y, vocab):
    "What images of known classes were taken for, and whether rightly"
    out = []
    for o,j,t in zip(said, k, y):
        if t == j: out.append(f'{o} ✓\n ')
        else: out.append(f'{o} ✗\nis {_short(str(vocab[t]))}')
    return out

def show_unknowns(
    learn,          # A Learner that classifies images; stays as it is, its recorder and random streams too
    unknown,        # Images of no class: array (n,h,w[,c]), fastai DataLoader or `OpenSet`
    score='msp',    # Name in `OOD_SCORES`, or an `OODScore`
    *,
    n:int=8,        # Images on each side
    dl=None,        # Known images, a loader or as `unknown`; None: the validation set
    figsize=None,   # Size in inches; None: by `n`
    title=None      # Above the picture
)->Figure:
    "The unknown images that score highest, with the class they are taken for, beside the known ones that score lowest"
    need_whole('n', n, 1, what='images', fix="8 fill a notebook's width.")
    if isinstance(unknown, dict):
        raise TypeError(f"{_ME} expected one set of unknown images, got a dict of {len(unknown)}. "
                        "Give one of them.")
    report = ood_report(learn, {'unknown': unknown}, scores=(score,), dl=dl)
    vocab = target_vocab(learn.dls)
    known = learn.dls.valid if dl is None else dl
    (name,s), = report.scores.items()
    a,b = torch.as_tensor(s['id']),torch.as_tensor(s['unknown'])

    def side(data, scores, largest):
        "Images, what they are taken for, and how sure that is"
        out = collect(learn, data, _ME, labels=None)
        ids = scores.argsort(descending=largest, stable=True)[:n].tolist()
        p,k = out.z[ids].double().softmax(1).max(1)
        p,k = p.tolist(),k.tolist()
        above = [_short(str(vocab[j])) for j in k]
        if data is not known:
            above = [f'taken for\n{o}' for o in above]
        elif out.y is not None:
            above = _answers(above, k, out.y[ids].tolist(), vocab)
        below = [f'{_share(q)}, {name} {scores[i]:#.3g}' for q,i in zip(p, ids)]
        return pictures(learn, data, ids),above,below

    left = side(unknown, b, True)
    right = side(known, a, False)
    n_left,n_right = len(left[0]),len(right[0])
    most = max(n_left, n_right)
    cols = min(4, most)
    rows = math.ceil(most/4)
    if not figsize:
        figsize = max(7, 2.9*cols+.4),2.2*rows+.7
    fig = new_figure(figsize)
    subs:np.ndarray = fig.subfigures(1, 2, wspace=.04)  # type: ignore[assignment]
    _panel(subs[0], f'Unknown: the surest {n_left} of {len(b):,}', _UNKNOWN, *left)
    _panel(subs[1], f'Known: the most doubted {n_right} of {len(a):,}', _KNOWN, *right)
    found = f'FPR95 {fpr_at_tpr(a, b, positive=report.positive):.3f}, AUROC {auroc(a, b):.3f}'
    fig.suptitle(title or f'Where the {name} score is fooled ({found})')
    return fig

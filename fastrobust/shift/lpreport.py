"`lp_report`: how a learner holds under random noise of many Lp norms and sizes"
# Siedel et al., VISAPP 2024, https://arxiv.org/abs/2305.05400: mCE_Lp is the mean error over a set
# of such noise, iCE the relative rise of the error under six barely visible kinds. Noise comes
# before Normalize, sizes are in pixels.
import hashlib, math
import pandas as pd
import torch
from fastrobust.basics import need_learner, need_whole, plain_dl
from fastrobust.images.lpballs import perturbed
from fastrobust.images.lpsets import as_lp_set, lp_sets, norm_name
from fastrobust.inference.notes import Bar, noisy_labels_note
from fastrobust.inference.passes import passes, wrong
from fastrobust.reporting.report import Report
from fastrobust.reporting.style import INK, VERMILION, new_figure, tidy
from fastrobust.shift.metrics import ice
from fastrobust.techniques.lpnoise import LpNoise

__all__ = ['lp_report']

# Images that share a generator: whole blocks are drawn however the set is cut into batches
_BLOCK = 64
_ROOM = 2**26   # Logits kept at once, 256 MB

# --- the noise ------------------------------------------------------------------------------------
def lp_change(
    p,          # Which norm: in (0,inf], or 0 for L0
    eps,        # Bound on the norm in pixels; L0: fraction of the values
    kind='ball',# 'ball' or 'sphere', as in `lp_noise`
    *,
    seed=0      # Of the noise
):
    "Function (x, ids) -> x for `shifted_preds`: image `id` gets the same noise whatever the batch size and device"
    s = as_lp_set((p, eps, kind))
    need_whole('seed', seed)
    eps = float(s.eps)
    def generator(block):
        whose = repr((int(seed), s.p, eps, s.kind, block))
        key = hashlib.blake2b(whose.encode(), digest_size=7).digest()
        return torch.Generator().manual_seed(int.from_bytes(key, 'big'))

    e = torch.tensor(eps, dtype=torch.float64)
    def change(x, ids):
        out = x.clone()
        ids = torch.as_tensor(ids).cpu()
        block = ids.div(_BLOCK, rounding_mode='floor')
        for b in block.unique().tolist():
            rows = (block == b).nonzero()[:, 0]
            at = rows.to(x.device)
            to = (ids[rows] % _BLOCK).to(x.device)
            whole = x.new_zeros(_BLOCK, *x.shape[1:])
            whole[to] = x[at]
            whole = perturbed(whole, s.p, e, s.kind, generator(b))
            out[at] = whole[to]
        return out
    return change

# --- the numbers ----------------------------------------------------------------------------------
def _sets(preset, sets, size, table, scale):
    "Pairs of a set as it is named and as it is applied"
    if sets is not None:
        named = used = [as_lp_set(o) for o in sets]
    else:
        named = lp_sets(preset, size, table=table, scale=None)
        used = lp_sets(preset, size, table=table, scale=scale)
    moving = [s for s in used if isinstance(s.eps, tuple)]
    if moving or not used:
        raise ValueError(f"expected sets of fixed sizes, got {moving[:2] or 'none'}. Give a preset "
                         "'C1', 'C2', 'C3' or a list such as [(2, 1.), (2, 2.5)].")
    return list(zip(named, used))

def _ratio_se(clean, noisy):
    "Standard error of sum noisy/sum clean, by image: the two errors are paired, so most of the scatter cancels"
    n,e = len(clean),clean.mean()
    if not (n > 1 and e > 0): return math.nan
    apart = noisy - noisy.mean()/e*clean
    return (apart.std()/e/math.sqrt(n)).item()

def _se(v):
    n = len(v)
    return (v.std()/math.sqrt(n)).item() if n > 1 else math.nan

def _wrong(learn, dl, sets, seed, n, tick):
    "Whether the learner errs, per set and image (s,n); so many sets at a time that what is kept fills no memory"
    out = []
    k = max(1, _ROOM//n)
    for i in range(0, len(sets), k):
        changes = [lp_change(*s, seed=seed) for s in sets[i:i+k]]
        rows,_ = passes(learn, dl, changes, 'lp_report', tick, wrong)
        out += rows
    return torch.stack(out).double()

def _summary(clean, wrong, six):
    "Single numbers; errors of the images: without noise (n,), under the sets (s,n), under the imperceptible ones (6,n)"
    e = clean.mean().item()
    each = wrong.mean(0)
    unseen = six.mean(0)
    rise = unseen-clean
    rel = float(ice(e, six.mean(1).tolist())) if e > 0 else math.nan
    s = dict(clean_error=e, clean_se=_se(clean),
             mCE_Lp=each.mean().item(), mCE_Lp_se=_se(each),
             iCE=rel, iCE_se=_ratio_se(clean, unseen),
             rise=rise.mean().item(), rise_se=_se(rise), images=len(clean))
    return pd.Series(s, dtype=object)

def _notes(learn, s, scaled, seed):
    notes = [f"Every image with its own noise, drawn once (seed {seed}); se: standard error over "
             f"images. mCE_Lp: mean of the rows, {s.mCE_Lp:.4f} ± {s.mCE_Lp_se:.4f}; without noise "
             f"{s.clean_error:.4f}.",
             "iCE = (mean error under six barely visible kinds of noise - error without)/error "
             f"without, {s.iCE:.2%} ± {s.iCE_se:.2%}, its standard error from the differences "
             "within each image."]
    if s.clean_error == 0:
        notes.append("Without noise there is no error, so no iCE: see `rise`, the difference.")
    elif not abs(s.iCE) > 2*s.iCE_se + 1e-9:
        notes.append("iCE is within 2 standard errors of 0: chance of this sample of images, not a "
                     "finding.")
    if scaled:
        notes.append("Sizes adapted to the images: `applied` = (d/d0)^(1/p) `eps`, the same noise "
                     "per value.")
    pipe = getattr(plain_dl(learn.dls.train), 'after_batch', None)
    ours = [f for f in getattr(pipe, 'fs', []) if isinstance(f, LpNoise)]
    seen = dict.fromkeys(o for f in ours for o in f.norms)
    if seen:
        notes.append(f"Trained with noise of {', '.join(seen)}: these norms are not unseen.")
    return notes

# --- the picture ----------------------------------------------------------------------------------
def _draw(rep, figsize=None):
    "Error against size, one panel per norm"
    groups = list(rep.table.groupby('norm', sort=False))
    cols = min(3, len(groups))
    lines = math.ceil(len(groups)/cols)
    fig = new_figure(figsize or (3.6*cols, 2.7*lines))
    axs = fig.subplots(lines, cols, squeeze=False, sharey=True)
    for ax,(norm,t) in zip(axs.flat, groups):
        t = t.sort_values('eps')
        lo,hi = t.error-2*t.se,t.error+2*t.se
        ax.axhline(rep.summary.clean_error, color=INK, ls='--', lw=1.5, label='clean')
        ax.plot(t.eps, t.error, color=VERMILION, lw=2, marker='.', label='under noise')
        ax.fill_between(t.eps, lo, hi, color=VERMILION, alpha=.2, lw=0, label='± 2 se')
        ax.set(title=norm, xlabel='fraction of the values' if norm == 'L0' else 'eps')
        tidy(ax, 'both', behind=False)
    for ax in axs.flat[len(groups):]: ax.set_visible(False)
    for ax in axs[:, 0]: ax.set_ylabel('error')
    axs[0, 0].set_ylim(bottom=0)
    axs[0, 0].legend(frameon=False)
    return axs

# --- the report -----------------------------------------------------------------------------------
def _told(s):
    "A set in words: the kind too, where it is not that of the presets"
    usual = 'ball' if s.p else 'sphere'
    return f'{norm_name(s.p)} {s.eps:g}' + ('' if s.kind == usual else f' {s.kind}')

def _table(pairs, errs):
    "A row for each pair of a set as named and as applied"
    rows = []
    for (named,used),w in zip(pairs, errs):
        noise = _told(named),norm_name(named.p),named.eps,used.eps,used.kind
        rows.append((*noise, w.mean().item(), _se(w)))
    columns = ['noise', 'norm', 'eps', 'applied', 'kind', 'error', 'se']
    return pd.DataFrame(rows, columns=columns).set_index('noise')

def lp_report(
    learn,              # A Learner that classifies images; stays as it is
    dl=None,            # Loader with labels; None: the validation loader
    preset='C1',        # 'C1', 'C2' or 'C3' of the paper; 'C1' has all 9 norms x 10 sizes
    *,
    sets=None,          # Instead: a list of (p, eps) or (p, eps, kind), never scaled
    table='auto',       # Sizes of a preset: 'cifar' (for 32 px), 'tiny' (64 px), 'auto': by the size of the images
    scale='dim',        # Adapt a preset to images of d values: sizes times (d/d0)^(1/p); None: the numbers as they are
    seed=0              # Of the noise; an image gets the same whatever the batches
)->Report:
    "Error under each noise of a set, its mean (mCE_Lp), the rise under imperceptible noise (iCE), standard errors"
    need_learner(learn)
    size = []
    def look(x, _ids):
        if x.ndim == 5:
            raise TypeError("lp_report expected a learner of images, whose sizes of noise are known "
                            f"from the paper, got one of clips {tuple(x.shape[1:])}. How it holds under "
                            "noise and lost frames tells corruption_report, how easily it is fooled "
                            "video_report.")
        size.append(tuple(x.shape[1:]))
        return x
    for _,o in _sets(preset, sets, (3, 32, 32), table, scale):
        lp_change(*o, seed=seed)      # refuse before the first pass
    (clean,),y = passes(learn, dl, [look], 'lp_report', None, wrong)
    clean = clean.double()

    pairs = _sets(preset, sets, size[0], table, scale)
    used = [s for _,s in pairs]
    six = lp_sets('imperceptible', size[0], table=table, scale=scale)
    todo = used + [s for s in six if s not in used]
    bar = Bar(learn, len(todo)*len(size))
    errs = _wrong(learn, dl, todo, seed, len(y), bar.tick)

    unseen = errs[[todo.index(o) for o in six]]
    s = _summary(clean, errs[:len(used)], unseen)
    t = _table(pairs, errs)
    notes = _notes(learn, s, (t.eps != t.applied).any(), seed)
    notes += noisy_labels_note(learn, dl, 'lp_report')
    return Report(t, s, _draw, title=f'Error under random Lp noise, {len(y):,} images',
                  notes=notes, name='lp_report')

"LpNoise: train on images with random noise of several Lp norms, each image its own norm and size"
# Siedel et al., VISAPP 2024, https://arxiv.org/abs/2305.05400. For shifted images. A batch
# transform: goes with every loss and technique. The authors draw one norm for each minibatch; here
# every image draws its own. Of two LpNoise in one DataBlock fastai keeps the last alone, as of any
# class of batch transforms, before we see them: give one LpNoise all the sets instead. With MixUp
# the noise comes first (callbacks act after batch transforms); the authors mix first. With
# AugMixTransform it comes after, as theirs does.
from numbers import Real
import torch
from fasttransform import DisplayedTransform
from fastai.data.load import DataLoader
from fastai.vision.core import TensorImage
from fastrobust.images.lpballs import check_float_images, perturbed
from fastrobust.images.lpsets import as_lp_set, lp_sets, norm_name
from fastrobust.techniques.bases.pipes import warn_of_two

__all__ = ['LpNoise']

def check_patch(patch):
    if patch is None: return None
    pair = isinstance(patch, (tuple, list)) and len(patch) == 2
    ok = pair and all(isinstance(o, Real) for o in patch)
    if not ok or not 0 < patch[0] <= patch[1] <= 1:
        raise ValueError("`patch` must be None or (lo, hi), shares of the image with 0 < lo <= hi "
                         f"<= 1, got {patch!r}. For example (.2, .7).")
    return tuple(patch)

def draw_patches(b, h, w, lo, hi):
    "`b` rectangles of the image's shape that cover U(`lo`,`hi`) of it, anywhere inside: True within, (b,1,h,w)"
    share,ty,tx = torch.rand(3, b).unbind()
    side = (lo + (hi-lo)*share).sqrt()
    def span(n, at):
        k = (side*n).round().clamp_(1, n)
        start = (at*(n-k+1)).floor()
        i = torch.arange(n)
        return (i >= start[:, None]) & (i < (start+k)[:, None])
    rows = span(h, ty)[:, :, None]
    columns = span(w, tx)[:, None]
    return (rows & columns)[:, None]

def _draw_sets(sets, b):
    "For each of `b` images: which of `sets`, and a size in its range"
    ends = [s.eps if isinstance(s.eps, tuple) else (s.eps, s.eps) for s in sets]
    lo,hi = torch.tensor(ends, dtype=torch.float64).T
    which = torch.randint(len(sets), (b,))
    share = torch.rand(b, dtype=torch.float64)
    return which,lo[which] + (hi-lo)[which]*share

class LpNoise(DisplayedTransform):
    """Batch transform: one of `sets`, its size and the noise itself drawn for each image; training only. Give one
    LpNoise all the sets: of several in one DataBlock fastai keeps only the last."""
    against = 'changed images'
    # after IntToFloatTensor (10), geometry (30) and AugMixTransform (50), before Normalize (99)
    split_idx,order = 0,60
    # corruptions of the benchmarks that it resembles: results on them say little about the rest
    overlaps = frozenset(('gaussian_noise', 'shot_noise', 'impulse_noise', 'speckle_noise'))
    def __init__(self,
        sets=None,          # List of (p, eps), (p, (lo, hi)) or (p, eps, kind), never scaled; or the name of a preset
        preset:str=None,    # 'C1', 'C2', 'C3' or the default 'modern': Linf .3, L2 10, L0 .24, each times U(0,1)
        *,
        table:str='auto',   # Sizes of a preset: 'cifar' (for 32 px), 'tiny' (64 px), 'auto': by the size of the images
        scale:str|None='dim', # Adapt a preset to images of d values: sizes times (d/d0)^(1/p), noise per value as at d0
        patch:tuple=None    # (lo, hi): noise in a random rectangle with that share of the image; theirs (.2,.7)
    ):
        if isinstance(sets, str) and preset is None: sets,preset = None,sets
        if sets is not None and preset is not None:
            raise ValueError(f"expected `sets` or `preset`, got both (preset={preset!r}). "
                             f"`lp_sets({preset!r})` gives the sets of a preset as a list, to add "
                             "yours to.")
        is_list = isinstance(sets, (list, tuple))
        if sets is not None and not (is_list and sets):
            raise ValueError(f"expected `sets` as a list with at least one (p, eps), got {sets!r}. "
                             "For example [(2, 2.5)], or the name of a preset.")
        self.patch = check_patch(patch)
        if sets is None: preset = preset or 'modern'
        self.sets = None if sets is None else [as_lp_set(o) for o in sets]
        self.preset,self.table,self.scale = preset,table,scale
        # names what is unknown right away
        if preset is not None: lp_sets(preset, table=table, scale=scale)
        super().__init__()

    def setups(self, dl:DataLoader):
        warn_of_two(self, LpNoise, dl, "To draw one kind of noise for each image, give a single "
                                       "LpNoise all the sets.")

    def sets_for(self, size):
        "The sets of noise for images of `size` (c,h,w)"
        if self.preset is None: return self.sets
        return lp_sets(self.preset, tuple(size), table=self.table, scale=self.scale)

    @property
    def norms(self):
        "Names of the norms it trains on"
        sets = self.sets_for((3, 32, 32))
        return list(dict.fromkeys(norm_name(s.p) for s in sets))

    @torch.no_grad()
    def encodes(self, x:TensorImage):
        px = check_float_images(x, 'LpNoise')
        b,_,h,w = px.shape
        sets = self.sets_for(px.shape[1:])
        which,eps = _draw_sets(sets, b)
        inside = None
        if self.patch is not None:
            inside = draw_patches(b, h, w, *self.patch).to(px.device)

        # one draw for all images of a norm
        kinds = [(s.p, s.kind) for s in sets]
        code = torch.tensor([kinds.index(k) for k in kinds])[which]
        out = px.clone()
        for i in code.unique().tolist():
            p,kind = kinds[i]
            rows = (code == i).nonzero()[:, 0]
            at = rows.to(px.device)
            out[at] = perturbed(px[at], p, eps[rows], kind)
        if inside is not None: out = torch.where(inside, out, px)
        return out.as_subclass(type(x))

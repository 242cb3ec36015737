"What methods that choose their training items share: the forget rate, small losses, two networks, and who was chosen"
# Co-teaching, https://arxiv.org/abs/1804.06872: every batch loses the share R(e) of its items,
# those with the largest losses; R rises from 0 to tau, because networks learn right labels before
# wrong ones.
import math
from numbers import Real
import numpy as np
import torch
from fastrobust.basics import check_length, progress, robust_warn, warn_unfinished
from fastrobust.training.technique import Technique

__all__ = ['forget_rate', 'n_keep']

# --- functions ------------------------------------------------------------------------------------
def forget_rate(
    tau:float,          # Final rate, in [0,1)
    epoch,              # Epochs gone by, from 0; fractions are fine
    gradual=10,         # T_k: epochs until the final rate; 10 in Co-teaching and JoCoR
    exponent:float=1.,  # c; 1 in the papers' main results
    form:str='paper'    # 'paper': tau min(e^c/T_k, 1); 'official': the code's linspace(0, tau^c, T_k), then tau
) -> float:
    "R(e), the share of a batch to leave out"
    if form not in ('paper', 'official'):
        raise ValueError(f"`form` must be 'paper' or 'official', got {form!r}.")
    if form == 'paper': return tau*min(epoch**exponent/gradual, 1.) if gradual > 0 else tau
    if epoch >= gradual: return tau
    return tau**exponent*epoch/(gradual-1) if gradual > 1 else 0.

def n_keep(
    bs:int,     # Items there are
    rate:float  # Share to leave out
) -> int:
    "How many items stay: at least one, and not one fewer than (1-rate)*bs for the way floats round"
    return max(1, math.floor((1-rate)*bs + 1e-8))

def small_loss(
    l,          # Losses (n,)
    k:int,      # How many to choose
    pool=None   # Positions among which to choose; None: all
):
    "Mask (n,) of the `k` smallest losses; ties go to the earlier item, so that runs repeat"
    if pool is None: pool = torch.arange(len(l), device=l.device)
    mask = torch.zeros(len(l), dtype=torch.bool, device=l.device)
    easy = l[pool].argsort(stable=True)[:k]
    mask[pool[easy]] = True
    return mask

def check_tau(tau):
    "A rate in [0,1): a number, or what `estimate_tau` returned"
    if isinstance(tau, (tuple, list)) and tau: tau = tau[0]
    if isinstance(tau, bool) or not isinstance(tau, Real):
        raise TypeError("`tau` must be a number in [0,1) or the result of estimate_tau, got "
                        f"{tau!r}. Pass e.g. .4.")
    if tau != tau:
        raise ValueError("`tau` must lie in [0,1), got nan, which is what estimate_tau returns where its judge cannot "
                         "tell the rate. Take a better judge or more images, or the recipe 'noisy_labels', which "
                         "needs no rate.")
    if not 0 <= tau < 1:
        raise ValueError(f"`tau` must lie in [0,1), got {tau}: it is the share of items to leave "
                         "out, about that of wrong labels. For 40 % pass .4; if unknown, "
                         "estimate_tau(make_learner, dls).")
    return float(tau)

# --- who was chosen -------------------------------------------------------------------------------
class Selection(Technique):
    "Base of techniques that train on chosen items only; remembers which, epoch by epoch"
    # rank by rank in distributed training: each process chooses within
    # its batches and remembers the items it has seen
    window = 10     # Epochs over which `score` and `noisy_ids` look back
    epochs = 0      # Epochs of the technique's life
    judges = True   # Whether being chosen is evidence that a label is right
    exclusive = 'choose the items to train on'

    def __init__(self, *rate):
        if rate:
            self.tau = check_tau(rate[0])
            self.gradual = check_length('gradual', rate[1])
        self.history = []
        self._masks,self._open,self._sums = [],None,None    # a mask: chosen by one, by all; seen

    @property
    def rate(self):
        "R(e) of the epoch under way"
        return self.tau*self.through('gradual')
    def through(self, length):
        "How far the warm-up named `length` is, in [0,1]"
        length = getattr(self, length)
        pct = self.learn.pct_train if isinstance(length, float) else None
        return progress(length, self.epochs, pct)

    def check(self, learn):
        bs = getattr(learn.dls.train, 'bs', None)
        if bs and hasattr(self, 'tau') and n_keep(bs, self.tau) < 4 <= bs:
            robust_warn(f"{self.name} keeps {n_keep(bs, self.tau)} of {bs} items: a choice among "
                        "few is mostly chance. Use larger batches; gradient accumulation does not "
                        "help, it chooses in each small batch.")

    def before_fit(self):
        for k in ('gradual', 'warmup'):
            if hasattr(self, k): warn_unfinished(self, k, self.learn)

    def before_train(self): self._open,self._sums = None,None

    def update(self, batch):
        if batch.w is None: return
        ws = batch.w if isinstance(batch.w, list) else [batch.w]
        chosen = torch.stack([w > 0 for w in ws]).detach()
        device = chosen.device
        zs = [h.main if hasattr(h, 'main') else h for h in batch.heads]
        differ = 0
        if len(zs) > 1: differ = (zs[0].argmax(1) != zs[1].argmax(1)).sum()
        counts = chosen.float().mean(0).sum(),differ,batch.n
        s = torch.stack([torch.as_tensor(o, dtype=torch.float, device=device) for o in counts])
        self._sums = s if self._sums is None else self._sums + s

        if not batch.has_ids: return
        n = len(self.learn.dls.train_ds)
        if self._open is None: self._open = torch.zeros(3, n, dtype=torch.uint8, device=device)
        marks = torch.stack([chosen.any(0), chosen.all(0), torch.ones_like(chosen[0])])
        self._open[:,batch.ids.to(device)] = marks.byte()

    def _epoch(self):
        "Numbers of the epoch so far"
        nan = float('nan')
        res = dict(kept=nan, disagree=nan)
        if self._sums is not None:
            res['kept'],res['disagree'] = (self._sums[:2]/self._sums[2]).tolist()
        rec = getattr(self.learn.dls, 'noise', None)
        if rec is None or self._open is None or len(rec) != self._open.shape[1]: return res

        seen = self._open[2].bool()
        clean = torch.as_tensor(~(rec.is_noisy | rec.is_open), device=seen.device) & seen
        s = self._open[:2].bool()
        right,chosen = (s & clean).sum().item(),s.sum().item()
        res['label_precision'] = right/chosen if chosen else nan
        res['label_recall'] = right/(2*clean.sum().item()) if clean.any() else nan
        return res

    def columns(self):
        keep = ['kept']
        if getattr(self.learn.dls, 'noise', None) is not None: keep.append('label_precision')
        e = self._epoch()
        return {k: e.get(k, float('nan')) for k in keep}

    def after_epoch(self):
        if hasattr(self.learn, 'lr_finder'): return
        if self._sums is None:      # an epoch that fit(.., start_epoch=) skips was trained before
            skip_to = getattr(getattr(self.learn, 'skip_to_epoch', None), '_skip_to', 0)
            if self.learn.epoch < skip_to: self.epochs = max(self.epochs, self.learn.epoch+1)
            return
        self.history.append(dict(epoch=self.epochs, **self._epoch()))
        if self._open is not None:
            masks = self._open.cpu().numpy().astype(bool)
            self._masks = [*self._masks[-self.window+1:], masks]
        self.epochs += 1
        self._open,self._sums = None,None

    def __getstate__(self):
        return {**super().__getstate__(), '_masks': [], '_open': None, '_sums': None}
    def state_dict(self):
        "What a later training needs to go on from here; exports and copies leave the masks behind"
        return dict(epochs=self.epochs, history=[dict(o) for o in self.history],
                    masks=[m.copy() for m in self._masks])
    def load_state_dict(self,
        state   # Of `state_dict`
    ):
        "Go on from there"
        self.epochs = state['epochs']
        self.history,self._masks = list(state['history']),list(state['masks'])

    def _need_epoch(self):
        if self._masks: return
        why = "no epoch was finished yet"
        if self.history:
            why = ("the loader did not say which items a batch has, or this is a copy or a loaded "
                   "export, which leave the masks behind")
        raise ValueError(f"expected a finished epoch with known items, got none: {why}. Fit, with "
                         "a shuffling loader that is not sorted on the fly.")

    @property
    def selected(self):
        "Mask (n,) over the training set: seen and chosen in the last epoch (by at least one network)"
        self._need_epoch()
        return self._masks[-1][0].copy()

    def score(self, i=None):
        "In [0,1], 1 = clean: share of its visits in the last `window` epochs that chose an item; NaN: no visit"
        if not self.judges:
            raise ValueError(f"{self.name} chooses items on which its networks disagree, which "
                             "says nothing about their labels. Use SampleHistory or noise_report "
                             "to rank them.")
        self._need_epoch()
        # not all: drop_last, drawing by weight, other ranks
        n = np.sum([m[2] for m in self._masks], axis=0)
        chosen = np.sum([m[:2].mean(0) for m in self._masks], axis=0)
        s = np.where(n > 0, chosen/np.maximum(n, 1), np.nan)
        return s if i is None else s[i]

    def noisy_ids(self,
        k:int=None  # How many; None: all that were chosen in less than half of the epochs
    ):
        "Positions in the training set of the items chosen least often, most suspicious first"
        s = self.score()
        order = np.argsort(s, kind='stable')
        if k is None: k = int((s < .5).sum())
        return order[:k]

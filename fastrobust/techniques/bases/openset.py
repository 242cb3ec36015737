"Open-set images beside every batch, labelled by chance: what ODNL and Open-sampling share"
# ODNL, https://arxiv.org/abs/2106.10891, and Open-sampling, https://arxiv.org/abs/2206.08802,
# differ in who draws the labels and how much a class counts. The term is on raw logits: LogitClip
# and LogitNorm act on training images alone. Each rank of distributed training has an order and
# labels of its own. Stages: rows + penalty.
import copy, math
import numpy as np
import torch
from torch.nn import functional as F
from fastai.callback.core import Callback
from fastrobust.basics import check_weight, n_classes, need_whole, plain_dl, robust_warn
from fastrobust.data.apart import (OPEN_SET_FACTS, count_copies, names_shown, parts_of,
                                   share_items, trained_open_sets, what_it_shows)
from fastrobust.data.auxrows import AuxRows, through_pipeline
from fastrobust.data.openset import made_again, made_of
from fastrobust.pixels import pixel_space
from fastrobust.training.recording import fit_starts
from fastrobust.training.stages import main_logits
from fastrobust.training.technique import Technique

__all__ = []

def _numbers(name, v):
    "`v` as a float64 tensor (c,) of numbers >= 0"
    if isinstance(v, torch.Tensor): v = v.detach().cpu()
    v = torch.as_tensor(np.asarray(v, dtype=np.float64))
    is_row = v.ndim == 1 and len(v) > 1
    if not is_row or not (torch.isfinite(v) & (v >= 0)).all() or not v.sum() > 0:
        raise ValueError(f"expected `{name}` as one number >= 0 for each class, got {v.tolist()}. "
                         "Leave it out for the same everywhere.")
    return v

class TrainedOpenSets(Callback):
    "What a learner was trained on as open set; it stays when the technique goes, so that `ood_report` can refuse it"
    name = 'trained_open_sets'
    def __init__(self,
        classes=(), # Names of what they show, as far as known
        files=(),   # Digests of paths of images in files
        images=()   # Digests of images in memory
    ):
        self.classes = list(classes)
        self.files = list(files)
        self.images = list(images)

    @classmethod
    def of(cls, learn):
        "That of a learner, which it is given if it has none"
        found = trained_open_sets(learn)
        if isinstance(found, cls): return found
        # `found`: the field of a stripped learner
        new = cls(*(getattr(found, k, ()) for k in OPEN_SET_FACTS))
        learn.add_cb(new)
        return new

    def add(self,
        aux # `AuxRows`
    ):
        "Note what of `aux` can be known later"
        for k,v in what_it_shows(aux).items():
            known = {*getattr(self, k), *v}
            setattr(self, k, sorted(known))

class OpenSetRows(Technique):
    "Add lam CE(f(x_aux), u), u drawn anew at every step from any prior (arXiv 2106.10891, 2206.08802)"
    labels,class_weight = None,None
    _made = None    # What to make generated images of, which no export contains
    exclusive = 'label open-set images, each in its own way, so that neither reaches its aim'
    def __init__(self,
        # Open-set images: array (n,h,w[,c]) or (n,c,h,w), uint8 or float in [0,1]; fastai
        # DataLoader(s), labels ignored; an `OpenSet`. Of no class of the training set
        aux,
        lam:float=1.,       # Weight > 0, or a schedule of pct_train
        *,
        labels=None,        # Probabilities of the labels (c,); None: uniform
        class_weight=None,  # Weight of each label (c,) in torch's weighted mean, sum w l/sum w; None: the plain mean
        bs:int=None,        # Open-set images a step; None: the batch's own size
        dynamic:bool=True,  # Fresh labels at every step. False: each image keeps one, which a network learns by heart
        joint_bn:bool=True  # One forward pass with the batch, common BatchNorm statistics; False: a pass of their own
    ):
        self.lam = check_weight('lam', lam)
        if labels is not None:
            labels = _numbers('labels', labels)
            if abs(labels.sum()-1) > 1e-5:
                raise ValueError("expected probabilities that sum to 1 in `labels`, got "
                                 f"{labels.sum():.6g}. Divide them by their sum.")
        if class_weight is not None: class_weight = _numbers('class_weight', class_weight)
        if labels is not None and class_weight is not None and len(labels) != len(class_weight):
            raise ValueError("OpenSetRows expected one number for each class in `labels` and in "
                             f"`class_weight`, got {len(labels)} and {len(class_weight)}. Give as "
                             "many of both.")
        self.labels,self.class_weight = labels,class_weight
        self.take(aux, bs, dynamic, joint_bn)

    def take(self, aux, bs, dynamic, joint_bn):
        "Keep images and settings that all open-set techniques have"
        if bs is not None: need_whole('bs', bs, 1, fix='None takes as many as the batch has.')
        self.aux = copy.deepcopy(aux) if isinstance(aux, AuxRows) else AuxRows(aux)
        self.bs,self.dynamic,self.joint_bn = bs,dynamic,joint_bn
        self._fixed = {}
        self._checked = False
        if not dynamic and self.aux.imgs is None:
            raise ValueError(f"{type(self).__name__} expected an array with dynamic=False, where an "
                             "image keeps its label by position, got loaders. Stack the images in "
                             "one array.")

    def __getstate__(self):
        made = self._made if self.aux.source is None else made_of(self.aux)
        return {**super().__getstate__(), '_fixed': {}, '_made': made}

    @property
    def floor(self):
        "Entropy of labels times weights, normed: the smallest mean loss where nobody can know the labels"
        if not self.dynamic: return None
        if self.labels is None and self.class_weight is None:
            try: return math.log(n_classes(self.learn.dls))
            except ValueError: return None      # loaders that do not tell their classes
        q = 1 if self.labels is None else self.labels
        if self.class_weight is not None: q = q*self.class_weight
        return torch.special.entr(q/q.sum()).sum().item()

    def check(self, learn):
        if self.aux.source is None: return
        self.check_open(learn.dls)
        self.check_enough(learn.dls.train)

    def check_enough(self, dl):
        "Say that images which come more than once in every step are learned by heart"
        n = len(self.aux)
        want = self.bs or getattr(dl, 'bs', None)
        if not want or n >= want: return
        robust_warn(f"{type(self).__name__} expected at least {want} open-set images, as many as a "
                    f"step takes, got {n}: every step repeats some, so the network "
                    "learns these by heart and little about others. Give more, or `aux_images`.")

    def check_open(self, dls):
        "Images of the training set, or of its classes, are no open set: their labels would be drawn by chance"
        who = type(self).__name__
        parts = parts_of(self.aux)
        train = plain_dl(dls.train)
        copies = count_copies(self.aux, train)
        mostly = copies and 2*copies > min(len(self.aux), len(train.dataset))
        if mostly or any(share_items(p, train) for p in parts):
            raise ValueError(f"{who} expected open-set images, got training images: their labels "
                             "would be drawn by chance. Give images of none of the classes, or "
                             "`aux_images`.")
        if copies:
            robust_warn(f"{who} expected open-set images, got {copies} training image(s) among "
                        f"{len(self.aux)}: beside their own labels they will get labels by chance. "
                        "Leave them out.")
        names = [k for k in getattr(dls, 'vocab', None) or () if isinstance(k, str)]
        vocab = {str(k).strip().casefold() for k in names}
        both = [v for k,v in names_shown(self.aux, parts).items() if k in vocab]
        if both:
            robust_warn(f"{who} got open-set images of classes of the training set "
                        f"({', '.join(both[:5])}): what they show will get labels by chance. Leave "
                        "these classes out (`open_set(.., keep)`).")

    def before_fit(self):   # a fit follows from the seed set before it; lr_find works with copies
        if not fit_starts(self.learn): return
        if self.aux.source is None and self._made: self.aux = made_again(self._made) or self.aux
        if hasattr(self.learn, 'lr_finder'): return
        self.aux.restart()
        if self.aux.source is None: return
        TrainedOpenSets.of(self.learn).add(self.aux)

    def images(self, x):
        "The next open-set images, as the training loader would give them beside its batch `x`"
        who = type(self).__name__
        if x.ndim != 4:
            raise ValueError(f"{who} adds images and expects batches (bs,c,h,w), got "
                             f"{tuple(x.shape)}.")
        # images normalised elsewhere would be of another range than the open-set ones
        if not self._checked:
            px = pixel_space(self.learn.dls)
            px.check(px.decode(x.float()), who)
            self._checked = True
        imgs = self.aux.next(self.bs or len(x))
        if imgs.shape[1] != x.shape[1]:
            raise ValueError(f"{who} expected open-set images of {x.shape[1]} channel(s) like the "
                             f"training images, got {imgs.shape[1]}. Convert them (grey: mean over "
                             "channels; colour: repeat).")
        r = through_pipeline(imgs, self.learn.dls.train, x.device)
        if r.shape[2:] != x.shape[2:]:
            raise ValueError(f"{who} expected open-set images of size {tuple(x.shape[2:])} like "
                             f"the training images, got {tuple(r.shape[2:])}. Resize them (Resize "
                             "in their DataBlock, or F.interpolate).")
        return r.to(x)

    def rows(self, x):
        if not self.joint_bn or not self.weight_now: return None
        return self.images(x)

    def alone(self, i):
        "The `i`-th network's logits of open-set images in a forward pass of their own, one for all networks"
        b = self.objective.batch
        if self not in b.extra:
            x = self.learn.xb[0][:b.n]
            with torch.no_grad(): r = self.images(x).as_subclass(torch.Tensor)
            heads = self.objective.split(self.learn.model(r))
            b.extra[self] = [main_logits(h) for h in heads]
        return b.extra[self][i]

    def draw(self, n, c):
        "Labels (n,) of `c` classes"
        if self.labels is None: return torch.randint(c, (n,), generator=self.aux.g)
        return torch.multinomial(self.labels, n, replacement=True, generator=self.aux.g)

    def penalty_of(self, head):
        part = self.alone(head.i) if head.part is None else head.part
        return self.penalty(head.z, part, head.i)

    def penalty(self, z, part, i=0):
        c = z.shape[1]
        for k in ('labels', 'class_weight'):
            v = getattr(self, k)
            if v is not None and len(v) != c:
                raise ValueError(f"{type(self).__name__} expected `{k}` for the {c} outputs of the "
                                 f"network, got {len(v)}. Give one for each.")
        if self.dynamic: u = self.draw(len(part), c)
        else:
            if i not in self._fixed:
                self._fixed[i] = self.draw(len(self.aux), c)   # those of this network
            u = self._fixed[i][self.aux.ids]
        w = self.class_weight
        if w is not None: w = w.to(part)
        return F.cross_entropy(part, u.to(part.device), weight=w)

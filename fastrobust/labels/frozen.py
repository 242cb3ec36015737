"A judge that trains nothing: the features of a frozen network, and ridge regression that leaves each item out"
import os, re, zlib
from pathlib import Path
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastrobust.basics import need_whole, plain_dl, robust_warn
from fastrobust.data.apart import count_shared
from fastrobust.inference.bodies import Body, body_of
from fastrobust.inference.buffers import GaussianBuffer
from fastrobust.inference.features import Rows, fill
from fastrobust.inference.keptrows import KeptRows
from fastrobust.inference.copies import copies_of
from fastrobust.inference.leaveout import LeaveOut
from fastrobust.inference.plainbody import PlainBody
from fastrobust.inference.pretrained import arch_name, is_file
from fastrobust.labels.codemarks import crc
from fastrobust.labels.frozenitems import files_of, item_mark, naming_files, no_images, read_mark
from fastrobust.pixels import PixelSpace, peek_images, pixel_space
from fastrobust.resting import keep_random
from fastrobust.training.surgery import looks_trained

__all__ = ['frozen']

PLAIN = 'plain'
CENTRES = 2000  # Of a Gaussian kernel on gradients and colours, at most
LEAST = 96      # Pixels that the shorter side is enlarged to for a network pretrained on larger images

# --- what it sees ---------------------------------------------------------------------------------
def _resized(x, size):
    "Images whose shorter side has `size` pixels; None: as they are"
    if size is None or size == min(x.shape[2:]): return x
    scale = size/min(x.shape[2:])
    return F.interpolate(x, size=[round(o*scale) for o in x.shape[2:]], mode='bilinear', antialias=True)

class _Eye(nn.Module):
    "A body, and in front of it what brings the images of a loader into the form that it knows"
    def __init__(self, body, space, stats, size, colour):
        super().__init__()
        self.body,self.space,self.size,self.colour = body,space,size,colour
        self.stats = None if stats is None else PixelSpace(*(torch.tensor(o)[None, :, None, None] for o in stats))

    def forward(self, x):
        x = x.as_subclass(Tensor)
        if self.stats is not None: x = self.space.decode(x)
        x = _resized(x, self.size)
        if self.colour: x = x.expand(-1, 3, -1, -1)
        if self.stats is not None: x = self.stats.encode(x)
        return self.body(x)

def _wants_colour(arch):
    "Whether a network is made for three channels: whatever comes by name; of a network its first convolution tells"
    if isinstance(arch, Learner): arch = arch.model
    if not isinstance(arch, nn.Module): return True
    convs = [m for m in arch.modules() if isinstance(m, nn.Conv2d)]
    return bool(convs) and convs[0].in_channels == 3

# --- who may judge --------------------------------------------------------------------------------
def _fitted(learn):
    "Whether a learner has trained, as far as it shows"
    recorder = getattr(learn, 'recorder', None)
    if recorder is not None and len(getattr(recorder, 'losses', ())): return True
    m = learn.model
    head = m[1] if isinstance(m, nn.Sequential) and len(m) == 2 else m
    return looks_trained(head)

def _need_apart(learn, dls):
    "Refuse a learner that has trained on items it is to judge"
    train = plain_dl(learn.dls.train)
    if not len(learn.dls.train_ds):
        robust_warn("an exported learner does not tell what it was trained on. If these items were "
                    "among it, its features know their labels and the report is worth little.")
        return
    if not _fitted(learn): return
    n = count_shared(train, plain_dl(dls.train))
    if not n:
        a,b = files_of(learn.dls.train_ds),files_of(dls.train_ds)
        n = 0 if a is None or b is None else len({*a} & {*b})
    if not n: return
    raise ValueError(f"expected a learner fitted on other items, got one that has trained on {n:,} of "
                     "these: its features have learned their labels by heart, wrong ones too. Take "
                     "a pretrained body, frozen(resnet18), a learner fitted on other images, or folds: "
                     "noise_report(make_learner, dls).")

def _size_of(x, size, enlarge):
    "Pixels of the shorter side for the body, None: as the images are"
    if size is not None: return size
    return LEAST if enlarge and min(x.shape[2:]) < LEAST else None

def _made_of(eye):
    "What a network is made of, in words: what its weights do not tell"
    return crc([re.sub(' at 0x[0-9a-f]+', '', repr(eye)), getattr(eye.body, 'stats', None)])

def _sum_of(net):
    "A number for the weights of a network"
    res = 0
    for k,v in net.state_dict().items():
        a = v.detach().cpu().float() if isinstance(v, Tensor) and v.is_floating_point() else v
        data = np.ascontiguousarray(a.numpy()) if isinstance(a, Tensor) else repr(a).encode()
        res = zlib.crc32(data, zlib.crc32(k.encode(), res))
    return res

def _named_body(arch, x, weights):
    "`body_of` an architecture that is named; where its weights cannot be had, it is said what else can be done"
    try: return body_of(arch, x, weights=weights)
    except OSError as e:
        if is_file(weights): raise
        name = arch if isinstance(arch, str) else arch_name(arch)
        raise OSError(f"expected the pretrained weights of {name}, got {type(e).__name__}: {str(e).strip('. ')}. "
                      f"Without the internet: a file with its state_dict, frozen({name}, weights='{name}.pth'), or "
                      "frozen('plain'), gradients and colours.") from e

# --- the judge ------------------------------------------------------------------------------------
def centres(n):
    "Of the kernel: so few that they cannot go through all `n` items, where cross-validation is blind"
    return max(min(n//2, CENTRES), 1)

class Frozen:
    "What `frozen` returns: takes features once, keeps them, and leaves each item out"
    def __init__(self, body, weights, size, path):
        self.body,self.weights,self.size = body,weights,size
        self.path = None if path is None else Path(path)
        self.plain = isinstance(body, str) and body == PLAIN
        if self.plain: self.name = 'gradients and colours, no weights'
        elif isinstance(body, str): self.name = body
        else: self.name = arch_name(body.model if isinstance(body, Learner) else body)
        # the data that are known, how they were read and by whom
        self._mark,self._data,self._rows = None,None,None

    def __repr__(self): return f'frozen({self.name})'

    def _eye(self, dls):
        "The body as a function of batches of `dls`"
        x = peek_images(dls)
        if x is None: raise no_images()
        space = pixel_space(dls)
        identity = [[0.]*x.shape[1], [1.]*x.shape[1]]
        if self.plain: return _Eye(PlainBody(x.shape[1]), space, identity, self.size, False)
        arch = self.body
        own = isinstance(arch, (nn.Module, Learner))
        if isinstance(arch, Learner): _need_apart(arch, dls)
        colour = x.shape[1] == 1 and _wants_colour(arch)
        if colour: x = x.expand(-1, 3, -1, -1)
        size = _size_of(x, self.size, not own)
        x = _resized(x[:2].as_subclass(Tensor), size)
        if isinstance(arch, Body): body = arch
        else: body = (body_of if own else _named_body)(arch, x, weights=self.weights)
        self.name,stats = body.name,body.stats
        if not own and stats is None:
            robust_warn(f"{body.name} comes without pretrained weights: its features are random.")
        # a learner without Normalize has seen pixels
        if isinstance(arch, Learner) and stats is None: stats = identity
        return _Eye(body, space, stats, size, colour)

    def _new_mark(self, dls):
        "What tells these images, read in this way by this network, from others"
        items = item_mark(dls.train_ds)
        # it is held, so no other has its number
        if items is None: items = f'{os.getpid()}-{id(dls.train_ds)}'
        net = self.body.model if isinstance(self.body, Learner) else self.body
        return items,read_mark(dls),_sum_of(net) if isinstance(net, nn.Module) else 0

    def _new_rows(self, n, eye, mark):
        if self.path is None: return Rows(n, keyed=True)
        items,read,_ = mark
        marks = dict(items=items, read=read, body=_sum_of(eye), made=_made_of(eye), name=self.name,
                     size=eye.size or 0)
        return KeptRows(n, self.path, marks)

    def features(self,
        dls,            # DataLoaders with images; they stay as they are
        verbose=True    # Show how far it is?
    )->Rows:
        "Features of all training items, in order, not augmented; what is there already is not computed again"
        ds = dls.train_ds
        with naming_files(ds): mark = self._new_mark(dls)
        known = self._mark == mark
        if known and self._rows.done == len(ds): return self._rows
        with keep_random(): eye = self._eye(dls).to(getattr(dls, 'device', None))
        if not known or (self.path is not None and not self._rows.kept()):
            self._rows,self._mark,self._data = self._new_rows(len(ds), eye, mark),mark,ds
        learn = Learner(dls, eye, loss_func=CrossEntropyLossFlat())
        if not verbose: learn.remove_cbs([cb for cb in learn.cbs if cb.name == 'progress'])
        with naming_files(ds): return fill(self._rows, learn, eye, plain_dl(dls.train), who='noise_report')

    def left_out(self,
        dls,        # DataLoaders with images
        y,          # Labels (n,), ints 0..c-1
        c,          # Classes
        verbose=True # Show how far it is?
    )->LeaveOut:
        "Each item judged without it and its copies"
        rows = self.features(dls, verbose)
        # what is counted is no such vector yet as a network's last layer is given
        m = GaussianBuffer(centres(len(y))) if self.plain else None
        return LeaveOut(rows.f, y, c, copies_of(rows.keys, rows.f, np.asarray(y)), m=m)

    def says(self, out):
        "Who judged, in words"
        twice = sum(len(i) for i in out.copies)
        copies = f'; {twice:,} items of which there are copies, or nearly so, left out together' if twice else ''
        return (f'{self.name}, frozen: {out.f.shape[1]:,} features, ridge regression that leaves each item '
                f'out{copies}')

    def notes(self):
        "What to know of this judge"
        if not self.plain: return []
        return ["judged without a pretrained network, by gradients and colours: it sees less. Better: "
                "frozen(resnet18), or a file of weights."]

def frozen(
    # torchvision function, timm name, nn.Module (its last nn.Linear is left out), a Learner fitted on
    # other items; or 'plain': gradients and colours, where no pretrained weights can be had
    body,
    weights=None,   # Name or member of torchvision's weights, or a file with a state_dict; None: the default ones
    size:int=None,  # Pixels of the shorter side; None: as the dls give them, under 96 enlarged to it
    *,
    path=None       # Folder to keep the features in: after an interrupt the same call goes on from there
)->Frozen:
    """A judge for `noise_report`, `estimate_tau` and `advise` that trains nothing: features of all items in one forward
    pass, ridge regression on them, and for each item the exact scores of the solution that has not seen it"""
    if size is not None: need_whole('size', size, 8, what='pixels')
    if isinstance(body, Frozen): raise TypeError("expected a body, got a judge. Give it to noise_report as it is.")
    if isinstance(body, str) and body == PLAIN and weights is not None:
        raise ValueError("expected no `weights` with body='plain', which has none. Name their architecture.")
    return Frozen(body, weights, size, path)

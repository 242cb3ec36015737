"CorruptionTransform: train on the common corruptions themselves, each image with one of its own"
# Corruptions of the benchmark (https://arxiv.org/abs/1903.12261) as augmentation. What a network
# has trained on says little about how it holds under shifts it has not seen: train on some, read
# the others.
import torch
from torch import Tensor
from fasttransform import DisplayedTransform
from fastai.data.load import DataLoader
from fastai.vision.core import TensorImage
from fastrobust.basics import need_number
from fastrobust.images.corruptions.front import check_corruption, corrupt
from fastrobust.images.corruptions.tables import listed
from fastrobust.pixels import PixelSpace
from fastrobust.techniques.bases.pipes import warn_of_two

__all__ = ['CorruptionTransform']

class CorruptionTransform(DisplayedTransform):
    """Batch transform: every image gets one of `names` at one of the severities, drawn evenly; training only. Give it
    all names at once: of several CorruptionTransforms in one DataBlock fastai keeps only the last."""
    against = 'known changes'
    # after IntToFloatTensor (10) and the geometric transforms (30), before Normalize (99)
    split_idx,order = 0,50
    def __init__(self,
        names,             # A corruption or several, from `CORRUPTIONS` and `EXTRA_CORRUPTIONS`
        severity=3,        # 1 to 5, or a list or range of them: one is drawn per image
        *,
        # Severities made for 32 px ('cifar'), 64 px ('tiny') or 224 px ('imagenet'); 'auto': by the
        # size of the images
        table:str='auto',
        p:float=1.         # Share of images that are corrupted, in (0,1]
    ):
        super().__init__()
        need_number('p', p)
        self.names,self.severity = listed(names),listed(severity)
        self.table,self.p = table,p
        for k,v in dict(names=self.names, severity=self.severity).items():
            if not v:
                raise ValueError(f"`{k}` must name at least one, got none. Without corruption: "
                                 "leave it out.")
        for n in self.names:
            for s in self.severity: check_corruption(n, s, table)
        if not 0 < p <= 1:
            raise ValueError(f"`p` must be a share of the images in (0,1], got {p}. To switch it "
                             "off, leave it out.")

    def setups(self, dl:DataLoader):
        warn_of_two(self, CorruptionTransform, dl, "To give each image one corruption, name all of "
                                                   "them in a single CorruptionTransform.")

    @property
    def overlaps(self):
        "Corruptions on which this trains: errors under these are no measure of robustness to unseen shifts"
        return set(self.names)

    def encodes(self, x:TensorImage):
        if x.ndim != 4:
            raise ValueError("CorruptionTransform expected a batch of images (b,c,h,w), got shape "
                             f"{tuple(x.shape)}. Put it in `batch_tfms`.")
        u8 = PixelSpace().to_uint8(x.as_subclass(Tensor), 'CorruptionTransform')
        b,m = len(u8),len(self.severity)
        # drawn on the CPU from torch's stream: every device sees the same
        kind = torch.randint(len(self.names)*m, (b,))
        hit = torch.rand(b) < self.p
        seed = int(torch.randint(2**62, ()))

        out = u8.clone()
        for k in kind[hit].unique().tolist():
            i = (hit & (kind == k)).nonzero()[:, 0]
            on = i.to(u8.device)
            name,severity = self.names[k//m],self.severity[k%m]
            out[on] = corrupt(u8[on], name, severity, self.table, seed, ids=i)
        new = out.to(x.dtype)/255
        changed = hit.view(-1, 1, 1, 1).to(x.device)
        return TensorImage(torch.where(changed, new, x.as_subclass(Tensor)))

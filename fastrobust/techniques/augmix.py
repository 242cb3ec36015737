"AugMix: mix a few randomly distorted copies of every image, and ask the network to answer all of them alike"
# Hendrycks et al., ICLR 2020, https://arxiv.org/abs/1912.02781. For shifted images. Stages: rows,
# penalty. The chains, their draws and their mix are in augmixing.py, the operations in ops.py.
import torch
from torch import Tensor
from fasttransform import DisplayedTransform
from fastai.data.load import DataLoader
from fastai.vision.core import TensorImage
from fastrobust.basics import check_weight, need_whole, robust_warn
from fastrobust.images.augmixing import augmix, check_augmix
from fastrobust.lossfunctions import jsd
from fastrobust.pixels import PixelSpace, pixel_space
from fastrobust.resting import keep_random
from fastrobust.techniques.bases.pipes import train_transforms, warn_of_two
from fastrobust.training.technique import Technique

__all__ = ['AugMixTransform', 'AugMix']

class AugMixTransform(DisplayedTransform):
    "AugMix as a transform of batches or, in `item_tfms`, of items: one view in place of each image; training only"
    against = 'changed images'
    # after ToTensor (5), IntToFloatTensor (10), the geometric transforms (30), before Normalize
    split_idx,order = 0,50
    def __init__(self,
        severity:float=3,  # Upper end of the level of an operation, in [0.1,10]; the paper: 3 CIFAR, 1 ImageNet
        width:int=3,       # Chains per image; 3 in the paper
        depth:int=-1,      # Operations per chain; -1: 1 to 3, drawn for each chain, as in the paper
        alpha:float=1.,    # Of the Dirichlet and Beta weights; 1 in the paper
        all_ops:bool=False # Also colour, contrast, brightness, sharpness: not for CIFAR-C/ImageNet-C
    ):
        check_augmix(severity, width, depth, alpha)
        super().__init__()
        self.severity,self.width,self.depth,self.alpha = severity,width,depth,alpha
        self.all_ops = all_ops

    def setups(self, dl:DataLoader):
        warn_of_two(self, AugMixTransform, dl, "Keep one; for stronger views raise its `severity`.")
        if not dl.fake_l.num_workers: return
        with keep_random():     # compiled and imported here once, not in every worker of every epoch
            for c in (1, 3): augmix(torch.zeros(1, c, 8, 8, dtype=torch.uint8))

    def encodes(self, x:TensorImage):
        p = x.as_subclass(Tensor)
        whole = x.dtype == torch.uint8      # bytes: an item in a loader worker
        u8 = p if whole else PixelSpace().to_uint8(p, 'AugMixTransform')
        if p.ndim != 4: u8 = u8[None]
        view = augmix(u8, self.severity, self.width, self.depth, self.alpha, self.all_ops)
        if whole: view = (view*255).round_().byte()
        else: view = view.to(x.dtype)
        return TensorImage(view if p.ndim == 4 else view[0])

class AugMix(Technique):
    "Loss of the clean images + `lam` x Jensen-Shannon divergence of the predictions for them and their views"
    against = 'changed images'
    column = 'jsd'
    def __init__(self,
        lam=12.,           # Weight of the divergence: a number > 0 or a function of pct_train; 12 in the paper
        severity:float=3,  # Upper end of the level of an operation, in [0.1,10]; the paper: 3 CIFAR, 1 ImageNet
        width:int=3,       # Chains per image; 3 in the paper
        depth:int=-1,      # Operations per chain; -1: 1 to 3, drawn for each chain, as in the paper
        alpha:float=1.,    # Of the Dirichlet and Beta weights; 1 in the paper
        all_ops:bool=False,# Also colour, contrast, brightness, sharpness: not for CIFAR-C/ImageNet-C
        views:int=2        # Views of each image beside the clean one; 2 in the paper; batches grow (1+`views`)-fold
    ):
        super().__init__()
        check_augmix(severity, width, depth, alpha)
        need_whole('views', views, 1, fix='Without views: AugMixTransform.')
        self.lam = check_weight('lam', lam, 'use AugMixTransform, the form without the divergence')
        self.severity,self.width,self.depth,self.alpha = severity,width,depth,alpha
        self.all_ops,self.views = all_ops,int(views)

    def check(self, learn):
        if any(isinstance(f, AugMixTransform) for f in train_transforms(learn)):
            robust_warn(f"{self.name} takes the images of AugMixTransform for the clean ones, so "
                        "that no loss is of a clean image. Remove AugMixTransform from the "
                        f"transforms: {self.name} makes its own views.")

    def rows(self, x):
        if self.weight_now == 0: return
        if x.ndim != 4:
            raise ValueError(f"{self.name} expected images (b,c,h,w), got a batch of shape "
                             f"{tuple(x.shape)}. Remove it: its operations are defined for images "
                             "only.")
        px = pixel_space(self.dls)
        u8 = px.to_uint8(x.as_subclass(Tensor), self.name)
        u8 = u8.repeat(self.views, 1, 1, 1)
        views = augmix(u8, self.severity, self.width, self.depth, self.alpha, self.all_ops)
        return px.encode(views).to(x.dtype)

    def penalty(self, z, part):
        if part is None: return
        zs = (z, *part.chunk(self.views))
        return jsd([self.objective.map(o.float()) for o in zs])

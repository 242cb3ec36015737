"Any detector of pytorch-ood (Apache-2.0, https://github.com/kkirchheim/pytorch-ood) as a score of ours"
import copy
import torch
from fastrobust.ood.logitscores import OODScore

__all__ = ['from_pytorch_ood']

class _PytorchOOD(OODScore):
    "A detector on what it takes: features, logits, or features in the place of maps. It scores high for unknown images"
    def __init__(self, detector, name, takes):
        self.detector,self.name,self._takes = detector,name,takes
        self.features = takes != 'logits'

    def _data(self, out):
        if not self.features: return out.z
        if out.f is None:
            raise ValueError(f"expected features for `{self.name}`, got outputs of a model without "
                             "a last linear layer. Take a detector of logits (MaxSoftmax, "
                             "EnergyBased, MaxLogit, GEN), or the scores msp, maxlogit, energy, "
                             "odin, gen.")
        return out.f

    def _ready(self): return self.detector

    def __call__(self, out):
        x,det = self._data(out),self._ready()
        with torch.no_grad(): s = torch.as_tensor(getattr(det, f'predict_{self._takes}')(x))
        if s.shape != x.shape[:1]:
            raise ValueError(f"expected one score per image, ({len(x)},), from "
                             f"{type(det).__name__}, got {tuple(s.shape)}. Take a detector of "
                             "images, not of pixels.")
        return -s.detach().double().to(x.device)

class _Fitted(_PytorchOOD):
    "One that learns from the training images first: a copy does, the detector that was given stays as it is"
    _fit = None

    def fit(self, train, head=None):
        "Fit a copy of the detector"
        if train.y is None:
            raise ValueError(f"expected labels of the training images for `{self.name}`, got none. "
                             "Fit on labelled images.")
        new = copy.deepcopy(self.detector)
        getattr(new, f'fit_{self._takes}')(self._data(train), train.y)
        self._fit = new
        return self

    def _ready(self):
        if self._fit is None:
            raise ValueError(f"expected a fitted score, got `{self.name}` without training "
                             "features. Call `.fit(train, head)` first.")
        return self._fit

def from_pytorch_ood(
    detector,       # A detector of pytorch-ood that takes features or logits, e.g. KNN(None) or EnergyBased(None)
    name:str=None   # In tables; None: its class in lower case
)->OODScore:        # Fits a copy of it on the training images, and scores high for known images
    "`detector` as a score for `ood_report`: the sign is flipped, so that higher means more in-distribution"
    takes = [o for o in ('features', 'logits', 'feature_maps') if hasattr(detector, f'predict_{o}')]
    if isinstance(detector, type) or not hasattr(detector, 'requires_fit'):
        raise TypeError(f"expected a detector of pytorch-ood, got {detector!r}. Make one, e.g. "
                        "`from_pytorch_ood(pytorch_ood.detector.KNN(None))`.")
    if not takes:
        raise TypeError("expected a detector of features or logits, got "
                        f"{type(detector).__name__}, which needs the model or the images. Run it "
                        "with pytorch-ood itself; ODIN is here as `odin`.")
    make = _Fitted if detector.requires_fit else _PytorchOOD
    return make(detector, name or type(detector).__name__.lower(), takes[0])

"Validation items of the classes a learner of phases knows, and no others"
import numpy as np
from fastai.callback.core import Callback
from fastrobust.basics import target_vocab
from fastrobust.data.editing import take_parts
from fastrobust.data.reading import codes

__all__ = []

class SeenOnly(Callback):
    "Refuses validation labels of classes that have not been learned: every one would count as an error"
    order = -50
    def before_batch(self):
        net = self.learn.model
        if self.training or not getattr(net, 'learned', False) or not len(self.yb): return
        strange = set(self.yb[0].unique().tolist()) - set(net.head.classes)
        if not strange: return
        vocab = target_vocab(self.dls)
        names = ', '.join(str(vocab[k]) for k in sorted(strange)[:5])
        raise ValueError(f"expected items of the {len(net.head.classes)} classes learned so far, got "
                         f"some of {names}. Learn them first (`fit_phases`, `add_classes`), or leave "
                         "them out: `learn.dls.valid` holds the classes of the phases so far.")

def known_alone(learn, dls):
    "`dls` without validation items of classes that were learned and then forgotten"
    gone = {k for p in learn.past for k in p.new} - set(learn.model.head.classes)
    if not gone or len(dls.loaders) < 2 or not len(dls.valid_ds): return dls
    y = codes(dls.valid_ds, 'the validation set')
    stay = np.flatnonzero(~np.isin(y, list(gone)))
    return dls if len(stay) == len(y) else take_parts(dls, np.arange(len(dls.train_ds)), stay)

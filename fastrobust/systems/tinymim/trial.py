"What a trial of two images may conclude before a fit: a network that fails it would fail in training, or may not"
import inspect
from fastrobust.basics import plain_dl
from fastrobust.pixels import peek
from fastrobust.systems.tinymim.vits import bare

__all__ = []

# whose callbacks do not make other images, of another size or kind, out of those of the loaders
_HARMLESS = 'fastrobust.','fastai.learner','fastai.callback.'

def takes_one(net):
    "Does a network ask for no more than one input?"
    ps = inspect.signature(net.forward).parameters.values()
    asked = [p for p in ps if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(asked) <= 1

def _n_inputs(dls):
    "Inputs of a batch, as fastai counts them"
    b = peek(dls)
    n = len(b) if isinstance(b, (list, tuple)) else 1
    return getattr(plain_dl(dls.train), 'n_inp', max(1, n-1))

def _changes(cb):
    "May a callback change the images of a batch?"
    f = getattr(cb, 'before_batch', None)
    home = getattr(f, '__module__', None) or ''
    return f is not None and not home.startswith(_HARMLESS)

def is_training_alike(
    learn,  # A Learner
    w       # A wrapper in its network
):
    "Is the network given in training what it was tried on: one input, as the loaders give it, in its own precision?"
    if any(_changes(cb) for cb in learn.cbs): return False
    if any(getattr(cb, 'accelerator', None) is not None for cb in learn.cbs): return False
    kinds = {p.dtype for p in w.parameters() if p.is_floating_point()}
    return len(kinds) == 1 and takes_one(bare(w)) and _n_inputs(learn.dls) == 1

def not_taken(
    who,    # Of whom it speaks, such as 'the student'
    net,    # A network, within wrappers or not
    x,      # Images (b,c,h,w)
    e       # What the network raised
)->ValueError:
    "What to say of images that a network does not take"
    c,h,w = x.shape[1:]
    size = h if h == w else (h, w)
    return ValueError(f"expected {who} for images (c,h,w) {c,h,w}, got {type(bare(net)).__name__}, which says: {e}. "
                      f"Make it for these, vit_of(name, size={size}, channels={c}), or give loaders of images that it "
                      "takes.")

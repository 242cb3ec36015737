"What techniques with a teacher share: it stays out of network, files and copies, and sees plain images"
import torch
from torch import Tensor
from torch.nn import functional as F
from fastai.callback.mixup import MixHandler
from fastai.learner import Learner
from fastai.vision.core import TensorImage
from fastrobust.basics import check_weight
from fastrobust.pixels import peek_images, pixel_space
from fastrobust.resting import at_rest
from fastrobust.systems.tinymim.held import Held, asking, need_size, plain_net
from fastrobust.systems.tinymim.inside import Inside, Kept, Unlabelled, seen_of, wrappers
from fastrobust.systems.tinymim.trial import is_training_alike, not_taken
from fastrobust.training.objective import inner_loss
from fastrobust.training.recording import fit_starts
from fastrobust.training.stages import has_penalty
from fastrobust.training.surgery import Surgery, wrap_each
from fastrobust.training.technique import Technique

__all__ = []

class TeacherImage(TensorImage):
    "An image of a pair as the teacher sees it: the student's geometry, without its jitter"

def images_of(
    learn   # A Learner in a batch
):
    "What the teacher sees of it: the second of a pair, else the student's own images"
    # fastai makes plain tensors of all targets before the forward pass
    plain = [t.for_teacher for t in learn.cbs if isinstance(t, InsideTechnique)]
    plain = [x for x in plain if x is not None]
    return (plain or learn.xb)[0].as_subclass(Tensor)

def is_unlabelled(learn): return isinstance(inner_loss(learn.loss_func), Unlabelled)

def is_alone(learn):
    "Has nobody a use for the network's output?"
    others = [t for t in learn.cbs if isinstance(t, Technique) and has_penalty(t)]
    return is_unlabelled(learn) and all(isinstance(t, InsideTechnique) for t in others)

def allow_unused(learn):
    "Several processes wait for a gradient of every parameter, of which the unused have none"
    for cb in learn.cbs:
        accelerator = getattr(cb, 'accelerator', None)
        if accelerator is None: continue
        from accelerate import DistributedDataParallelKwargs as Settings
        if accelerator.ddp_handler is None: accelerator.ddp_handler = Settings()
        accelerator.ddp_handler.find_unused_parameters = True

class InsideTechnique(Technique):
    "A technique on what is inside of a network; `wrap` makes its wrapper"
    surgery:type[Surgery]|None = Inside
    # What its wrapper saw, a NamedTuple
    kind:type = tuple
    mixes = False   # the student's images alone would be
    tasks = ()      # images without labels too
    against = 'small networks'
    _fits = None    # network and data that were last compared
    names:tuple[str, ...] = ()  # Of its terms
    for_teacher = None  # The second images of the pairs of a batch

    def __init__(self,
        lam=1.  # Weight > 0, or a schedule of pct_train
    ):
        self.lam = check_weight('lam', lam)
        self._sums = {}

    def wrap(self, net):
        "The wrapper of a network"
        raise NotImplementedError(f'{type(self).__name__}.wrap')

    def terms(self,
        seen,       # What its wrapper saw
        x,          # The plain images
        kept=None   # Positions (b,k) of the patches that the student saw; None: all
    ):              # name -> scalar
        "What is added, in terms; `names` says which"
        raise NotImplementedError(f'{type(self).__name__}.terms')

    def trained_to(self, net):
        "Position of the block of a student from which on it trains nothing, or not all; None: there is none"

    def prepare(self, learn): learn.model = wrap_each(learn.model, self.wrap)

    @property
    def inside(self):
        "The wrapper of each network"
        found = wrappers(self.learn.model, self.surgery)
        if found: return found
        raise self._replaced()

    def _replaced(self):
        return ValueError(f"{type(self).__name__} expected a network that it looks into, got "
                          "another: it was replaced. Remove it with `remove_cb` and add it again.")

    # --- before a fit ---
    def check(self, learn):
        mix = [cb for cb in learn.cbs if isinstance(cb, MixHandler)]
        if mix:
            raise ValueError(f"{self.name} compares images with what a teacher or the image itself "
                             f"says of them, {mix[0].name} mixes the student's alone. Remove it "
                             "with `remove_cb`.")
        for w in self.inside: w.alone = is_alone(learn)
        now = id(learn.model),id(learn.dls)
        if self._fits == now: return
        self.check_images(learn)
        self._fits = now

    def check_images(self, learn):
        "Try two images of the data: does everything fit?"
        x = peek_images(learn.dls)
        if x is None: return
        for w in self.inside:
            p = next(w.parameters())
            try: self.try_on(w, x[:2].as_subclass(Tensor).to(p.device, p.dtype))
            except torch.cuda.OutOfMemoryError: raise
            except (TypeError, RuntimeError, AssertionError) as e:
                # several inputs, images that a callback changes: the first batch will say what is wrong
                if not is_training_alike(learn, w): return
                raise not_taken('the student', w, x, e) from e

    def try_on(self,
        w,  # A wrapper
        x   # Two images (2,c,h,w)
    ):
        "Refuse what does not fit"
        with at_rest(w): self.terms(w.look(x)[1], x)

    def before_fit(self):
        if fit_starts(self.learn) and is_alone(self.learn): allow_unused(self.learn)

    def before_train(self):
        if not hasattr(self.learn, 'lr_finder'): self._sums = {}    # which works on a copy

    # --- within a batch ---
    def before_batch(self):
        "fastai will make plain tensors of the targets"
        pairs = [y for y in self.yb if isinstance(y, TeacherImage)]
        self.for_teacher = pairs[0] if pairs else None
    def after_batch(self): self.for_teacher = None

    def penalty_of(self, head):
        seen = seen_of(head.aux, self.kind)
        if seen is None: raise self._replaced()
        x = images_of(self.learn)[:len(head.z)]
        kept = seen_of(head.aux, Kept)
        if kept is not None: kept = kept.keep
        terms = self.terms(seen, x, kept)
        for k,v in terms.items():
            s,n = self._sums.get(k, (0., 0))
            self._sums[k] = s + v.detach(),n+1
        return sum(terms.values())

    def after_loss(self):
        "Without labels its term is the validation loss"
        if self.training or not len(self.yb) or not is_unlabelled(self.learn): return
        if hasattr(self.learn, 'gather_preds'): return
        x = self.xb[0].as_subclass(Tensor)
        with torch.no_grad():
            terms = [self.terms(w.look(x)[1], images_of(self.learn)) for w in self.inside]
        found = [sum(o.values()) for o in terms]
        self.learn.loss = self.learn.loss + sum(found)/len(found)*self.weight_now

    def columns(self):
        "Mean of each term over the training batches of an epoch, without `lam`"
        sums = {k: self._sums.get(k, (0., 0)) for k in self.names}
        return {k: float(s)/n if n else float('nan') for k,(s,n) in sums.items()}

    def __getstate__(self):
        return {**super().__getstate__(), '_sums': {}, '_fits': None, 'for_teacher': None}

# --- with a teacher -------------------------------------------------------------------------------
class Distil(InsideTechnique):
    """A technique with a teacher, at rest, without gradients, on the student's device

    It is in no checkpoint or export, and copies of the learner share it."""
    _space = None   # of the student's images

    def __init__(self,
        teacher,    # A network, or a Learner
        lam=1.,     # Weight > 0, or a schedule of pct_train
        # Height and width in pixels, or a pair, of the images it is shown; None: the student's
        teacher_size=None
    ):
        super().__init__(lam)
        self.teacher_size = need_size('teacher_size', teacher_size)
        space = pixel_space(teacher.dls) if isinstance(teacher, Learner) else None
        self._held = Held(plain_net(teacher), space)

    @property
    def teacher(self):
        if self._held.net is not None: return self._held.net
        name = type(self).__name__
        raise ValueError(f"expected {name} with its teacher, got one from a file, which holds none. "
                         f"Give it again: learn.remove_cb({name}), learn.add_cb({name}(teacher)).")

    def __repr__(self):
        net = self._held.net
        name = 'no teacher' if net is None else type(net).__name__
        cls,_,settings = super().__repr__().partition('(')
        return f"{cls}({name}{', ' if settings != ')' else ''}{settings}"

    def prepare(self, learn):
        self._need_apart(learn)
        super().prepare(learn)

    def check(self, learn):
        self._need_apart(learn)
        self._space = pixel_space(learn.dls)
        super().check(learn)

    def try_on(self, w, x):
        "The teacher first: its networks' complaints are not about the student"
        try: self.asked(x)
        except (RuntimeError, AssertionError) as e:
            c,h,w = x.shape[1:]
            raise ValueError(f"expected a teacher for the student's images, (c,h,w) {c,h,w}, got "
                             f"{type(self.teacher).__name__}, which says: {e}. Make it for these, "
                             f"vit_of(name, size={w}, channels={c}), or show it other ones, "
                             "teacher_size=224.") from e
        super().try_on(w, x)

    def _need_apart(self, learn):
        mine = {id(p) for p in self.teacher.parameters()}
        if not any(id(p) in mine for p in learn.model.parameters()): return
        raise ValueError("expected a teacher with parameters of its own, got "
                         f"{type(self.teacher).__name__}, which shares them with the student: it "
                         "would change while it teaches. Give a copy: copy.deepcopy(net).")

    def ask(self, x, kept=None):
        "What the teacher says of images, of the patches `kept` alone if they are given"
        raise NotImplementedError(f'{type(self).__name__}.ask')

    def asked(self, x, kept=None):
        "`ask`, of a teacher at rest"
        net,x = self.teacher,self.its_images(x)
        with asking(net): return self.ask(x, kept)

    def its_images(self, x):
        "The student's images `x` as the teacher learned them; it follows their device"
        net,size = self.teacher,self.teacher_size
        if size and size != tuple(x.shape[-2:]):
            x = F.interpolate(x, size, mode='bicubic', antialias=True)
        mine,its = self._space,self._held.space
        if mine is not None and its is not None: x = its.encode(mine.decode(x))
        p = next(net.parameters(), x)
        if p.device != x.device: net.to(x.device)
        return x.to(p.dtype)

"A learner that makes a small vision transformer out of a large one, on images without labels, and classifiers of it"
# Ren, Wei, Zhang, Hu, TinyMIM, https://arxiv.org/abs/2301.01296
import inspect
from functools import partial
from fastai.callback import schedule    # noqa: F401 (gives Learner its fit_one_cycle)
from fastai.learner import Learner
from fastcore.foundation import L
from fastrobust.basics import nearest, need_number, shown
from fastrobust.pixels import peek_images
from fastrobust.systems.tinymim.classifier import classifier_of
from fastrobust.systems.tinymim.decay import adamw
from fastrobust.systems.tinymim.distilling import InsideTechnique, is_unlabelled
from fastrobust.systems.tinymim.inside import Unlabelled
from fastrobust.systems.tinymim.keptanswers import KeepAnswers
from fastrobust.systems.tinymim.mimic import TinyMIM
from fastrobust.systems.tinymim.teachers import need_stats, set_drop_path, vit_arch
from fastrobust.systems.tinymim.vitfiles import need_images
from fastrobust.systems.tinymim.vits import ViT
from fastrobust.training.checks import check
from fastrobust.training.surgery import Surgery, copy_net

__all__ = ['tinymim_learner']

KNOWN = 'relation','feature','class','mae'

class MIMLearner(Learner):
    """A learner on images without labels: techniques alone say what is learned

    `fit_one_cycle(10, 1e-3)` trains; the warm-up is its `pct_start`, a share of the fit (the paper's 15 of 300 epochs:
    .05). A fit that was interrupted goes on with `load(.., with_opt=True)` and `start_epoch`. The teacher is in no
    file."""
    # Position of the block from which on the last fit trained nothing, or not all: after relations the distilled one,
    # after features of a block before the last the one behind it; None: it trained all of the student
    trained_to = None
    _heads = ()     # Of each block of the student as it came; () where they have none

    @property
    def own_heads(self):
        "Heads that the block of `trained_to`, else the last, had before relations; None: it has none"
        if not self._heads: return None
        return self._heads[-1 if self.trained_to is None else self.trained_to]

    @property
    def student(self):
        """The plain network: no teacher, no wrapper; it is the one that is trained, not a copy

        After relations its distilled block has as many heads as the teacher's, which a state_dict does not say: one
        that is loaded into a new network of the same name is another function, without an error. Keep it by
        `learn.export()`, or make the new one with those heads in that block."""
        net = self.model
        while isinstance(net, Surgery): net = net.inner()
        return net

    def create_opt(self):
        _need_trainable(self.student)
        super().create_opt()

    def _do_fit(self):
        ts = [t for t in self.cbs if isinstance(t, InsideTechnique)]
        if not ts and is_unlabelled(self):
            raise ValueError("expected a technique that says what is learned from images without labels, got none: "
                             "it was removed. Add one, learn.add_cb(TinyMIM(teacher)).")
        _need_trainable(self.model)
        # which puts the weights back as they were
        if not hasattr(self, 'lr_finder'): self.trained_to = _trained_to(self.student, ts)
        super()._do_fit()

    def show_results(self, *args, **kwargs):
        raise ValueError("expected labels to show results beside, got images without. Pairs: "
                         "learn.dls.show_batch(); a classifier: "
                         "learn.to_classifier(dls).show_results().")

    def to_classifier(self,
        # DataLoaders of images with labels, of another size too if the student takes it; they stay as they are
        dls,
        # None: with all blocks, as in the paper; 'last': without the block that was distilled, which
        # lost in all pairs measured, of two blocks (nbs/benchmarks); 'auto': 'last' if `trained_to` says so
        cut=None,
        pool='mean',    # 'mean' of the patches' tokens, as in the paper, or the 'class' token
        *,
        # Of the distilled block, with cut=None: a number, or 'own', what it had; None: the teacher's
        heads=None,
        # Of the learning rate from a layer to the one below, in (0,1]; the paper's; None: one rate
        layer_decay=.65,
        loss_func=None, # None: that of the dls
        metrics=None,   # As in any Learner
        cbs=None,       # Callbacks and techniques, such as LogitClip()
        **kwargs        # More for Learner
    )->Learner:
        """An ordinary Learner with a copy of the student and a new linear layer on the classes of `dls`

        The student is a vision transformer; for any other see `robust_learner`. Images that `dls` do not normalise
        are as in pre-training, in loaders of the classifier's own.
        Teacher and wrapper stay here. Relations leave the rest of their block and the last norm untrained: labels must
        train them, or `cut='last'` reads the tokens that go into that block, by a new norm. AdamW, weight decay .05;
        `fit_one_cycle(5, 1e-3)` has that rate in the last layer and `layer_decay` times that in each below. `.heads`:
        those of each block, which a file of weights alone does not know."""
        net = copy_net(self.student)
        form = dict(cut=cut, pool=pool, heads=heads)
        return classifier_of(self, net, dls, form, layer_decay, loss_func=loss_func,
                             metrics=metrics, cbs=cbs, **kwargs)

# --- what is given --------------------------------------------------------------------------------
def _need_images(dls):
    "(c,h,w) of the images"
    if not hasattr(dls, 'loaders'):
        raise TypeError(f"expected DataLoaders, got {shown(dls)}. The data come first: "
                        "tinymim_learner(mim_dls('folder'), student, teacher).")
    x = peek_images(dls)
    if x is None:
        raise TypeError("expected DataLoaders whose first input is a batch of images (b,c,h,w), "
                        "got others. Make some with mim_dls('folder').")
    return tuple(x.shape[1:])

def _need_trainable(net):
    if any(p.requires_grad for p in net.parameters()): return
    raise ValueError("expected a student with something to train, got one whose parameters are all frozen. Thaw it: "
                     "learn.student.requires_grad_(True).")

def _need_share(drop_path):
    if drop_path is None: return
    need_number('drop_path', drop_path)
    if not 0 <= drop_path < 1: raise ValueError(f"`drop_path` must be in [0,1), got {drop_path}. The paper takes .1.")

def _technique_class(name):
    "Written by name; the modules of those that are not asked for stay unread"
    if name == 'relation': return TinyMIM
    if name == 'mae':
        from fastrobust.systems.tinymim.mae import MAEPretrain
        return MAEPretrain
    from fastrobust.systems.tinymim.features import ClassDistill, FeatureDistill
    return FeatureDistill if name == 'feature' else ClassDistill

def _technique(name, teacher, settings):
    "The technique of a name with what it was given"
    if name not in KNOWN:
        raise ValueError(f"expected `technique` as one of {', '.join(KNOWN)}, or a technique such "
                         f"as TinyMIM(teacher), got {shown(name)}. {nearest(name, KNOWN)}")
    cls = _technique_class(name)
    takes = inspect.signature(cls.__init__).parameters
    odd = [k for k in settings if k not in takes]
    if odd:
        raise TypeError(f"expected settings of {cls.__name__}, got "
                        f"{', '.join(f'`{k}`' for k in odd)}. It takes "
                        f"{', '.join(k for k in takes if k not in ('self', 'teacher'))}.")
    needs = 'teacher' in takes
    if needs and teacher is None:
        raise ValueError(f"expected a teacher for technique={name!r}, got none. Give its timm "
                         "name, such as 'vit_base_patch16_224.mae', a network or a Learner; "
                         "technique='mae' has none.")
    if not needs and teacher is not None:
        raise ValueError(f"expected no teacher for technique={name!r}, which learns from the "
                         "images alone, got one. Leave it out.")
    return cls(teacher, **settings) if needs else cls(**settings)

def _student(student, shape, drop_path):
    "An untrained network of a name, or the given one"
    arch = vit_arch(student, shape[1:], shape[0], pretrained=False)
    need_images(arch.net, shape, 'a student')
    reached = False
    if isinstance(student, str): reached = set_drop_path(arch.net, .1 if drop_path is None else drop_path)
    if drop_path and not reached:
        raise ValueError(f"expected no `drop_path` with the student {arch.name}, whose blocks it does not reach, got "
                         f"{drop_path}. Build the student with it, or name one of timm's.")
    return arch.net

def _trained_to(net, ts):
    "Block from which on techniques leave a student untrained; None where all of it learns"
    blocks = [t.trained_to(net) for t in ts]
    return None if None in blocks else max(blocks, default=None)

def _heads(net):
    "Heads of each block of a student; () where that cannot be told"
    try:
        vit = ViT(net)
        return tuple(vit.attention(i).heads for i in range(vit.depth))
    except ValueError: return ()

def _given(techniques, teacher, settings):
    "Techniques that come with their own teacher and settings"
    ts = list(L(techniques))
    odd = [t for t in ts if not isinstance(t, InsideTechnique)]
    if odd or not ts:
        raise TypeError(f"expected `technique` as one of {', '.join(KNOWN)} or TinyMIM(teacher) "
                        f"and the like, got {shown(odd[0]) if odd else 'none'}. Other callbacks: "
                        "cbs=.")
    if teacher is not None or settings:
        more = ['teacher']*(teacher is not None) + list(settings)
        raise ValueError(f"expected a technique with its own settings, got {', '.join(more)} "
                         f"beside it. Write them into it: {type(ts[0]).__name__}(..).")
    return ts

def tinymim_learner(
    dls,            # Of `mim_dls`; of any other DataLoaders the images alone, student and teacher see the same
    student,        # To be trained: a name of timm or torchvision (untrained, no classifier), or a network as it is
    teacher=None,   # Name of timm or torchvision, with its weights, a network, or a fitted Learner; for 'mae' none
    # 'relation' (TinyMIM), 'feature', 'class', 'mae' (no teacher), or a technique, or a list of them
    technique='relation',
    *,
    kinds=None,     # Relations, some of 'qk', 'vv', 'qq', 'kk'; None: the paper's ('qk', 'vv')
    teacher_block=None, # Position from 0; None: three quarters up where it is deeper than the student, else the last
    student_block=None, # Position; None: the last
    tokens=None,    # 'all' or 'patch': without class and register tokens, where those differ; None: 'all'
    lam=None,       # Weight > 0 of the technique; None: 1
    teacher_weights=None, # Path of a file with weights for the teacher
    # Share of images for which a block is skipped, in [0,1), of a student by name of timm; None: .1, the paper's
    drop_path=None,
    lr=None,        # Learning rate of `fit`; None: 1.5e-4 for 256 images a batch, in proportion, the paper's
    wd=.05,         # Weight decay, none on vectors; the paper's
    # Memory in GiB for what the teacher says of each image, where crops are fixed; None: it is asked anew
    keep=None,
    cbs=None,       # More callbacks
    **kwargs        # More for Learner
)->MIMLearner:
    """A small vision transformer learns from a large one, without labels (TinyMIM)

    The recipe is that of https://arxiv.org/abs/2301.01296: AdamW with betas (.9, .95), no decay of vectors, cosine by
    `fit_one_cycle(10, 1e-3)`. `learn.student` is the network, `learn.to_classifier(dls)` makes a classifier of it
    if it is a vision transformer. Others learn by technique='feature' or 'class'; then `robust_learner`."""
    shape = _need_images(dls)
    _need_share(drop_path)
    net = _student(student, shape, drop_path)
    given = dict(kinds=kinds, teacher_block=teacher_block, student_block=student_block, tokens=tokens, lam=lam)
    settings = {k: v for k,v in given.items() if v is not None}
    if isinstance(technique, str):
        large = _teacher(teacher, shape, teacher_weights, dls)
        ts = [_technique(technique, large, settings)]
    else: ts = _given(technique, teacher, settings)
    block,heads = _trained_to(net, ts),_heads(net)
    if lr is None: lr = 1.5e-4*dls.train.bs/256
    recipe = dict(opt_func=partial(adamw, beta2=.95), moms=(.9, .9, .9))
    keepers = [] if keep is None else [KeepAnswers(keep)]
    learn = MIMLearner(dls, net, Unlabelled(), lr=lr, wd=wd, cbs=[*ts, *keepers, *L(cbs)], **{**recipe, **kwargs})
    check(learn)
    learn.trained_to,learn._heads = block,heads
    return learn

def _teacher(teacher, shape, weights, dls):
    "The network of a teacher that fits the images"
    if teacher is None:
        if weights is None: return None
        raise ValueError(f"expected a teacher for the weights {str(weights)!r}, got none. Name its "
                         "architecture: 'vit_base_patch16_224'.")
    arch = vit_arch(teacher, shape[1:], shape[0], weights=weights)
    need_images(arch.net, shape, 'a teacher')
    if isinstance(teacher, Learner): return teacher     # techniques show it images as it knows them
    need_stats(arch, dls)
    return arch.net

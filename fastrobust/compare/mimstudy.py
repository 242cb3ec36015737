"The study of TinyMIM on your own images: ways to a small vision transformer side by side, probed and fine-tuned"
# Ren et al., TinyMIM: An Empirical Study of Distilling MIM Pre-trained Models, https://arxiv.org/abs/2301.01296
import inspect, sys
from torch import nn
from fastcore.imports import IN_NOTEBOOK
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastrobust.basics import is_whole, need_truth, need_whole, robust_warn, shown
from fastrobust.compare.mimreport import TEACHER, MimStudy
from fastrobust.compare.mimrows import mim_rows
from fastrobust.compare.mimruns import Plan, Settings
from fastrobust.resting import keep_random
from fastrobust.systems.tinymim.probe import need_layer

__all__ = ['tinymim_study']

def _check(dls, teacher, needs_teacher):
    "Refuse what is no data and no teacher, before anything trains"
    if not callable(dls) and not isinstance(dls, DataLoaders):
        raise TypeError(f"expected `dls` as DataLoaders of images and labels, or a function seed -> DataLoaders, got "
                        f"{shown(dls)}. Make them with ImageDataLoaders or array_dls.")
    known = isinstance(teacher, (nn.Module, Learner, str)) or callable(teacher)
    if needs_teacher and not known:
        raise TypeError("expected `teacher` as a vision transformer, a Learner, a name of timm's or a function seed -> "
                        f"teacher, got {shown(teacher)}.")

def _of_seed(what, seed, kinds):
    "`what`, or what a function makes of the seed"
    if isinstance(what, kinds) or not callable(what): return what
    return what(seed) if len(inspect.signature(what).parameters) else what()

def _need_labels(labels):
    ns = [labels] if is_whole(labels) else list(labels)
    for n in ns: need_whole('labels', n, 2, what='images with a label')
    if len(set(ns)) < len(ns): raise ValueError(f"expected each number of `labels` once, got {ns}.")
    return sorted(ns)

def tinymim_study(
    dls,                # DataLoaders of images and labels, or a function seed -> DataLoaders
    teacher,            # Large vision transformer, a Learner of one, a name of timm's, or a function seed -> one
    # Names, see below, or a dict name -> name, None, technique, or function (teacher) -> technique(s)
    rows=('scratch', 'mae', 'feature', 'class', 'relation'),
    *,
    student=None,       # Function -> a new small network, or a name of timm's; None: half of a `tiny_vit` teacher
    middle=None,        # The same for the middle of 'sequential'; None: between the two
    epochs=40,          # Of pretraining; MAE-style pretraining wants many
    lr=2e-3,            # Of pretraining, one cycle of AdamW
    labels=(100, 1000), # Numbers of training images whose labels are used in fine-tuning; () leaves it out
    tune_epochs=60,     # Of fine-tuning; chosen for 'scratch' on held-out training images of digits
    tune_lr=2e-3,       # Of fine-tuning, one cycle; so too
    # Of `to_classifier`. None: all blocks, as in the paper; rows of relations have the teacher's heads in their last
    # block, others the student's own. 'last': without the last; 'auto': without the one that relations leave untrained
    cut=None,
    seeds=3,            # How many (0,1,..), or a list of them
    layer='last',       # Tokens that are probed, see `linear_probe`; a list of them: each
    robustness=False,   # Corruptions and calibration after fine-tuning too? A dict: settings of `corruption_report`
    unknown=None,       # Images of no class of the data, or a dict of such sets: AUROC against them
    verbose=True        # A line a row and seed, and a bar on a terminal or in a notebook
)->MimStudy:
    """Pretrain a student in several ways on the images of `dls`, without labels, then probe it and fine-tune it on few
    labels; every row starts from the same weights and sees the same batches of each seed. Ctrl-C or a failing row keeps
    what is finished. For example

        res = tinymim_study(dls, teacher, ('scratch', 'mae', 'feature', 'relation'), seeds=5)
        res, res.plot(), res.comparison('100 labels', 'mae'), res.save('study')

    Rows: 'scratch', 'mae' (the student alone), 'feature' and 'class' (the teacher's tokens, its class token),
    'relation' (TinyMIM), 'sequential' (relations by way of a middle student: twice the epochs). After a colon, with
    commas between: 'relation:qq+kk+vv' (kinds), 'relation:block=3' (of the teacher), 'relation:patch' (no class token),
    'relation:masked' (the student sees a quarter), 'relation:masked+mae' (and paints the rest),
    'relation:drop_path=.1' (of the student), 'feature:at=attn' (what the attention of a block returns; 'ffn', 'qkv').
    On digits relations win by nine points of a hundred labels over 'mae' and are level with features
    (nbs/benchmarks/RESULTS.md); what wins on your images the table says"""
    plans = mim_rows(rows)
    _check(dls, teacher, any(o.needs_teacher for o in plans.values()))
    for k,v in dict(epochs=epochs, tune_epochs=tune_epochs).items(): need_whole(k, v, 1, what='epochs')
    seeds = list(range(seeds) if is_whole(seeds) else seeds)
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"expected at least one seed and none twice, got {seeds}. Say seeds=3.")
    if cut not in (None, 'last', 'auto'): raise ValueError(f"`cut` must be None, 'last' or 'auto', got {cut!r}.")
    labels = _need_labels(labels)
    if not labels and (robustness or unknown is not None):
        raise ValueError("expected `labels` beside `robustness` or `unknown`, which need classifiers, got none. Say "
                         "labels=(100,).")
    layers = list(layer) if isinstance(layer, (list, tuple)) else [layer]
    for k in layers: need_layer(k)
    verbose = need_truth('verbose', verbose)
    if not isinstance(robustness, dict): robustness = need_truth('robustness', robustness, ' or settings (a dict)')
    show = verbose and (IN_NOTEBOOK or sys.stdout.isatty())
    settings = Settings(student, middle, epochs, lr, labels, tune_epochs, tune_lr, cut, layers, robustness, unknown,
                        show)
    runs = _Runs(Plan(settings, plans), plans, seeds, verbose)
    with keep_random():
        try:
            for seed in seeds: runs.seed(seed, _of_seed(dls, seed, DataLoaders),
                                         _of_seed(teacher, seed, (nn.Module, Learner)))
        except KeyboardInterrupt:
            if not runs.students: raise
            runs.interrupted()
    return runs.study()

class _Runs:
    "What is finished of a study, and what failed"
    def __init__(self, plan, plans, seeds, verbose):
        self.plan,self.plans,self.seeds,self.verbose = plan,plans,seeds,verbose
        self.found,self.failed,self.cause,self.stop,self.at = [],{},None,None,0

    @property
    def students(self): return [o for o in self.found if o.run['row'] != TEACHER]

    def seed(self, seed, dls, teacher):
        "The teacher and every row"
        self.plan.start(seed, dls, teacher)
        names = [*self.plans] if self.plan.teacher is None else [TEACHER, *self.plans]
        n,width = len(names)*len(self.seeds),max(map(len, names))
        for name in names:
            self.at += 1
            if name not in self.failed: self.row(name, f'{self.at:>{len(str(n))}}/{n} {name:{width}} seed {seed}')

    def row(self, name, label):
        try: one = self.plan.run(name, self.plans.get(name), label)
        except Exception as e:
            if not self.found: raise     # nothing is lost
            self.failed[name] = ' '.join(f'{type(e).__name__}: {e}'.split())
            self.cause = self.cause or e
            robust_warn(f"row {name!r}, seed {self.plan.seed} failed and is left out from here on: {self.failed[name]}")
            return
        self.found.append(one)
        if not self.verbose: return
        line = f'{label} {one.said()}'
        print(f'\r{line:100}' if self.plan.set.show else line, flush=True)     # over its bar

    def interrupted(self):
        "Say what Ctrl-C left out"
        done = {(o.run['seed'], o.run['row']) for o in self.found}
        told = []
        for name in self.plans:
            left = [str(s) for s in self.seeds if (s, name) not in done]
            if left and name not in self.failed: told.append(f"{name!r} (seed {', '.join(left)})")
        self.stop = f"Interrupted: finished runs are kept, missing are {'; '.join(told)}."
        robust_warn(self.stop)

    def study(self):
        "The result"
        if not self.students:
            raise RuntimeError("expected at least one row to train, got none. The first to fail was "
                               f"{next(iter(self.failed), None)!r}, with the error above: mend that one and run "
                               "again.") from self.cause
        parts = {}
        for o in self.found:
            for m,pair in o.parts.items(): parts.setdefault(m, []).append(pair)
        notes = [f"Row {o!r} failed ({why}); finished seeds are kept." for o,why in self.failed.items()]
        notes += dict.fromkeys(self.plan.notes)
        if self.stop: notes.append(self.stop)
        curves = [o.curve for o in self.found if o.curve is not None]
        return MimStudy([o.run for o in self.found], curves, parts, notes, self.stop)

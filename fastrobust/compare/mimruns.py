"The runs of a study of TinyMIM: a student pretrained, probed, fine-tuned on few labels, and tried on other images"
import copy
from typing import NamedTuple
import numpy as np, pandas as pd
from fastai.callback import schedule   # noqa: F401 (gives Learner its fit_one_cycle)
from fastcore.basics import noop
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.torch_core import set_seed
from fastrobust.basics import n_classes, robust_warn, said_once
from fastrobust.calibration.report import calibration_report
from fastrobust.compare.mimreport import TEACHER
from fastrobust.compare.mimnets import (closed, maker_of, need_blocks, need_layers, need_net, teacher_of,
                                        untrained)
from fastrobust.compare.run import one_run
from fastrobust.data.editing import check_dls, given_labels, take_items
from fastrobust.ood.report import ood_report
from fastrobust.resting import keep_random
from fastrobust.shift.corruptionreport import corruption_report
from fastrobust.systems.closedform import closed_form_head
from fastrobust.systems.tinymim.distilling import InsideTechnique
from fastrobust.systems.tinymim.learner import tinymim_learner
from fastrobust.systems.tinymim.probe import as_learned, linear_probe

__all__ = []

class One(NamedTuple):
    "A finished row of a seed"
    run:dict
    curve:pd.DataFrame|None     # Of the pretraining
    parts:dict                  # Measure -> (run, curve) as `compare` has them

    def said(self):
        "A line for a reader who waits"
        told = [f'{m} {self.run[m]:.3f}' for m in self.parts]
        if self.curve is not None: told.append(f'{self.run["seconds"]:.0f} s')
        return ', '.join(told)

def few_of(
    y,      # Labels (n,)
    n,      # How many items
    seed=0  # Of the draw
):          # Positions int (n,), rising
    "Items drawn at random, as many of each class as can be"
    order = np.random.default_rng(seed).permutation(len(y))
    turn = np.empty(len(y), dtype=int)
    for k in np.unique(y):
        mine = order[y[order] == k]
        turn[mine] = np.arange(len(mine))
    rank = np.argsort(turn[order], kind='stable')
    return np.sort(order[rank][:n])

def few_dls(dls, n, seed):
    "Loaders of `n` training images, four batches an epoch at least; validation as it is"
    y = given_labels(dls)
    if n > len(y):
        raise ValueError(f"expected at most {len(y)} `labels`, one for each training image, got {n}. Say "
                         f"labels={len(y)}.")
    small = take_items(dls, few_of(y, n, seed))
    bs = min(dls.train.bs, max(2, n//4))
    with keep_random(): small.loaders[0] = small.train.new(bs=bs, drop_last=n >= bs)
    return small

class Settings(NamedTuple):
    "What every run of a study is made with, see `tinymim_study`"
    student:object
    middle:object
    epochs:int
    lr:float
    labels:list
    tune_epochs:int
    tune_lr:float
    cut:str|None
    layers:list
    robustness:bool|dict
    unknown:object
    show:bool

class Plan:
    "The runs of a study; of the seed under way it has data and teacher"
    def __init__(self, settings, rows):
        self.set,self.rows = settings,rows
        self._said:set = set()
        self.notes:list = []    # For the reader

    def start(self, seed, dls, teacher):
        "Go on with a seed"
        check_dls(dls)
        self.seed,self.dls = seed,dls
        self.images = DataLoaders(*dls.loaders, path=dls.path, device=dls.device)     # without a record of noise
        with said_once(self._said): self.teacher = None if teacher is None else teacher_of(teacher, dls)
        # techniques and probe show a Learner's network images as it knows them
        self.given = teacher if isinstance(teacher, Learner) else self.teacher
        self._need_layers()
        self._tell_few()
        self.few = {n: few_dls(dls, n, seed) for n in self.set.labels}

    def _need_layers(self):
        "Refuse what is too deep for the student, the teacher or the middle, before anything trains"
        student = need_net(maker_of(self.set.student, 'student', self.dls, self.teacher))
        need_layers(student, self.set.layers, 'the student')
        if self.teacher is None: return
        if closed(self.teacher, 'blocks') is None: need_layers(self.teacher, self.set.layers, 'the teacher')
        for name,row in self.rows.items():
            nets = {'the teacher': self.teacher}
            if row.middle and row.block is not None:
                nets['the middle'] = need_net(maker_of(self.set.middle, 'middle', self.dls, self.teacher))
            need_blocks(nets, row.block, name)

    def _tell_few(self):
        "Classes without a label"
        c = n_classes(self.dls)
        few = [n for n in self.set.labels if n < c]
        if not few: return
        with said_once(self._said):
            robust_warn(f"labels={tuple(few)} of {c} classes: some classes have no image to learn from. Say "
                        f"labels=({c},), or more.")

    # --- one row ---
    def run(self, name, row, label):
        "All of a row for this seed"
        parts,curve = {},None
        base = dict(row=name, seed=self.seed, given=None, epochs=self.set.epochs, peak_MB=float('nan'), acts=name)
        run = dict(row=name, seed=self.seed, loss_before=float('nan'), loss_after=float('nan'), seconds=float('nan'))
        if name == TEACHER: mim = untrained(self.images, self.teacher)
        else:
            mim,found,curve = self.pretrained(name, row, label)
            run.update(found)
        run['parameters'] = sum(p.numel() for p in mim.student.parameters())
        if name == TEACHER and not self._opens('probe, no classifier', 'blocks'): return One(run, None, {})
        net = self.given if name == TEACHER else mim.student
        for k in self.set.layers:
            p = linear_probe(net, self.dls, layer=k, verbose=False)
            self._put(parts, base, 'probe' if len(self.set.layers) == 1 else f'probe {k}', float(p))
        if name == TEACHER: learn = self._solved(mim, base, parts)
        else: learn = self._tuned(name, mim, parts, label)
        self._tried(learn, base, parts)
        for m,(r,c) in parts.items(): run[m] = float(c[r['metric']].iloc[-1])
        return One(run, curve, parts)

    def _opens(self, what, part):
        "Can the teacher be looked into? Else a note says why"
        why = closed(self.teacher, part)
        if why: self.notes.append(f"No {what} of the teacher: {why}")
        return why is None

    def _put(self, parts, base, measure, value, metric=None):
        "A number as `compare` would have it, after one epoch"
        metric = metric or measure
        curve = pd.DataFrame({metric: [value], 'row': base['row'], 'seed': self.seed, 'epoch': 1})
        parts[measure] = dict(base, metric=metric, seconds=float('nan')),curve

    # --- pretraining ---
    def pretrained(self, name, row, label):
        "(learner of the pretraining, numbers of the run, curve) of a row"
        make = maker_of(self.set.student, 'student', self.dls, self.teacher, row.drop_path)
        if row.make is None:
            set_seed(self.seed)
            return untrained(self.images, make()),dict(seconds=0.),None
        teacher,before = self.given,0.
        if row.needs_teacher and teacher is None:
            raise ValueError(f"row {name!r} expected a teacher, got None. Give one, or take rows=('scratch', 'mae').")
        if row.middle:
            middle = maker_of(self.set.middle, 'middle', self.dls, self.teacher)
            mim,first,_ = self._fitted(name, middle, row.make(teacher), f'{label} middle')
            teacher,before = mim.student,first['seconds']
        mim,found,curve = self._fitted(name, make, row.make(teacher), label)
        found['seconds'] += before
        return mim,found,curve

    def _fitted(self, name, make, techniques, label):
        inside = [t for t in techniques if isinstance(t, InsideTechnique)]
        others = [t for t in techniques if not isinstance(t, InsideTechnique)]
        box,before = [],[]
        def build():
            learn = tinymim_learner(self.images, make(), technique=inside, cbs=others)
            with learn.no_bar(), learn.no_logging(): before.append(float(learn.validate()[0]))
            return learn
        def fit(learn, n):
            learn.fit_one_cycle(n, self.set.lr)
            box.append(learn)
        run,curve = one_run(build, name, None, self.set.epochs, self.seed, None, fit, label, self.set.show, [])
        found = dict(loss_before=before[0], loss_after=float(curve.valid_loss.iloc[-1]), seconds=run['seconds'])
        return box[0],found,curve

    # --- fine-tuning ---
    def _tuned(self, name, mim, parts, label):
        "The classifier of most labels; None without fine-tuning"
        learn = None
        # nothing in a new network is worth keeping by small rates
        kw = dict(layer_decay=None) if mim.opt is None else {}
        for n,dls in self.few.items():
            box = []
            def build(dls=dls): return mim.to_classifier(dls, self.set.cut, metrics=accuracy, **kw)
            def fit(learn, k, box=box):
                learn.fit_one_cycle(k, self.set.tune_lr)
                box.append(learn)
            parts[f'{n} labels'] = one_run(build, name, None, self.set.tune_epochs, self.seed, None, fit,
                                           f'{label} {n} labels', self.set.show, [])
            learn = box[0]
        return learn

    def _solved(self, mim, base, parts):
        "The teacher with a head in closed form on most labels"
        if not self.few or not self._opens('classifier', 'attention'): return None
        learn,look = None,as_learned(self.given, self.dls)
        def before(_model, xb): return look(xb[0]),*xb[1:]
        for n,dls in self.few.items():
            learn = mim.to_classifier(dls, metrics=accuracy)
            if look is not noop: learn.model.register_forward_pre_hook(before)
            with learn.no_bar(), learn.no_logging():
                closed_form_head(learn, head='last', verbose=False)
                self._put(parts, base, f'{n} labels', float(learn.validate()[1]), 'accuracy')
        return learn

    # --- other images ---
    def _tried(self, learn, base, parts):
        "Corruptions, calibration and unknown images"
        if learn is None or not (self.set.robustness or self.set.unknown is not None): return
        settings = dict(self.set.robustness) if isinstance(self.set.robustness, dict) else {}
        with learn.no_bar(), said_once(self._said):
            if self.set.robustness:
                found = corruption_report(learn, **settings).summary
                self._put(parts, base, 'corrupted', 1-float(found['mean_corruption_error']))
                self._put(parts, base, 'calibration error', float(calibration_report(learn).summary['ece']))
            if self.set.unknown is not None:
                rep = ood_report(learn, copy.copy(self.set.unknown), scores='msp')
                self._put(parts, base, 'AUROC', float(rep.table[rep.table.set != 'mean'].AUROC.mean()))

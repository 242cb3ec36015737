"Accuracy phase by phase, beside three other heads on the same features: the evidence for and against the closed form"
import numpy as np, pandas as pd
import torch
from fastrobust.reporting.report import Report
from fastrobust.systems.acil.charts import draw_phases
from fastrobust.systems.acil.rivals import ClassMeans, GradientHead
from fastrobust.systems.acil.past import key_of
from fastrobust.systems.acil.scores import class_accuracies, group_matrix, phase_numbers

__all__ = []

class PhaseReport(Report):
    "`phase_table`: numbers of each phase; `matrix`, accuracy of each phase's classes after each; `by_class`"
    def __init__(self, table, past, summary, notes, vocab):
        by_class = class_accuracies(past)
        self.by_class = by_class.set_axis([vocab[k] for k in by_class.columns], axis=1)
        self.matrix = group_matrix(past)
        super().__init__(table, summary, draw_phases, name='phases', notes=notes)
        s = self.summary
        self.title = f"{len(table)} phases, {s.classes} classes: accuracy {s.accuracy:.3f} at the end"
        if len(table) > 1: self.title += f", {s.average:.3f} on average; forgetting {s.forgetting:.3f}"

    def files(self):
        return {**super().files(), 'phases_matrix': self.matrix, 'phases_by_class': self.by_class}

# --- other heads on the same features -------------------------------------------------------------
def _recognised(predict, valid):
    "Share of the validation rows so far that `predict` gets right"
    found = [(int((predict(f) == y).sum()), len(y)) for rows in valid for f,y in rows.blocks()]
    return sum(a for a,_ in found)/max(1, sum(b for _,b in found))

def _rivals(learn, keys, seed):
    "Accuracy after each phase of joint training, class means and a layer trained by gradients; and the last joint head"
    own = learn.model.head
    means,layer = ClassMeans(own.d),GradientHead(own.d, learn.model.n_out, seed)
    rows,valid,out = [],[],[]
    for key in keys:
        rows.append(learn.rows[key])
        if key in learn.valid_rows: valid.append(learn.valid_rows[key])
        f,y = rows[-1].f,rows[-1].y
        means.fit(f, y)
        layer.fit(own.scaled(f.double()), y)
        joint = own.empty().fit(torch.cat([r.f for r in rows]), torch.cat([r.y for r in rows]))
        out.append({'joint': _recognised(joint.predict, valid), 'NCM': _recognised(means.predict, valid),
                    'SGD': _recognised(lambda f: layer.predict(own.scaled(f.double())), valid)})
    return pd.DataFrame(out, [p.name for p in learn.past]),joint

def _gap(learn, joint):
    "Largest difference of a score between the learner's head and that of joint training"
    own = learn.model.head
    order = [joint.classes.index(k) for k in own.classes]
    gaps = [(own(f.double())-joint(f.double())[:, order]).abs().max().item()
            for rows in learn.valid_rows.values() for f,_ in rows.blocks()]
    return max(gaps, default=np.nan)

# --- the table ------------------------------------------------------------------------------------
_COLUMNS = ("accuracy: of all classes so far; old, new: of those that came before and with the phase; "
            "balanced: mean over classes; average: of the accuracies so far; forgetting: best accuracy "
            "of a class so far less today's, averaged over old classes.")
_RIVALS = ("On the same features: joint, this head fitted to all items so far at once; NCM, nearest "
           "class mean by angle; SGD, a linear layer trained by Adam (10 epochs, 1e-3) on each phase's "
           "items alone.")

def phase_table(
    learn,          # ACILLearner that has learned phases
    rivals=True,    # Other heads on the same features too? These are gone after an export
    seed=0          # Of the layer trained by gradients
)->PhaseReport:
    "Table of phases: accuracy on all, old and new classes, forgetting; and what other heads reach on the same features"
    if not learn.past:
        raise ValueError("expected a learner that has learned phases, got none. Call `fit_phases()`.")
    if not any(p.hits for p in learn.past):
        raise ValueError("expected validation items to measure on, got none. Give dls with a "
                         "validation set.")
    table = phase_numbers(learn.past)
    last = table.iloc[-1]
    summary = dict(classes=int(last.classes), accuracy=last.accuracy, average=last.average,
                   forgetting=last.forgetting, balanced=last.balanced, gamma=learn.past[-1].gamma, T=learn.past[-1].T)
    notes = [_COLUMNS]
    keys = [key_of(learn.past, i) for i in range(len(learn.past))]
    there = [k in learn.rows for k in keys]
    if rivals and all(there):
        more,joint = _rivals(learn, keys, seed)
        # by position: two phases may have one name
        for k in more: table[k] = more[k].to_numpy()
        summary.update(joint_gap=_gap(learn, joint), **{f'{k}_average': more[k].mean() for k in more})
        notes.append(_RIVALS)
    elif rivals:
        notes.append("Other heads are not shown: the features of earlier phases are gone, as after an "
                     "export, `load` or `forget`.")
    if table.accuracy.isna().any():
        notes.append("nan: no validation items of any class were at hand after that phase.")
    noise = getattr(getattr(learn.plan, 'dls', None), 'noise', None)
    if noise is not None: notes.append(f"{noise.realised_rate:.1%} of the training labels are wrong on purpose.")
    return PhaseReport(table, learn.past, summary, notes, learn.model.head.vocab)

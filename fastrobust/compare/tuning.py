"Settings a paper tunes per data set, found on held-out noisy labels"
import copy, random
from numbers import Real
import pandas as pd
from matplotlib.figure import Figure
from fastai.callback import progress, schedule  # noqa: F401 (give Learner no_bar and fit_one_cycle)
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.optimizer import OptimWrapper
from fastai.torch_core import set_seed
from fastrobust.basics import need_learner, robust_warn
from fastrobust.data.holdout import hold_out
from fastrobust.reporting.style import BLUE, VERMILION, axes_on
from fastrobust.resting import keep_random
from fastrobust.techniques.logitclip import LogitClip
from fastrobust.training.objective import inner_loss
from fastrobust.training.technique import Technique

__all__ = ['find_tau']

# 1/tau as the paper tunes it
GRID = tuple(1/t for t in (.1, .5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5))

def plot_tau(
    curve,      # What `find_tau` returned, or its `curve`: DataFrame with `tau` and `accuracy`
    ax=None     # matplotlib Axes; None makes a new figure
)->Figure:
    "Accuracy on held-out noisy labels against tau, the best marked"
    ax = axes_on(ax, (5, 3.2))
    curve = getattr(curve, 'curve', curve)
    c = curve.sort_values('tau')
    best = curve.loc[curve.accuracy.idxmax()]
    ax.semilogx(c.tau, c.accuracy, 'o-', color=BLUE)
    ax.plot(best.tau, best.accuracy, 'D', ms=9, color=VERMILION, label=f'tau = {best.tau:.3g}')
    ax.set(xlabel="tau (bound on the logits' norm)", ylabel='accuracy on held-out\nnoisy labels',
           title='LogitClip: finding tau')
    lo,hi = c.tau.min()*.99,c.tau.max()*1.01
    ticks = [a*10.**k for k in range(-3, 4) for a in (1, 2, 5)]
    ticks = [t for t in ticks if lo < t < hi]
    ax.set_xticks(ticks, [f'{t:g}' for t in ticks])
    ax.minorticks_off()
    ax.legend()
    ax.grid(alpha=.3)
    return ax.figure

class FoundTau(float):
    "LogitClip's tau, a number, and the `curve` it was chosen by: `tau`, `accuracy` of the last epoch, `best` of any"
    curve:pd.DataFrame
    def __new__(cls,
        curve   # DataFrame with `tau` and `accuracy`, one row for each tau tried
    ):
        best = curve.accuracy.idxmax()
        found = super().__new__(cls, curve.tau[best])
        found.curve = curve
        return found

    def __getnewargs__(self): return (self.curve,)
    def plot(self,
        ax=None # Axes to draw on; None: a new figure
    )->Figure:
        "Accuracy on held-out noisy labels against tau"
        return plot_tau(self.curve, ax)

def _trial(learn, dls, tau):
    "A learner like `learn`, from the same weights, on `dls`"
    techniques = [t for t in learn.cbs if isinstance(t, Technique)]
    others = [t.clone() for t in techniques if not isinstance(t, LogitClip)]
    model = copy.deepcopy(learn.model)
    loss = copy.deepcopy(inner_loss(learn.loss_func))
    return Learner(dls, model, loss_func=loss, opt_func=learn.opt_func, lr=learn.lr,
                   path=learn.path, splitter=learn.splitter, metrics=accuracy, wd=learn.wd,
                   moms=learn.moms, wd_bn_bias=learn.wd_bn_bias, train_bn=learn.train_bn,
                   cbs=[LogitClip(tau), *others])

def find_tau(
    # An untrained learner, with or without LogitClip; it and all random streams are left as they
    # are. Trials have its network, loss, optimizer and other techniques, not its other callbacks:
    # see `fit`
    learn,
    grid=None,      # Values of tau to try; None: the paper's grid, 1/tau in 0.1, 0.5, 1, 1.5, .. 5
    epochs=None,    # Epochs for each value; None: 10
    *,
    pct:float=.1,   # Share of the training items held out with their given labels, as in the paper
    seed:int=0,     # Of the split and of every trial
    fit=None,       # Function (learner, epochs) that trains a trial; None: `fit_one_cycle` at the learner's `lr`
    plot:bool=True  # Draw the curve
)->FoundTau:
    "LogitClip's tau by accuracy on held-out *noisy* labels (arXiv 2212.04055), and the `curve` it was chosen by"
    need_learner(learn)
    if isinstance(grid, Real):
        raise TypeError(f"expected `grid` as a list of values of tau, got {grid}. Write [{grid}].")
    grid = sorted(GRID if grid is None else grid)
    if not grid or not all(t > 0 for t in grid):
        raise ValueError(f"expected positive values of tau in `grid`, got {list(grid)}. None takes "
                         "the paper's.")
    if epochs is None: epochs = 10
    if epochs < 1: raise ValueError(f"expected at least one epoch, got {epochs}.")
    if any(t.surgery for t in learn.cbs if isinstance(t, Technique)):
        raise ValueError("expected a learner with one unchanged network, got one under surgery. "
                         "Find tau before you add that technique.")
    if isinstance(learn.opt_func, OptimWrapper):
        raise ValueError("expected `opt_func` as a function that makes an optimizer, got one made "
                         "for this network. Give the Learner e.g. partial(OptimWrapper, "
                         "opt=torch.optim.SGD).")
    if getattr(getattr(learn, 'recorder', None), 'values', None):
        robust_warn("the learner is trained already, so every tau starts from its weights. Find "
                    "tau before training.")
    fit = fit or (lambda o, n: o.fit_one_cycle(n, o.lr))
    rows = []
    with keep_random():
        dls = hold_out(learn.dls, pct, seed=seed)
        for tau in grid:
            set_seed(seed)
            for dl in dls.loaders:
                dl.rng = random.Random(seed)     # fastai's loaders shuffle by a stream of their own
            trial = _trial(learn, dls, tau)
            with trial.no_logging(), trial.no_bar(): fit(trial, epochs)
            accs = [float(v[2]) for v in trial.recorder.values]
            rows.append(dict(tau=tau, accuracy=accs[-1], best=max(accs)))
            print(f"tau {tau:7.3f}   accuracy on held-out noisy labels {accs[-1]:.4f}")
    tau = FoundTau(pd.DataFrame(rows))
    if plot: plot_tau(tau.curve)
    return tau

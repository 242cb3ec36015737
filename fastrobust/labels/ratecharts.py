"How the rate of wrong labels was found, in one picture"
import numpy as np
from fastrobust.reporting.style import BLUE, DARK, VERMILION, new_figure, tidy

__all__ = []

def _tails(rep, ax):
    "How the two distributions part"
    tails = rep.estimate.tails
    own = np.sort(tails.own)
    curves = [(own, (np.arange(len(own))+1)/len(own), BLUE, 'labels as given', '-'),
              (tails.rivals, tails.cumulated(rep.law), VERMILION, 'labels planted like the errors found', '--')]
    for v,share,color,label,style in curves:
        i = np.linspace(0, len(v)-1, min(len(v), 2000)).astype(int)
        ax.plot(v[i], share[i], style, color=color, lw=2, label=label)

    t = rep.tail
    ax.axvline(t.threshold, color=DARK, lw=1,
               label=f"tail: {t.given:.1%} of the given, {t.planted:.0%} of the planted")
    ax.plot([t.threshold]*2, [t.given, t.planted], 'o', color=DARK, ms=5)
    ax.set(xlabel='normalised margin of the label (low = doubtful)', ylabel='share of labels below',
           xlim=(0, 1), ylim=(0, 1.02), title='How doubtful labels look')
    tidy(ax, 'both')
    ax.legend(frameon=False, loc='upper center', bbox_to_anchor=(.5, -.17), fontsize=9, ncols=2)

def _rates(rep, ax):
    "The estimates, one a row, and the interval"
    e = rep.estimates.rate[::-1]
    if rep.trusted:
        ax.axvspan(rep.lo, rep.hi, color=BLUE, alpha=.15, lw=0,
                   label=f'interval {rep.lo:.1%} to {rep.hi:.1%}')
        ax.axvline(rep.rate, color=BLUE, lw=2, label=f'reported {rep.rate:.1%}')
    colors = {'planted tail': BLUE, 'label channel': BLUE}     # the two that count
    ax.scatter(e, range(len(e)), c=[colors.get(k, DARK) for k in e.index], s=36, zorder=3)
    for i,v in enumerate(e):
        if not np.isfinite(v): continue
        ax.annotate(f'{v:.1%}', (v, i), xytext=(7, 5), textcoords='offset points', fontsize=9)
    far = [rep.hi, *e] if rep.trusted else e
    top = max(.1, 1.25*float(np.nanmax(far)))      # with room for the last number
    title = 'Estimates beside each other'
    if not rep.trusted: title = 'None of these can be trusted here'
    tidy(ax, 'x')
    ax.set(yticks=range(len(e)), yticklabels=list(e.index), xlim=(0, top), ylim=(-.6, len(e)-.3),
           xlabel='share of wrong labels', title=title)
    if rep.trusted:
        ax.legend(frameon=False, loc='upper center', bbox_to_anchor=(.5, -.17), fontsize=9, ncols=2)

def draw_rates(rep, figsize=(11, 4.6)):
    axs = new_figure(figsize).subplots(1, 2)
    _tails(rep, axs[0])
    _rates(rep, axs[1])
    return axs

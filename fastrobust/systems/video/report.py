"`video_report`: how far one's own model of clips can be fooled within a budget of questions, beside honest controls"
# Wei, Wang, Yan, AstFocus: Efficient Robustness Assessment via Adversarial Spatial-Temporal Focus on Videos,
# https://arxiv.org/abs/2301.00896
import math
from fastrobust.basics import need_learner, need_whole, robust_warn, target_vocab
from fastrobust.inference.notes import Bar
from fastrobust.systems.video.attack.astfocus import AstFocus
from fastrobust.systems.video.attack.blackbox import BlackBox
from fastrobust.systems.video.attack.whitebox import true_gradient
from fastrobust.systems.video.reportclips import ME, chosen_clips
from fastrobust.systems.video.reportcontrols import BOUND, DENSE, RANDOM, Plan, names_of, need_attack
from fastrobust.systems.video.reportresult import VideoReport
from fastrobust.systems.video.reportrows import KEPT, Watch, measured

__all__ = ['video_report']

class _Runs:
    "Attacks one after the other on the same clips, and where Ctrl-C stopped them"
    def __init__(self, learn, chosen, plan):
        self.learn,self.chosen,self.plan = learn,chosen,plan
        self.rows:list = []
        self.stopped = None
        self.watch = Watch(learn.model)
        self.bar = Bar(learn, len(plan.runs))

    def all(self):
        "Every row that there is time for"
        try:
            for name in self.plan.runs:
                self.bar.name(name)
                if not self.one(name): raise KeyboardInterrupt
                self.bar.tick()
        except KeyboardInterrupt:
            if not self.rows: raise
            self.stop()

    def one(self, name):
        "A row; whether all of its clips are finished"
        clips,y = self.chosen.clips,self.chosen.y
        self.watch.seconds = 0.
        with self.watch.running(): result = self.plan.runs[name](self.learn, clips, y)
        inside = self.watch.seconds
        if not result.finished: raise KeyboardInterrupt
        self.by_batch(name, result)
        self.by_patience(name, result)
        # of the bound's time much goes to the way back
        asks = name != BOUND
        whole = result.finished == len(clips)
        # nor is it known how much of it went to the clip that Ctrl-C cut off
        row = measured(name, clips, result, asks, inside if asks and whole else math.nan)
        self.plan.see(row)
        self.rows.append(row)
        return whole

    def by_batch(self, name, result):
        "Say where a victim that was right in a batch is wrong on a clip alone"
        k = int(result.wrong.sum())
        if not k: return
        note = f"{name}: asked about one clip at a time, the victim is wrong on {k} that it was right on in a batch"
        if k == result.finished:
            raise ValueError(f"{ME} expected a victim whose answer is that of the clip, got one that answers by the "
                             f"batch. {note}. Is something in it still training, such as BatchNorm?")
        self.plan.notes.append(f'{note}; they count as not fooled.')

    def by_patience(self, name, result):
        "Say where few queries mean that the attack gave up"
        k = result.ends.count('patience')
        if not k: return
        after = f'after {self.plan.attack.patience} steps without a better score'
        self.plan.notes.append(f'{name}: gave up on {k} clips before the budget was spent ({after}); they count with '
                               'the queries until then.')

    def stop(self):
        "Say what Ctrl-C left out"
        done = [r.name for r in self.rows]
        left = [o for o in self.plan.runs if o not in done]
        n,last = len(self.chosen.clips),self.rows[-1]
        told = ['Interrupted:']
        if len(last) < n: told.append(f'{last.name} has finished {len(last)} of {n} clips.')
        if left: told.append(f"Left out: {', '.join(left)}.")
        told.append('Differences are over the clips that both finished.')
        self.stopped = ' '.join(told)
        robust_warn(f'{ME}: {self.stopped}')

def _need_clips(chosen):
    "Refuse what the attack could not do anyway"
    if len(chosen.y) < 2:
        raise ValueError(f"{ME} expected at least 2 clips that the victim is right on, got "
                         f"{len(chosen.y)}: one has no standard error. Give more as `dl`.")

def _need_bound(learn, chosen, plan):
    "Refuse a victim without a gradient before the others have run"
    if BOUND not in plan.runs: return
    box = BlackBox(learn)
    x = chosen.clips[0].to(box.victim.device)
    with box.rest(): true_gradient(box, x, int(chosen.y[0]))

def video_report(
    learn,              # A Learner that classifies clips, one's own; it stays as it is
    attack=None,        # A `VideoAttack`; None: AstFocus(seed=seed)
    n=32,               # Clips to attack, drawn from those the victim is right on
    *,
    dl=None,            # Loader with labels; None: the validation loader
    # All (True), none (False), or names of 'random masks', 'dense NES', 'centre box', 'motion mask',
    # 'sign noise', 'white-box PGD'
    controls=True,
    alphas=(),          # Step sizes that dense NES is run with besides, a row each
    noise=None,         # Draws of sign noise a clip; None: as many as the budget allows
    seed=0              # Of the draw of clips
)->VideoReport:
    """Attack clips that the victim is right on, for an assessment of one's own model, and run every control on the same
    clips, with the same step, budget and seeds (https://arxiv.org/abs/2301.00896). First comes the victim's clean
    accuracy: below twice chance nothing is attacked. Ctrl-C returns what is finished. For example

        rep = video_report(learn, AstFocus(eps=.03, budget=2000), n=64, alphas=(.003, .03))
        rep, rep.plot(), rep.plot_clips(4), rep.save('folder')

    Masks of the controls are as large as those of the attack were in the mean. 'white-box PGD' has the victim's
    gradient, which no attack here has: it says how much there is to be found. In our trials learnt masks asked
    2 to 3 % more than random ones, and changed less than dense NES (nbs/benchmarks/RESULTS.md); what holds for a
    victim its table says"""
    need_learner(learn)
    need_whole('n', n, 2, what='clips')
    need_whole('seed', seed, 0)
    attack = need_attack(AstFocus(seed=seed) if attack is None else attack)
    plan = Plan(attack, names_of(controls), alphas, noise)
    chosen = chosen_clips(learn, dl, n, seed)
    _need_clips(chosen)
    _need_bound(learn, chosen, plan)
    runs = _Runs(learn, chosen, plan)
    runs.all()

    facts:dict = dict(accuracy=chosen.accuracy, low=chosen.low, high=chosen.high, seen=chosen.seen)
    # two seeds: of the draw of clips, and of the attack
    facts |= plan.settings
    facts |= dict(attack=plan.name, seed=seed, attack_seed=attack.seed)
    facts['asked_about'] = RANDOM,DENSE
    vocab = target_vocab(learn.dls) if getattr(learn.dls, 'vocab', None) is not None else None
    notes = [*chosen.notes, *plan.notes]
    return VideoReport(runs.rows, chosen.clips[:KEPT].clone(), chosen.y, chosen.ids, facts, vocab, notes,
                       runs.stopped)

"The report on attacks: its numbers by hand, its controls, what it refuses, what Ctrl-C leaves"
import math
from time import sleep
from types import SimpleNamespace
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from conftest import params, tiny_learner
from fastrobust.basics import RobustWarning
from fastrobust.systems.video.attack.astfocus import AstFocus
from fastrobust.systems.video.attack.blackbox import BlackBox
from fastrobust.systems.video.attack.loop import VideoAttack
from fastrobust.systems.video.attack.masks import DenseMasks
from fastrobust.systems.video.charts import curve_of
from fastrobust.systems.video.pictures import spread_frames
from fastrobust.systems.video.report import video_report
from fastrobust.systems.video.reportclips import chosen_clips, least_accuracy
from fastrobust.systems.video.reportcontrols import CONTROLS, Plan, RandomOfArea, names_of
from fastrobust.systems.video.reportresult import VideoReport, word
from fastrobust.systems.video.reportrows import measured, numbers, paired, reach, sign_test
from fastrobust.systems.video.ssim import clip_ssim, window
from fastrobust.systems.video.videoarrays import clip_dls

# --- structural similarity -------------------------------------------------------------------------------------------
def slow_ssim(a, b, side):
    "The equations of the paper for two planes, a window at a time, float64"
    r = side//2
    w = np.array([[math.exp(-((i-r)**2 + (j-r)**2)/(2*1.5**2)) for j in range(side)] for i in range(side)])
    w /= w.sum()
    found = []
    for i in range(a.shape[0]-side+1):
        for j in range(a.shape[1]-side+1):
            p,q = a[i:i+side, j:j+side],b[i:i+side, j:j+side]
            mp,mq = (w*p).sum(),(w*q).sum()
            vp,vq = (w*(p-mp)**2).sum(),(w*(q-mq)**2).sum()
            cov = (w*(p-mp)*(q-mq)).sum()
            light = (2*mp*mq + .01**2)/(mp**2 + mq**2 + .01**2)
            found.append(light*(2*cov + .03**2)/(vp + vq + .03**2))
    return np.mean(found)

@pytest.mark.parametrize('h,w,side', [(14, 13, 11), (12, 8, 7), (6, 20, 5)])
def test_ssim_is_the_slow_formula(h, w, side):
    g = torch.Generator().manual_seed(0)
    a = torch.rand(2, 2, 3, h, w, generator=g)
    b = (a + .1*torch.randn(a.shape, generator=g)).clamp(0, 1)
    x,y = a.double().numpy(),b.double().numpy()
    want = [np.mean([slow_ssim(x[n, c, t], y[n, c, t], side) for c in range(2) for t in range(3)]) for n in range(2)]
    got = clip_ssim(a, b)
    assert got.dtype == torch.float64 and got.tolist() == pytest.approx(want, abs=1e-9)
    assert 0 < got.min() < got.max() < 1

def test_ssim_of_a_clip_and_itself_is_1_and_order_does_not_matter():
    g = torch.Generator().manual_seed(1)
    a,b = torch.rand(2, 3, 1, 2, 16, 16, generator=g)
    assert clip_ssim(a, a).tolist() == pytest.approx([1]*3, abs=1e-12)
    assert torch.allclose(clip_ssim(a, b), clip_ssim(b, a)) and clip_ssim(a, b).max() < .5
    assert window(11).sum() == pytest.approx(1)
    flat = torch.full((1, 1, 1, 12, 12), .5)                # of constants nothing but the light is left
    assert clip_ssim(flat, flat+.1).item() == pytest.approx((2*.5*.6 + 1e-4)/(.25 + .36 + 1e-4))
    with pytest.raises(ValueError, match='one shape, got'): clip_ssim(a, b[:2])

# --- the numbers of a row --------------------------------------------------------------------------------------------
def result(success, queries, changes, finished=None, **kw):
    "Clips of four pixels in one frame (window 1), changed by so many 255ths"
    n = len(success)
    adv = torch.full((n, 1, 2, 2, 2), .5) + torch.tensor(changes).view(n, 1, 1, 1, 1)/255
    facts = dict(success=torch.tensor(success), queries=torch.tensor(queries), adv=adv, map=torch.tensor(changes),
                 area=torch.full((n,), .25), touched=torch.ones(n), seconds=torch.full((n,), 2.),
                 masks=torch.rand(n, 2, 2, 2), answers=np.arange(n), finished=n if finished is None else finished)
    return SimpleNamespace(**facts | kw)

CLIPS = torch.full((4, 1, 2, 2, 2), .5)
def a_row(name, *args, asks=True, inside=4., clips=CLIPS, **kw):
    return measured(name, clips, result(*args, **kw), asks, inside)

ATTACK = 'mine',[True, True, False, True],[10, 20, 100, 30],[1., 2., 5., 3.]
OTHER = 'random masks',[True, False, False, True],[30, 100, 100, 20],[2., 6., 6., 5.]

def test_a_row_by_hand():
    d = numbers(a_row(*ATTACK))
    assert d['clips'] == 4 and d['fooled'] == .75 and d['low'] < .75 < d['high']
    assert d['queries'] == 40 and d['queries_fooled'] == 20 and d['change'] == 2.75 and d['change_fooled'] == 2
    assert d['queries_fooled_se'] == pytest.approx(10/3**.5) and d['change_fooled_se'] == pytest.approx(1/3**.5)
    assert d['area'] == .25 and d['seconds'] == 2 and d['in_victim'] == .5      # 4 s of 4 clips of 2 s
    none = numbers(a_row('none', [False]*4, [9]*4, [0.]*4))
    assert none['fooled'] == 0 and none['high'] > .3 and math.isnan(none['queries_fooled']) and none['ssim'] == 1
    bound = numbers(a_row(*ATTACK, asks=False))
    assert math.isnan(bound['queries']) and bound['change'] == 2.75

def test_differences_are_paired_by_clip():
    d = paired(a_row(*ATTACK), a_row(*OTHER))
    diff = np.array([-20, -80, 0, 10.])
    assert d['d_queries'] == diff.mean() and d['d_queries_se'] == pytest.approx(diff.std(ddof=1)/2)
    assert d['d_fooled'] == .25 and d['d_fooled_se'] == pytest.approx(np.std([0, 1, 0, 0], ddof=1)/2)
    assert d['both'] == 2 and d['d_change'] == -1.5 and d['d_change_se'] == pytest.approx(.5)   # of clips 1 and 4
    short = paired(a_row(*ATTACK), a_row(*OTHER, finished=2))        # what Ctrl-C left
    assert short['d_queries'] == -50 and short['both'] == 1 and math.isnan(short['d_change_se'])

def test_the_curve_by_hand():
    q,share = curve_of([True, True, False, True], [10, 30, 100, 10])
    assert q.tolist() == [0, 10, 30] and share.tolist() == [0, .5, .75]
    q,share = curve_of([False, False], [5, 5])
    assert q.tolist() == [0] and share.tolist() == [0]

def a_report(*rows, **kw):
    facts = dict(eps=.05, budget=100, accuracy=.9, low=.8, high=.95, seen=50, seed=3, asked_about=('random masks',))
    return VideoReport(list(rows), CLIPS, torch.arange(4) % 2, [7, 5, 3, 1], facts, **kw)

def test_the_report_says_what_the_differences_say(tmp_path):
    rep = a_report(a_row(*ATTACK), a_row(*OTHER), a_row('white-box PGD', *OTHER[1:], asks=False), vocab=['up', 'down'])
    text = repr(rep)
    assert '90.0% (80.0% to 95.0%) of 50 clean clips' in text and '0.75 [0.30, 0.95]' in text
    assert 'mine against random masks: fooled +25.0 ± 25.0 points (no difference beyond 2 SE), -22 ± 20 queries' in text
    assert 'change of the 2 clips that both fooled -1.50 ± 0.50 (too few clips to tell)' in text
    assert rep.formatted().queries['white-box PGD'] == '' and rep.formatted()['Δ queries']['mine'] == ''
    assert len(rep.each) == 12 and rep.each.item.tolist()[:4] == [7, 5, 3, 1]
    assert rep.curve[rep.curve.attack == 'mine'].fooled.tolist() == [0, .25, .5, .75]
    assert set(rep.curve.attack) == {'mine', 'random masks'}        # the bound asks for no clip
    names = {p.name for p in rep.save(tmp_path)}
    assert names == {'video.csv', 'video_summary.csv', 'video_clips.csv', 'video_curve.csv', 'video.png',
                     'video_strips.png'} and all((tmp_path/o).stat().st_size > 50 for o in names)

@pytest.mark.parametrize('d,se,says', [(-3, 1, 'fewer'), (3, 1, 'more'), (1.9, 1, 'no difference beyond 2 SE'),
                                       (0, 0, 'the same on every clip'), (1, math.nan, 'one clip, no standard error'),
                                       (math.nan, math.nan, 'not to be said')])
def test_words(d, se, says): assert word(d, se, 'fewer', 'more') == says

def test_few_clips_say_little():
    "Student's t and the exact sign test, by hand and by chance"
    assert [reach(n) for n in (2, 4, 16, 10**6)] == pytest.approx([12.706, 3.182, 2.131, 1.96], abs=1e-3)
    assert math.isnan(reach(1)) and math.isnan(reach(0))
    for won,lost in ((0, 0), (1, 0), (4, 0), (0, 6), (5, 2), (3, 3)):
        n = won+lost
        tail = sum(math.comb(n, i) for i in range(min(won, lost)+1))/2**n
        assert sign_test(won, lost) == pytest.approx(min(1, 2*tail))
    assert word(3, 1, 'fewer', 'more', 3) == 'too few clips to tell' and word(3, 1, 'fewer', 'more', 9) == 'more'
    rng,said = np.random.default_rng(0),[]
    for _ in range(3000):           # nothing is different: of 2 clips 2 SE say so in 70 %, that many in 95 %
        v = rng.standard_normal(2)
        said.append(abs(v.mean()) > reach(2)*v.std(ddof=1)/2**.5)
    assert abs(np.mean(said)-.05) < 4*(.05*.95/3000)**.5

@pytest.mark.parametrize('n,says', [(4, 'too few clips to tell'), (6, 'more')])
def test_all_fooled_against_none_has_no_spread_and_still_says_little(n, says):
    "Four of four by chance alone: 1 in 8"
    mine = a_row('mine', [True]*n, [9]*n, [1.]*n, clips=CLIPS[:1].repeat(n, 1, 1, 1, 1))
    other = a_row('random masks', [False]*n, [9]*n, [1.]*n, clips=CLIPS[:1].repeat(n, 1, 1, 1, 1))
    d = paired(mine, other)
    assert d['pairs'] == n and d['d_fooled'] == 1 and d['d_fooled_se'] == 0 and d['d_fooled_p'] == 2/2**n
    facts = dict(eps=.05, budget=100, accuracy=.9, low=.8, high=.95, seen=50, seed=3, asked_about=('random masks',))
    rep = VideoReport([mine, other], CLIPS, torch.zeros(n).long(), list(range(n)), facts)
    assert f'fooled +100.0 ± 0.0 points ({says})' in repr(rep)

def test_an_attack_that_does_better_than_the_bound_is_told():
    rows = a_row(*ATTACK),a_row(*OTHER),a_row('white-box PGD', *OTHER[1:], asks=False)
    assert 'white-box PGD is no bound here: mine fooled more clips without' in repr(a_report(*rows))
    rows = *rows[:2],a_row('white-box PGD', *ATTACK[1:], asks=False)
    assert 'no bound here' not in repr(a_report(*rows))

def test_a_clip_without_a_step_has_no_mask():
    "Its area is not 0: it would make the masks of the controls small"
    row = a_row(*ATTACK, area=np.array([.3, 0., .5, .4]))
    d,plan = numbers(row),Plan(VideoAttack(DenseMasks(), **QUICK), ['random masks'])
    plan.see(row)
    assert d['area'] == pytest.approx(.4) == plan.area and math.isnan(row.area[1])

# --- pictures --------------------------------------------------------------------------------------------------------
def test_masks_are_drawn_where_they_were():
    masks = torch.zeros(4, 2, 2, 2)
    masks[0, 1, 0, 1] = .3                                  # frame 2, upper right, the most
    rep = a_report(a_row(*ATTACK, masks=masks), vocab=['up', 'down'])
    fig = rep.plot_clips(1)
    images = [ax.images[0].get_array() for ax in fig.axes]
    assert len(images) == 8                                 # four strips of two frames
    clip,where,changed,change = images[1::2]                # of frame 2
    red = np.asarray(where)
    assert red[0, 1, 0] > red[0, 1, 2]+.2 and np.allclose(red[1], .5) and np.allclose(red[0, 0], .5)
    assert np.allclose(images[2], .5) and np.allclose(clip, .5)     # nothing in frame 1
    assert np.allclose(changed, .5+1/255) and np.allclose(change, .5 + 1/255/.1)
    assert 'mine: up → up after 10 queries; mean change 1.0 of 255' in fig.subfigs[0].get_suptitle()
    with pytest.raises(ValueError, match="name of a row, got 'mien'. Did you mean 'mine'"): rep.plot_clips(row='mien')
    plt.close('all')

def test_frames_are_spread():
    assert spread_frames(16, 4) == [0, 5, 10, 15] and spread_frames(3, 8) == [0, 1, 2]

# --- a victim that needs no training ---------------------------------------------------------------------------------
class Quadrants(nn.Module):
    "Answers the brightest quarter of clips (b,1,t,h,w)"
    def __init__(self, scale=4., outputs=4):
        super().__init__()
        self.scale,self.more = nn.Parameter(torch.tensor(scale)),outputs-4
        self.calls = 0
    def forward(self, x):
        self.calls += 1
        z = self.scale*F.adaptive_avg_pool3d(x, (1, 2, 2)).flatten(1)
        return F.pad(z, (0, self.more), value=-50.)

def quadrants(n=60, t=6, size=10, wrong=0, seed=0):
    "Clips with one brighter quarter, uint8, and which it is; so many labels of the last clips are wrong"
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 4
    X = 120 + rng.integers(-4, 5, (n, t, size, size, 1))
    h = size//2
    for x,k in zip(X, y): x[:, h*(k//2):h*(k//2+1), h*(k%2):h*(k%2+1)] += 2
    y[n-wrong:] = (y[n-wrong:]+1) % 4
    return X.astype(np.uint8),y

def a_learner(n=40, wrong=0, outputs=4, **kw):
    X,y = quadrants(n, wrong=wrong)
    names = ['upper left', 'upper right', 'lower left', 'lower right']
    dls = clip_dls(*quadrants(16, seed=1), valid=(X, y), bs=16, vocab=names, device='cpu', **kw)
    return Learner(dls, Quadrants(outputs=outputs), loss_func=CrossEntropyLossFlat(), metrics=accuracy)

@pytest.mark.parametrize('stats', ['auto', None])
def test_clips_that_the_victim_is_right_on(stats):
    learn = a_learner(40, wrong=5, stats=stats)
    X,y = quadrants(40, wrong=5)
    with learn.no_bar(): valid = learn.validate()[1]
    learn.model.train()
    got = chosen_clips(learn, None, 20, 0)
    assert got.accuracy == pytest.approx(valid) == pytest.approx(35/40) and got.seen == 40
    assert got.low < 35/40 < got.high and got.notes == []
    assert len(set(got.ids)) == 20 and max(got.ids) < 35
    want = torch.tensor(X[got.ids]).permute(0, 4, 1, 2, 3)/255         # pixels, whatever Normalize does
    assert torch.allclose(got.clips, want, atol=1e-6) and got.y.tolist() == y[got.ids].tolist()
    assert chosen_clips(learn, None, 9, 0).ids == got.ids[:9]           # more clips begin with the same
    assert chosen_clips(learn, None, 20, 1).ids != got.ids
    assert learn.model.training                                         # as it was

def test_fewer_right_ones_than_asked_for_is_said():
    with pytest.warns(RobustWarning, match='Only 35 clips are classified correctly, of 64 asked for'):
        got = chosen_clips(a_learner(40, wrong=5), None, 64, 0)
    assert len(got.y) == 35 and sorted(got.ids) == list(range(35)) and 'Only 35' in got.notes[0]

def test_a_victim_that_does_not_work_is_refused():
    with pytest.raises(ValueError, match=r'right on at least 50.0% of clean clips \(twice chance for 4 classes\), got '
                                         r'45.0% of 40'): chosen_clips(a_learner(40, wrong=22), None, 8, 0)
    with pytest.raises(ValueError, match='It has 400 outputs for 4 classes'):
        chosen_clips(a_learner(40, wrong=40, outputs=400), None, 8, 0)
    assert chosen_clips(a_learner(40, wrong=20), None, 8, 0).accuracy == .5
    assert [least_accuracy(k) for k in (2, 3, 4, 400)] == pytest.approx([.75, 2/3, .5, .005])

def test_loaders_of_something_else_are_refused():
    with pytest.raises(TypeError, match=r'one input of clips, with 5 dimensions, got \[\(16, 1, 8, 8\)\]'):
        chosen_clips(tiny_learner(), None, 8, 0)
    learn = a_learner()
    for dl in learn.dls.loaders: dl.after_batch.fs = dl.after_batch.fs[1:]      # without FloatVideo
    with pytest.raises(ValueError, match='float pixels in .0,1. before NormalizeVideo, got torch.uint8'):
        chosen_clips(learn, None, 8, 0)

# --- controls --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('area', [.05, .19, .3, .7, 1.])
def test_random_masks_of_equal_area(area):
    masks = RandomOfArea(area)
    masks.begin(torch.rand(1, 8, 24, 24), torch.Generator().manual_seed(0))
    got = torch.stack([masks.draw().float().mean() for _ in range(600)])
    assert abs(got.mean()-area) < 3.5*got.std()/600**.5 + (.03 if area > .4 else .001)    # boxes are whole pixels
    assert got.std() > 0 or area > .4
    frames = torch.stack([masks.draw().any(2).any(1).sum() for _ in range(50)])
    assert frames.max()-frames.min() <= 1

@pytest.mark.parametrize('given,names', [(True, CONTROLS), (False, ()), (['white-box PGD', 'random masks'],
                                         ['random masks', 'white-box PGD']), ('dense NES', ['dense NES'])])
def test_controls_by_name(given, names): assert list(names_of(given)) == list(names)

# --- the whole report ------------------------------------------------------------------------------------------------
QUICK = dict(eps=.05, alpha=.03, n=12, budget=92, step='sign', seed=3)

@pytest.fixture(scope='module')
def whole():
    learn = a_learner(40, wrong=5)
    return learn,video_report(learn, AstFocus(**QUICK), 9, alphas=(.02,), noise=4, seed=5)

def test_every_row_is_there_within_the_budget(whole):
    learn,rep = whole
    assert list(rep.table.index) == ['AstFocus', 'random masks', 'dense NES', 'centre box', 'motion mask',
                                     'dense NES, step 0.02', 'sign noise', 'white-box PGD']
    t = rep.table
    assert (t.clips == 9).all() and t.fooled['white-box PGD'] == 1
    assert t.fooled['AstFocus'] > .5                        # so that there is something to compare
    asked = rep.each[rep.each.attack != 'white-box PGD'].queries
    assert 2 <= asked.min() and asked.max() <= 92 and rep.rows[-2].queries.max() <= 5     # 1 + 4 draws
    assert t.area['dense NES'] == 1 and t['queries'].isna().tolist() == [False]*7 + [True]
    masked = t.area[['random masks', 'centre box', 'motion mask']]
    assert np.allclose(masked, t.area['AstFocus'], atol=.06)        # whole pixels of ten
    assert rep.stopped is None and set(rep.ids) <= set(range(35))

def test_its_numbers_are_those_of_its_clips(whole):
    learn,rep = whole
    clips = chosen_clips(learn, None, 9, 5).clips
    box = BlackBox(learn)
    e = rep.each.set_index(['attack', 'item'])
    for row in rep.rows:
        adv,x = row.adv,clips[:len(row.adv)]
        assert (adv-x).abs().max() <= .05+1e-6 and adv.min() >= 0 and adv.max() <= 1
        assert row.change[:8] == pytest.approx(255*(adv-x).abs().mean((1, 2, 3, 4)).numpy(), rel=1e-4)
        assert box(adv).argmax(1).tolist() == row.answers[:8].tolist()
        assert (row.answers != rep.y.numpy()).tolist() == row.success.tolist()
        mine = e.loc[row.name]
        assert rep.table.fooled[row.name] == mine.success.mean() and rep.table.ssim[row.name] == mine.ssim.mean()
    d = (e.loc['AstFocus'].queries - e.loc['dense NES'].queries)
    assert rep.table.d_queries['dense NES'] == d.mean() and rep.table.d_queries_se['dense NES'] == d.sem()

def test_the_bound_tells_its_steps(whole):
    told = [o for o in whole[1].notes if o.startswith('white-box PGD')]
    assert len(told) == 1 and '1.00 with eps/1' in told[0] and 'with eps/8; the row has eps/' in told[0]

def test_pictures_of_a_report(whole):
    rep = whole[1]
    fig = rep.plot()
    assert len(fig.axes) == 2 and [t.get_text() for t in fig.legends[0].get_texts()] == list(rep.table.index)
    ends = {o.get_label(): o.get_xdata()[-1] for o in fig.axes[0].lines}
    failed = [r for r in rep.rows if r.asks and not r.success.all()]
    assert failed and all(ends[r.name] == r.queries.max() for r in failed)     # no line where nothing was asked
    assert all(ends[r.name] == 92 for r in rep.rows if r.asks and r.success.all())
    assert len(rep.plot_clips(2, 'dense NES', 3).axes) == 2*4*3
    plt.close('all')

def without_time(rep): return rep.each.drop(columns='seconds')

@pytest.mark.slow
def test_same_seed_same_report_and_the_learner_stays(whole):
    learn = a_learner(40, wrong=5)
    learn.model.train()
    before,draw = params(learn),torch.get_rng_state()
    rep = video_report(learn, AstFocus(**QUICK), 9, alphas=(.02,), noise=4, seed=5)
    assert without_time(rep).equals(without_time(whole[1]))
    assert torch.equal(before, params(learn)) and torch.equal(draw, torch.get_rng_state())
    assert learn.model.training and learn.model.scale.grad is None
    assert not learn.model._forward_hooks and not learn.model._forward_pre_hooks
    few = video_report(learn, AstFocus(**QUICK), 5, controls='dense NES', seed=5)
    assert without_time(few)[:5].equals(without_time(rep)[:5])      # more clips begin with the same
    assert list(few.table.index) == ['AstFocus', 'dense NES']

def test_share_of_the_time_in_the_victim():
    learn = a_learner(40)
    forward = learn.model.forward
    def slow(x):
        sleep(.01)
        return forward(x)
    learn.model.forward = slow
    rep = video_report(learn, VideoAttack(DenseMasks(), **QUICK), 2, controls=())
    slept,whole = .01*(learn.model.calls-4),rep.rows[0].seconds.sum()      # three batches before, one of them twice
    assert rep.table.index[0] == 'VideoAttack(DenseMasks)' and len(rep.told()) == 2
    assert slept <= rep.rows[0].in_victim*whole + 1e-9 and .3 < rep.rows[0].in_victim <= 1

# --- Ctrl-C ----------------------------------------------------------------------------------------------------------
def interrupted(learn, at, **kw):
    "A report during which Ctrl-C is pressed at call `at` of the victim, from the first attack on"
    forward,seen = learn.model.forward,[0]
    def stops(x):
        seen[0] += 1
        if seen[0] == at+4: raise KeyboardInterrupt         # the clean clips: 3 batches, one of them twice
        return forward(x)
    learn.model.forward = stops
    return video_report(learn, VideoAttack(DenseMasks(), **QUICK), 4, **kw),seen[0]

def test_ctrl_c_returns_what_is_finished():
    learn = a_learner(40)
    full = video_report(learn, VideoAttack(DenseMasks(), **QUICK), 4, controls=('random masks', 'motion mask'))
    asked = [int(r.queries.sum()) for r in full.rows]
    calls = [sum(1 + 2*int((q-1)/13) for q in r.queries) for r in full.rows]     # one a question of one, one a step
    assert asked[0] > 4
    with pytest.warns(RobustWarning, match='Interrupted'):
        rep,_ = interrupted(learn, calls[0]+calls[1]-1, controls=('random masks', 'motion mask'))
    assert rep.rows[0].in_victim > 0 and math.isnan(rep.rows[1].in_victim)      # whose share is known
    assert rep.table.clips.tolist() == [4, 3] and without_time(rep).equals(without_time(full).iloc[:7])
    assert 'random masks has finished 3 of 4 clips. Left out: motion mask.' in rep.stopped and rep.stopped in repr(rep)
    assert learn.model.training and not learn.model._forward_hooks

@pytest.mark.parametrize('at', ['name', 'tick'])
def test_ctrl_c_between_two_attacks(at, monkeypatch):
    "While the bar is drawn"
    seen = []
    def stops(*args):
        assert args
        seen.append(1)
        if len(seen) == 2: raise KeyboardInterrupt
    monkeypatch.setattr(f'fastrobust.systems.video.report.Bar.{at}', stops)
    with pytest.warns(RobustWarning, match='Interrupted'):
        rep = video_report(a_learner(), VideoAttack(DenseMasks(), **QUICK), 2, controls=('random masks', 'motion mask'))
    assert rep.table.clips.tolist() == [2]*(1 if at == 'name' else 2) and 'Left out: ' in rep.stopped

def test_ctrl_c_after_one_clip():
    learn = a_learner()
    full = video_report(learn, VideoAttack(DenseMasks(), **QUICK), 4, controls=False)
    with pytest.warns(RobustWarning) as told:
        rep,_ = interrupted(learn, 1 + 2*int((full.rows[0].queries[0]-1)/13) + 2)
    assert any('VideoAttack(DenseMasks) has finished 1 of 4 clips' in str(o.message) for o in told)
    assert rep.table.clips.tolist() == [1] and 'dense NES' in rep.stopped
    rep.plot(), rep.plot_clips(), repr(rep)
    plt.close('all')

def test_ctrl_c_before_anything_is_finished():
    with pytest.raises(KeyboardInterrupt), pytest.warns(RobustWarning): interrupted(a_learner(40), 1)

# --- at the door -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('kw,err,says', [
    (dict(attack='AstFocus'), TypeError, "`attack` as a VideoAttack such as AstFocus.., got 'AstFocus'"),
    (dict(attack=AstFocus), TypeError, 'got the class AstFocus'),
    (dict(attack=AstFocus(eps=0)), ValueError, '`eps` above 0, got 0'),
    (dict(n=1), ValueError, '`n` must be a whole number from 2 on'),
    (dict(controls=['dense']), ValueError, "names of `controls`, got 'dense'. Did you mean 'dense NES'"),
    (dict(alphas=(.1, 0)), ValueError, '`alphas` above 0 and finite, got 0'),
    (dict(alphas=(.1, math.inf)), ValueError, '`alphas` above 0 and finite, got inf'),
    (dict(noise=0), ValueError, '`noise` must be a whole number from 1 on'),
    (dict(seed=-1), ValueError, '`seed` must be')])
def test_refused_before_anything_is_asked(kw, err, says):
    learn = a_learner()
    with pytest.raises(err, match=says): video_report(learn, **kw)
    assert learn.model.calls == 0

def test_only_learners():
    with pytest.raises(TypeError, match='expected a fastai Learner'): video_report(Quadrants())

@pytest.mark.parametrize('lone', ['all', 'some'])
def test_a_victim_that_answers_by_the_batch(lone):
    learn = a_learner()
    forward = learn.model.forward
    def moody(x):
        z = forward(x)
        rolled = len(x) == 1 and (lone == 'all' or z.argmax() == 0)
        return z.roll(1, 1) if rolled else z
    learn.model.forward = moody
    go = lambda: video_report(learn, VideoAttack(DenseMasks(), **QUICK), 8, controls=False)
    if lone == 'all':
        with pytest.raises(ValueError, match='answers by the batch.*wrong on 8 that it was right on'): go()
        return
    rep = go()
    k = int((rep.y == 0).sum())
    assert 0 < k < 8 and any(f'wrong on {k} that' in o and 'count as not fooled' in o for o in rep.told())
    assert not rep.rows[0].success[rep.y.numpy() == 0].any()
    i = int((rep.y == 0).nonzero()[0])
    told = [o.get_suptitle() for o in rep.plot_clips(8).subfigs]
    assert 'upper left, answered upper right from the start' in told[i] and 'still answered' not in told[i]
    assert np.isnan(rep.rows[0].area[i]) and rep.table.area.iloc[0] == 1
    plt.close('all')

def test_a_victim_that_answers_by_chance_is_told():
    def notes(spread):
        learn = a_learner()
        forward = learn.model.forward
        learn.model.forward = lambda x: forward(x) + spread*torch.randn(len(x), 4)
        return video_report(learn, VideoAttack(DenseMasks(), **QUICK), 8, controls=False).told()
    assert any('The victim answers by chance' in o for o in notes(.02))
    assert not any('by chance' in o for o in notes(0.))

def test_a_victim_without_a_gradient_is_refused_before_the_others_run():
    learn = a_learner()
    forward = learn.model.forward
    def shut(x):
        with torch.no_grad(): return forward(x)
    learn.model.forward = shut
    with pytest.raises(TypeError, match='answers have a gradient, got Learner, .* Leave out the white-box attack'):
        video_report(learn, VideoAttack(DenseMasks(), **QUICK), 4)
    assert learn.model.calls == 5           # three batches, one of them twice, and the first clip

def test_giving_up_is_told():
    few = dict(eps=.0005, n=2, budget=200)
    def told(**kw): return video_report(a_learner(), VideoAttack(DenseMasks(), **few, **kw), 4, controls=False).told()
    assert any('VideoAttack(DenseMasks): gave up on 4 clips before the budget was spent (after 3 steps' in o
               for o in told(patience=3))
    assert not any('gave up' in o for o in told(patience=None))

def test_clips_of_the_training_are_said():
    learn = a_learner()
    with pytest.warns(RobustWarning, match='clips of the training set'):
        rep = video_report(learn, VideoAttack(DenseMasks(), **QUICK), 4, dl=learn.dls.train, controls=False)
    assert any('clips of the training set' in o for o in rep.told())

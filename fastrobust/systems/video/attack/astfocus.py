"AstFocus: a black-box attack on one's own video model within masks that two agents learn"
# Wei, Wang, Yan, AstFocus: Efficient Robustness Assessment via Adversarial Spatial-Temporal Focus
# on Videos, TPAMI 45(9), 2023, https://arxiv.org/abs/2301.00896
from fastrobust.systems.video.attack.agents import AgentMasks
from fastrobust.systems.video.attack.loop import VideoAttack

__all__ = ['AstFocus']

class AstFocus(VideoAttack):
    """How robust is one's own video model, asked within a budget, where two agents choose what is changed?

    The steps of `VideoAttack` within frames and boxes of `AgentMasks`, which learn anew for each clip
    (https://arxiv.org/abs/2301.00896). Set it beside 'random masks' of `video_report`, of the same
    area by chance alone: on moving shapes those fooled as many clips by the same change, and asked
    2 to 3 % less (nbs/benchmarks/RESULTS.md)."""
    def __init__(self,
        eps=.05,        # Largest change of a pixel, in [0,1]; the paper's
        alpha=.01,      # Step of PGD; the paper's without a target
        n=60,           # Questions of a gradient, even; the paper's
        budget=3000,    # Questions a clip may cost; the paper allows 15,000
        seed=0,         # Of all chance; each clip has a stream of its own
        *,
        grid=7,         # Boxes along each side; the paper's
        patch=.58,      # Side of a box by that of a frame, in (0,1]; the paper's 65 of 112
        frames=.6,      # Most frames by those of the clip, in (0,1], 2 at least; the paper's 10/16
        policy='tabular', # Or 'recurrent': LSTMs on features as in the paper, in place of a table
        # nn.Module: frames (t,c,h,w) in [0,1] -> (t,d) or (t,d,h,w), never trained; None: means of cells
        encoder=None,
        rates=None,     # Of Adam for (frames, boxes), see `AgentMasks`; (0, 0): they learn nothing
        floor=.3,       # Share of its first chances that a policy keeps, in [0,1); the paper: 0
        **kwargs        # sigma, step, patience, rank, min_alpha, rule of `VideoAttack`
    ):
        masks = AgentMasks(grid, patch, frames, policy, encoder, rates, floor)
        super().__init__(masks, eps=eps, alpha=alpha, n=n, budget=budget, seed=seed, **kwargs)

"One closed-form head of several processes: each learns its own rows, their sums are added"
import torch
import torch.distributed as dist
from fastai.torch_core import num_distrib
from fastrobust.inference.analytic import AnalyticHead, need_same

__all__ = []

def _gathered(o):
    "An object of each process, in the order of their ranks"
    found = [None]*dist.get_world_size()
    dist.all_gather_object(found, o)
    return found

def _summed(x, device):
    "The sum of a tensor over all processes"
    total = x.to(device, copy=True)
    dist.all_reduce(total)
    return total.to(x.device)

def over_ranks(
    head    # AnalyticHead of this process; it stays as it is
)->AnalyticHead:
    """The head of the rows of all processes, the same in each: G and Q are summed. Each row must be in one process:
    fastai's DistributedDL repeats some. All must start from the same constants, as `empty()` of one head"""
    if num_distrib() < 2: return head
    s = head.stats
    mine = head.empty()
    facts = _gathered((mine, s.classes))
    # refused in every process, or the others would wait for ever
    for other,_ in facts[1:]: need_same(facts[0][0], other)
    union = list(dict.fromkeys(k for _,classes in facts for k in classes))
    new = head.clone()
    t = new.stats = head.empty().stats
    t.grow(torch.tensor(union, dtype=torch.long))
    # NCCL sums on GPUs alone
    device = torch.device('cuda') if dist.get_backend() == 'nccl' else t.device
    at = [union.index(k) for k in s.classes]
    t.Q[:, at],t.counts[at] = s.Q,s.counts
    for i,G in zip(at if s.balance else [0], s.grams): t.grams[i] = G
    t.Q,t.counts = _summed(t.Q, device),_summed(t.counts, device)
    t.grams = [_summed(G, device) for G in t.grams]
    return new

"""dpo.json: the DPO loss, rewards and accuracy that TRL computes for given log-probs.

    python make_goldens.py        writes dpo.json beside this file

TRL's own loss (DPOTrainer._compute_loss) runs here with a model in its place that answers with the log-probs: the
trainer object is made without its constructor, which would want a model, a data set and an output folder. All numbers
are float64. Needs torch, transformers, accelerate, datasets and trl==1.16.0.
"""

import json
import os
from collections import defaultdict
from types import SimpleNamespace

import torch
import trl
from accelerate import Accelerator
from trl import DPOTrainer

TRL = "1.16.0"
HERE = os.path.dirname(os.path.abspath(__file__))
TOKENS = 6


def trainer(beta):
    """A DPOTrainer with what _compute_loss reads, everything at its default but beta."""
    t = DPOTrainer.__new__(DPOTrainer)
    t.model = SimpleNamespace(training=False)
    t.accelerator = Accelerator(cpu=True)
    t.beta, t.loss_types, t.loss_weights = beta, ["sigmoid"], [1.0]
    t.f_divergence_type, t.ld_alpha, t.use_weighting, t.aux_loss_enabled = "reverse_kl", None, False, False
    t.precompute_ref_logps = True
    t._metrics, t._total_train_tokens, t._tp_size = {"train": defaultdict(list), "eval": defaultdict(list)}, 0, 1
    return t


def batch(pairs, beta, spread, seed):
    """One batch: random log-probs of every token of 2*pairs responses, and what TRL makes of their sums."""
    rng = torch.Generator().manual_seed(seed)
    tokens = -spread * torch.rand((2 * pairs, TOKENS), generator=rng, dtype=torch.float64)
    ref = tokens.sum(1) + torch.randn(2 * pairs, generator=rng, dtype=torch.float64) * spread
    ref[0], ref[pairs] = tokens[0].sum(), tokens[pairs].sum()  # a pair at step 0: margin 0, accuracy 0
    tokens.requires_grad_(True)
    ones = torch.ones((2 * pairs, TOKENS + 1), dtype=torch.long)
    zeros = torch.zeros_like(tokens)
    answer = SimpleNamespace(log_probs=tokens, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())
    t = trainer(beta)
    loss = t._compute_loss(
        lambda **_: answer,
        dict(input_ids=ones, attention_mask=ones, completion_mask=ones, ref_chosen_logps=ref[:pairs], ref_rejected_logps=ref[pairs:]),
        return_outputs=False,
    )
    loss.backward()
    sums, grads = tokens.detach().sum(1), tokens.grad[:, 0]
    metric = lambda name: t._metrics["eval"][name][0]
    return dict(
        beta=beta, chosen=sums[:pairs].tolist(), rejected=sums[pairs:].tolist(), ref_chosen=ref[:pairs].tolist(),
        ref_rejected=ref[pairs:].tolist(), loss=loss.item(), grad_chosen=grads[:pairs].tolist(),
        grad_rejected=grads[pairs:].tolist(), rewards_chosen=metric("rewards/chosen"),
        rewards_rejected=metric("rewards/rejected"), accuracies=metric("rewards/accuracies"), margins=metric("rewards/margins"),
    )


def main():
    assert trl.__version__ == TRL, trl.__version__
    batches = [batch(1, 0.1, 1.0, 1), batch(4, 0.1, 5.0, 2), batch(7, 0.5, 20.0, 3), batch(16, 5.0, 30.0, 4)]
    with open(os.path.join(HERE, "dpo.json"), "w") as f:
        json.dump({"trl": trl.__version__, "torch": torch.__version__, "batches": batches}, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main()

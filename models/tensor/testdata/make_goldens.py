"""Writes optimizers.json: AdamW, RMSprop and clip_grad_norm_ of PyTorch over a few steps, to hold ours against.

Run: python make_goldens.py (any PyTorch 2; the version is stored in the file).
"""

import json
import pathlib

import torch

SHAPES = {"weight": [3, 4], "bias": [5], "scale": []}
STEPS = 4
CASES = [
    ("adamw", dict(betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)),
    ("adamw", dict(betas=(0.8, 0.95), eps=1e-6, weight_decay=0.0)),
    ("rmsprop", dict(alpha=0.99, eps=1e-8, weight_decay=0.0)),
    ("rmsprop", dict(alpha=0.9, eps=1e-6, weight_decay=0.1)),
]


def flat(t):
    return t.detach().to(torch.float64).reshape(-1).tolist()


def case(kind, options, dtype, clip):
    torch.manual_seed(7)
    params = [torch.nn.Parameter(torch.randn(s, dtype=dtype)) for s in SHAPES.values()]
    make = torch.optim.AdamW if kind == "adamw" else torch.optim.RMSprop
    optimizer = make(params, lr=1.0, foreach=False, **options)
    out = dict(
        kind=kind,
        dtype=str(dtype).removeprefix("torch."),
        clip=clip,
        options={k: list(v) if isinstance(v, tuple) else v for k, v in options.items()},
        names=list(SHAPES),
        shapes=list(SHAPES.values()),
        start=[flat(p) for p in params],
        steps=[],
    )
    for step in range(STEPS):
        lr = 0.05 / (1 + step)
        optimizer.param_groups[0]["lr"] = lr
        for p in params:
            # Some steps are under the clipping limit, some over it.
            p.grad = torch.randn_like(p) * (0.05 if step % 2 else 1.0)
        grads = [flat(p.grad) for p in params]
        norm = None
        if clip:
            norm = torch.nn.utils.clip_grad_norm_(params, clip, foreach=False).item()
        clipped = [flat(p.grad) for p in params]
        optimizer.step()
        keys = ["exp_avg", "exp_avg_sq"] if kind == "adamw" else ["square_avg"]
        state = {f"{k}.{n}": flat(optimizer.state[p][k]) for k in keys for n, p in zip(SHAPES, params)}
        out["steps"].append(
            dict(lr=lr, grads=grads, norm=norm, clipped=clipped, params=[flat(p) for p in params], state=state)
        )
    return out


def main():
    cases = [
        case(kind, options, dtype, clip)
        for kind, options in CASES
        for dtype in (torch.float64, torch.float32)
        for clip in (None, 1.0)
    ]
    path = pathlib.Path(__file__).parent / "optimizers.json"
    lines = ",\n".join(json.dumps(c) for c in cases)
    path.write_text(f'{{"torch": "{torch.__version__}", "cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()

"""Speed, side by side with PyTorch and transformers: equal weights, outputs compared first.

    python -m experiments.benchmarks --only vit_forward,gpt_decode --json out.json
    python -m experiments.benchmarks --json out.json --markdown page.md

Each part runs in a process of its own, `ours`, torch eager and torch.compile in turns. What was
measured is written after each row; parts that no longer fit into --minutes are named. Needs jax,
flax, optax, torch and transformers; the loader and the checkpoints need the data libraries too.
"""

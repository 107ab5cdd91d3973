"""What is measured of models that do not caption: each file has `evaluate`, for its own kind.

`Evaluation.figures` go to evaluation.json; captions and answers are measured in `mlm_jax.evaluate`.
"""

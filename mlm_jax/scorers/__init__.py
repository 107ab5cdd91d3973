"""Scores that others publish, to the same digits, without Java; `experiments/score.py` asks them.

captions   BLEU, ROUGE-L, CIDEr and CIDEr-D (`ngrams`, `rouge`) as the COCO caption scorer has them,
           of the words that its tokenizer makes (`ptb`), and the exact part of METEOR (`meteor`)
answers    VQA accuracy with the challenge's own normalisation; `vqa` of whole files
retrieval  recall of captions by pictures and of pictures by captions
objects    POPE: is there a dog in the picture?
files      what is read, and what is wrong with it

Every figure comes with a 95 % interval from pictures drawn again (`mlm_jax.metrics.bootstrap`).
"""

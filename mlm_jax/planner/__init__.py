"""What a training step would take on hardware that is not at hand.

`program` compiles the real step for simulated devices and reads it (`hlo`); `predict` says how long
it takes on a row of `hardware`; `published` holds what others measured, to hold `predict` against.
"""

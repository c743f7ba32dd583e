"""How good a model is: metrics, the judge's verdict, retention over versions, calibration.

What never lives here: training, serving, writing versions.
"""

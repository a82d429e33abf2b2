"""Public silent bugs of training, re-enacted small, each beside its healthy twin; and what people rightly do.

python -m experiments.silent_bugs [--out runs/silent_bugs]
python -m analysis.silent_bugs runs/silent_bugs
"""

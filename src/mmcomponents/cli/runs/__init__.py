"""Work of the verbs that answer, score and plan, apart from their options.

    generate, evaluate, plan ── options ──► generate_run, evaluate_run, plan_run

Imported after the options are parsed, so that help does not import torch.
"""

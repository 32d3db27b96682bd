"""`mmcomponents ablate`: runs that differ in parts or settings, their results in one table and one plot.

file and flags ── ablation_spec ──► Ablation ── ablation_costs ──► parameters, FLOPs (plan)
│
└── ablation_runs ──► OUT/VARIANT/seed-N: fit, test (processes)
│
table.md, table.csv, plot.png  ◄── ablation_report ◄── ablation_results
"""

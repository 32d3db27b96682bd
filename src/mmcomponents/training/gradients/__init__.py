"""Callbacks that look at the gradients of a step before it is taken.

backward ── gradients by slot ──► GradientWatch (none), NonFiniteGuard (NaN, infinity), GradientNorms (logged) ──► step
"""

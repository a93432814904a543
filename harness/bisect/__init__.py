"""Bisect: which commit made a finding. The search is pure; ``probe`` builds and looks."""

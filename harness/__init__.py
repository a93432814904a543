"""Orc Harness: does this kernel unwind on every platform it patches itself for?"""

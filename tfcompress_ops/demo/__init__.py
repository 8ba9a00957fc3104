"""The demonstration: handwritten digits, a classifier, and what compressing it buys.

`run` trains the classifier, compresses it with every variant of every registered format, measures
them all side by side, and writes the models, a JSON file of results and one self-contained page.
"""

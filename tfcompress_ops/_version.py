"""The version of this package: the only place that states it.

Major and minor are those of the TensorFlow that this source builds against, the third number counts
this package's own releases for it. CONTRIBUTING.md says why.
"""

__version__ = "2.21.0"

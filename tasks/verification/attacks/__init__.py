"""Membership-inference attacks and the exposure of those who stay: reported beside the verdict,
never a reason to pass.

A pure core, arrays in, values out. An attack gives each record a score, higher = more member-like.
One figure of one model means little by itself: records scored by one model are correlated, records
of one person are alike, and an attack may be fooled in either direction. So `examination` runs the
same attack on every model that was retrained without the forget set, each left out of the
references that judge it, and the released model's figure stands beside the lowest and highest of
theirs, the band. The unit of replication is the model: beside M retrained models a further one
falls outside the band with a probability of about 2 / (M + 1) or less, be the attack good or bad.
Less, because a reference is compared with others that it is not among, which widens the band a
little.
"""

__all__ = ["examination", "exposure", "lira", "population", "rmia", "roc", "rows"]

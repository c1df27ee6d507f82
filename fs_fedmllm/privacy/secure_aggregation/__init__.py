"""Secure aggregation: the server learns the sum of the updates and nothing about one of them.

Bonawitz, Ivanov, Kreuter, Marcedone, McMahan, Patel, Ramage, Segal and Seth, "Practical Secure Aggregation for
Privacy-Preserving Machine Learning", CCS 2017, the version for an honest-but-curious server. Four exchanges:

keys     each client sends two fresh public keys; the server sends all of them to all
shares   each client splits the secrets of its masks among the others, encrypted for each; the server passes them on
masked   each client sends its quantised update plus one mask per other client (they cancel) plus one of its own
unmask   of a client that is there, the others give shares of its own mask; of one that is gone, shares of the key of
         its pairwise masks; never both, or the server could open its update

``client`` and ``server`` are state machines over plain values and send nothing themselves; engines carry the messages.
"""

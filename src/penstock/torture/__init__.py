"""A campaign against ourselves: kill, cut, starve and freeze while changes flow, then compare.

The truth is a ledger that the *source* keeps by itself: triggers give every row of a key the next
version of that key and a proof of its values, in the transaction that writes it. From then on loss,
repetition and wrong order can be told from the log and the live tables alone, without our own code.
"""

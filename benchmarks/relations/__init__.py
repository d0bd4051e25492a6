"""The relations of the papers of LTL, tandem learning, PTL and SLTT, for benchmarks/rules.py."""

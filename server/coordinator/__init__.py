"""The coordinator's runs: who takes part, secure sums from question to total, what is charged, what is left of a run.

Flower starts `app`. `server.fleet` submits runs and reads their records, the dashboard reads them too.
"""

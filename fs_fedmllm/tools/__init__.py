"""What is used beside a run: planner, doctor, judge, sweeps, report and adapters; no run imports it."""
